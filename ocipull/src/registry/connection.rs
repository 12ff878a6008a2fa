//! Requests to one repository of a registry: who we are, what an answer means, and when to ask again.

use std::error::Error as _;
use std::fmt;
use std::future::Future;
use std::sync::Mutex;
use std::time::Duration;

use oci_client::RegistryOperation;
use oci_client::client::{ClientConfig, ClientProtocol};
use oci_client::errors::OciDistributionError;
use oci_client::secrets::RegistryAuth;
use reqwest::{Response, StatusCode, header};
use serde::Deserialize;
use tokio::runtime::Runtime;

use super::trusted::Trusted;
use crate::error::is_transient_status;
use crate::source::MAX_MANIFEST;
use crate::{Cause, ConnectHint, Digest, Document, Error, Options};

const ACCEPT_MANIFESTS: &str = "application/vnd.oci.image.index.v1+json, \
    application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, \
    application/vnd.docker.distribution.manifest.v2+json";

const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);

/// How long nothing may come.
const READ_TIMEOUT: Duration = Duration::from_secs(60);

/// How much of an error's text is read, in bytes.
const MAX_ERROR: usize = 64 << 10;

/// A repository, and all that it takes to ask for things in it.
pub(super) struct Connection {
    /// Always there until it is dropped.
    runtime: Option<Runtime>,
    http: reqwest::Client,
    /// Does the token exchange, and nothing else: it reads manifests without a bound and cannot say why a download ended.
    login: oci_client::Client,
    image: oci_client::Reference,
    credentials: RegistryAuth,
    /// The address of the repository, without a slash at its end.
    base: String,
    authorization: Mutex<Authorization>,
    pub(super) retries: u32,
}

#[derive(Clone)]
enum Authorization {
    None,
    Basic(String, String),
    Bearer(String),
}

/// A manifest or an index as it came.
pub(super) struct Answer {
    pub(super) bytes: Vec<u8>,
    pub(super) media_type: Option<String>,
    /// What the registry says its digest is.
    pub(super) digest: Option<Digest>,
}

/// Why a request failed, and whether to ask again.
pub(super) struct Failure {
    pub(super) error: Error,
    pub(super) retry: bool,
    /// When the server wants to be asked again.
    after: Option<Duration>,
}

impl Failure {
    fn last(error: Error) -> Self {
        Self {
            error,
            retry: false,
            after: None,
        }
    }

    pub(super) fn transient(error: Error) -> Self {
        Self {
            error,
            retry: true,
            after: None,
        }
    }

    /// How long to wait before attempt number `attempt`, counted from 0.
    pub(super) fn delay(&self, attempt: u32) -> Duration {
        const FIRST: Duration = Duration::from_millis(200);
        const MOST: Duration = Duration::from_secs(10);
        let delay = FIRST.saturating_mul(1 << attempt.min(16)).min(MOST);
        self.after.unwrap_or(delay).min(Duration::from_secs(60))
    }
}

impl Connection {
    pub(super) fn new(host: &str, repository: &str, options: &Options) -> Result<Self, Error> {
        let credentials = options.credentials.find(host, repository)?;
        let image = oci_client::Reference::with_tag(
            host.to_owned(),
            repository.to_owned(),
            "latest".to_owned(),
        );
        let (protocol, scheme) = match options.plain_http {
            true => (ClientProtocol::Http, "http"),
            false => (ClientProtocol::Https, "https"),
        };
        let base = format!("{scheme}://{}/v2/{repository}", image.resolve_registry());
        let cannot = |error: Cause| Error::Connect {
            host: host.to_owned(),
            hint: ConnectHint::None,
            source: error,
        };
        let trusted = Trusted::read(&options.certificates)?;
        let http = reqwest::Client::builder()
            .tls_certs_merge(trusted.http)
            .user_agent(concat!("ocipull/", env!("CARGO_PKG_VERSION")))
            .https_only(!options.plain_http)
            .connect_timeout(CONNECT_TIMEOUT)
            .read_timeout(READ_TIMEOUT)
            // Digests are of the bytes as they are stored.
            .no_gzip()
            .no_deflate()
            .no_brotli()
            .no_zstd()
            .build()
            .map_err(|error| cannot(Cause::new(error)))?;
        let login = ClientConfig {
            protocol,
            extra_root_certificates: trusted.login,
            connect_timeout: Some(CONNECT_TIMEOUT),
            read_timeout: Some(READ_TIMEOUT),
            ..ClientConfig::default()
        };
        let login =
            oci_client::Client::try_from(login).map_err(|error| cannot(Cause::new(error)))?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("ocipull-net")
            .enable_io()
            .enable_time()
            .build()
            .map_err(|source| Error::Thread { source })?;
        Ok(Self {
            runtime: Some(runtime),
            http,
            login,
            image,
            credentials,
            base,
            authorization: Mutex::new(Authorization::None),
            retries: options.retries,
        })
    }

    /// Waits for `future` on the calling thread.
    pub(super) fn wait<T>(&self, future: impl Future<Output = T>) -> Option<T> {
        Some(self.runtime.as_ref()?.block_on(future))
    }

    /// The manifest or index that `name`, a tag or a digest, names.
    pub(super) fn manifest(&self, name: &str) -> Result<Answer, Error> {
        let url = format!("{}/manifests/{name}", self.base);
        let mut attempt = 0;
        loop {
            let failure = match self.wait(self.get_manifest(&url)) {
                Some(Ok(answer)) => return Ok(answer),
                Some(Err(failure)) => failure,
                None => return Err(Error::Failed),
            };
            if !failure.retry || attempt >= self.retries {
                return Err(failure.error);
            }
            tracing::debug!(url, error = %failure.error, "asking again");
            std::thread::sleep(failure.delay(attempt));
            attempt += 1;
        }
    }

    async fn get_manifest(&self, url: &str) -> Result<Answer, Failure> {
        let response = self.get(url, Some(ACCEPT_MANIFESTS), 0).await?;
        let text = |name: &str| Some(response.headers().get(name)?.to_str().ok()?.to_owned());
        let media_type = text("content-type");
        // One in an algorithm that we do not know says nothing to us.
        let digest = text("docker-content-digest").and_then(|digest| digest.parse().ok());
        let (bytes, complete) = bounded(response, MAX_MANIFEST as usize)
            .await
            .map_err(|error| self.broken(url, 0, error))?;
        if !complete {
            let (document, limit) = (Document::Manifest, MAX_MANIFEST);
            return Err(Failure::last(Error::TooLarge { document, limit }));
        }
        Ok(Answer {
            bytes,
            media_type,
            digest,
        })
    }

    /// The address of a blob.
    pub(super) fn blob_url(&self, digest: &Digest) -> String {
        format!("{}/blobs/{digest}", self.base)
    }

    /// Asks for `url` from byte `offset` on; logs in where that is asked for.
    pub(super) async fn get(
        &self,
        url: &str,
        accept: Option<&str>,
        offset: u64,
    ) -> Result<Response, Failure> {
        let mut response = self.send(url, accept, offset).await?;
        if response.status() == StatusCode::UNAUTHORIZED && self.log_in().await? {
            response = self.send(url, accept, offset).await?;
        }
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let after = retry_after(&response);
        let (body, _) = bounded(response, MAX_ERROR).await.unwrap_or_default();
        let message = message(&body);
        let host = self.image.registry().to_owned();
        let error = match status.as_u16() {
            401 | 403 => Error::Unauthorized {
                host,
                repository: self.image.repository().to_owned(),
                message,
            },
            404 => Error::NotFound {
                host,
                name: self.name_in(url),
                message,
            },
            status => Error::Http {
                url: url.to_owned(),
                status,
                message,
            },
        };
        let retry = is_transient_status(status.as_u16());
        Err(Failure {
            error,
            retry,
            after,
        })
    }

    async fn send(
        &self,
        url: &str,
        accept: Option<&str>,
        offset: u64,
    ) -> Result<Response, Failure> {
        let mut request = self.http.get(url);
        if let Some(accept) = accept {
            request = request.header(header::ACCEPT, accept);
        }
        if offset > 0 {
            request = request.header(header::RANGE, format!("bytes={offset}-"));
        }
        request = match self.authorization() {
            Authorization::None => request,
            Authorization::Basic(username, password) => {
                request.basic_auth(username, Some(password))
            }
            Authorization::Bearer(token) => request.bearer_auth(token),
        };
        request
            .send()
            .await
            .map_err(|error| self.broken(url, offset, error))
    }

    fn authorization(&self) -> Authorization {
        self.authorization
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
            .clone()
    }

    /// Gets a token, or settles on name and password; says whether there is anything new to try.
    async fn log_in(&self) -> Result<bool, Failure> {
        let token = self
            .login
            .auth(&self.image, &self.credentials, RegistryOperation::Pull);
        let token = match tokio::time::timeout(READ_TIMEOUT, token).await {
            Ok(token) => token,
            Err(elapsed) => {
                let (url, source) = (self.base.clone(), Cause::new(elapsed));
                return Err(Failure::transient(Error::Interrupted {
                    url,
                    offset: 0,
                    source,
                }));
            }
        };
        let authorization = match (token, &self.credentials) {
            (Ok(Some(token)), _) => Authorization::Bearer(token),
            (Ok(None), RegistryAuth::Basic(username, password)) => {
                Authorization::Basic(username.clone(), password.clone())
            }
            (Ok(None), _) => return Ok(false),
            (Err(OciDistributionError::RequestError(error)), _) => {
                return Err(self.broken(&self.base, 0, error));
            }
            (Err(error), _) => {
                let message = match error {
                    OciDistributionError::AuthenticationFailure(body) => message(body.as_bytes()),
                    other => other.to_string(),
                };
                let host = self.image.registry().to_owned();
                let repository = self.image.repository().to_owned();
                return Err(Failure::last(Error::Unauthorized {
                    host,
                    repository,
                    message,
                }));
            }
        };
        *self
            .authorization
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner()) = authorization;
        Ok(true)
    }

    /// What it means that a request or its answer broke off.
    pub(super) fn broken(&self, url: &str, offset: u64, error: reqwest::Error) -> Failure {
        if !error.is_connect() {
            let (url, source) = (url.to_owned(), Cause::new(error));
            return Failure::transient(Error::Interrupted {
                url,
                offset,
                source,
            });
        }
        let hint = hint(&error);
        let host = self.image.registry().to_owned();
        // Where a download is under way, a registry that is gone may come back.
        let retry = match hint {
            ConnectHint::None => true,
            ConnectHint::Refused | ConnectHint::HostName => offset > 0,
            ConnectHint::PlainHttp | ConnectHint::Certificate => false,
        };
        Failure {
            error: Error::Connect {
                host,
                hint,
                source: Cause::new(error),
            },
            retry,
            after: None,
        }
    }

    /// `repository:tag` or `repository@digest`, from the address of one.
    fn name_in(&self, url: &str) -> String {
        let name = url.rsplit('/').next().unwrap_or_default();
        let separator = if name.contains(':') { '@' } else { ':' };
        format!("{}{separator}{name}", self.image.repository())
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // Waiting here would panic in asynchronous code.
            runtime.shutdown_background();
        }
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("base", &self.base)
            .finish_non_exhaustive()
    }
}

/// At most `limit` bytes of an answer, and whether that is all of it.
async fn bounded(mut response: Response, limit: usize) -> reqwest::Result<(Vec<u8>, bool)> {
    let mut bytes = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        let room = limit - bytes.len();
        if chunk.len() > room {
            bytes.extend_from_slice(&chunk[..room]);
            return Ok((bytes, false));
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok((bytes, true))
}

fn retry_after(response: &Response) -> Option<Duration> {
    let seconds = response
        .headers()
        .get(header::RETRY_AFTER)?
        .to_str()
        .ok()?
        .parse()
        .ok()?;
    Some(Duration::from_secs(seconds))
}

/// What an error's body says, in one line: the specification's JSON or plain text.
fn message(body: &[u8]) -> String {
    #[derive(Deserialize)]
    struct Envelope {
        errors: Vec<Detail>,
    }
    #[derive(Deserialize)]
    struct Detail {
        code: String,
        #[serde(default)]
        message: String,
    }
    let text = match serde_json::from_slice::<Envelope>(body) {
        Ok(envelope) => {
            let one = |error: &Detail| match error.message.as_str() {
                "" => error.code.clone(),
                message => format!("{message} ({})", error.code),
            };
            envelope
                .errors
                .iter()
                .map(one)
                .collect::<Vec<_>>()
                .join("; ")
        }
        // A page made for a browser says nothing in a terminal.
        Err(_) => match String::from_utf8_lossy(body) {
            text if text.trim_start().starts_with('<') => String::new(),
            text => text.into_owned(),
        },
    };
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    text.chars().filter(|c| !c.is_control()).take(300).collect()
}

/// What the innermost reasons of a failed connection say about a way out.
fn hint(error: &reqwest::Error) -> ConnectHint {
    let mut cause = error.source();
    while let Some(error) = cause {
        let refused = error
            .downcast_ref::<std::io::Error>()
            .is_some_and(|error| error.kind() == std::io::ErrorKind::ConnectionRefused);
        // Neither rustls nor the resolver let their types be seen through the HTTP client.
        let text = error.to_string();
        if refused {
            return ConnectHint::Refused;
        } else if text.contains("InvalidContentType") || text.contains("corrupt message") {
            return ConnectHint::PlainHttp;
        } else if text.contains("certificate") {
            return ConnectHint::Certificate;
        } else if text.contains("dns error") || text.contains("failed to lookup") {
            return ConnectHint::HostName;
        }
        cause = error.source();
    }
    ConnectHint::None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_told_in_one_line() {
        let json = br#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown","detail":{}},{"code":"DENIED"}]}"#;
        assert_eq!(message(json), "manifest unknown (MANIFEST_UNKNOWN); DENIED");
        assert_eq!(message(b" plain\n text\x1b[2J "), "plain text[2J");
        assert_eq!(message(b"<html>503</html>"), "");
        assert_eq!(message(&[b'x'; 9999]).len(), 300);
    }
}
