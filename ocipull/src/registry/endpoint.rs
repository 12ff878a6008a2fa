//! One server that has a repository: the registry, or a mirror of it. Who we are to it, where its redirects lead, what its answers
//! mean.
//!
//! Credentials go to the server they are for and to the token service it names, and there over TLS alone, unless plain HTTP
//! was asked for that very host and port. A redirect to another origin is followed without them.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex};

use serde::Deserialize;
use ureq::http::Method;

use super::challenge;
use super::retry::{Failure, retry_after};
use super::token;
use super::transport::{Answer, Body, Broken, Request, Transport};
use super::url::{Origin, Scheme, Url};
use crate::credentials::{Found, Login};
use crate::{Error, Event, Events, Options, Secret};

/// How much of an error's text is read, in bytes.
pub(super) const MAX_ERROR: u64 = 64 << 10;

/// How often a registry may send us elsewhere.
const MAX_REDIRECTS: usize = 10;

/// What is to be done in a repository: decides which token it takes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Access {
    Pull,
    Push,
    /// Push, and read the repository that a blob is mounted from.
    Mount(String),
    /// Nothing but to show the credentials.
    Login,
}

impl Access {
    fn scopes(&self, repository: &str) -> Vec<String> {
        let pull = |repository: &str| format!("repository:{repository}:pull");
        match self {
            Self::Pull => vec![pull(repository)],
            Self::Push => vec![format!("repository:{repository}:pull,push")],
            Self::Login => Vec::new(),
            Self::Mount(from) => vec![format!("repository:{repository}:pull,push"), pull(from)],
        }
    }
}

/// A repository at one server.
pub(super) struct Endpoint {
    transport: Arc<Transport>,
    /// The name under which the user knows it, with a port after a colon where there is one.
    pub(super) host: String,
    pub(super) repository: String,
    /// The address of the repository, without a slash at its end.
    pub(super) base: Url,
    /// Whether a certificate of an unknown issuer will do.
    pub(super) insecure: bool,
    pub(super) found: Found,
    /// The value of `Authorization` for each kind of access.
    authorization: Mutex<HashMap<Access, Secret>>,
    retries: u32,
    events: Option<Events>,
}

/// A request to an endpoint, which can be made again.
pub(super) struct Ask<'a> {
    pub(super) method: Method,
    pub(super) url: &'a Url,
    pub(super) headers: Vec<(&'static str, String)>,
    pub(super) body: Body<'a>,
    pub(super) access: Access,
    /// Bytes that came before: for messages.
    pub(super) offset: u64,
}

impl<'a> Ask<'a> {
    pub(super) fn new(method: Method, url: &'a Url, access: Access) -> Self {
        Self {
            method,
            url,
            headers: Vec::new(),
            body: Body::None,
            access,
            offset: 0,
        }
    }

    pub(super) fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    pub(super) fn body(self, body: Body<'a>) -> Self {
        Self { body, ..self }
    }
}

impl Endpoint {
    /// `scheme` is plain HTTP only where that was asked for.
    pub(super) fn new(
        transport: Arc<Transport>,
        (host, repository): (&str, &str),
        (scheme, insecure): (Scheme, bool),
        found: Found,
        options: &Options,
    ) -> Result<Self, Error> {
        let server = match host {
            crate::name::DOCKER_HUB => "registry-1.docker.io",
            _ => host,
        };
        let origin = Origin::new(scheme, server).map_err(|problem| Error::InvalidReference {
            text: format!("{host}/{repository}"),
            problem: problem.to_owned(),
        })?;
        Ok(Self {
            transport,
            host: host.to_owned(),
            repository: repository.to_owned(),
            base: origin.url(&format!("/v2/{repository}")),
            insecure,
            found,
            authorization: Mutex::default(),
            retries: options.retries,
            events: options.events.clone(),
        })
    }

    /// The address of something in the repository; `path` begins with a slash.
    pub(super) fn url(&self, path: &str) -> Url {
        self.base.origin.url(&format!("{}{path}", self.base.path()))
    }

    /// Does `work`, again where it fails for reasons that may pass.
    pub(super) fn retrying<T>(
        &self,
        mut work: impl FnMut() -> Result<T, Failure>,
    ) -> Result<T, Error> {
        let mut attempt = 0;
        loop {
            match work() {
                Ok(done) => return Ok(done),
                Err(failure) => self.wait(&failure, attempt).ok_or(*failure.error)?,
            }
            attempt += 1;
        }
    }

    /// Waits until the next attempt after `attempt` failed ones, and tells of it; `None` to give up.
    pub(super) fn wait(&self, failure: &Failure, attempt: u32) -> Option<()> {
        failure.wait(attempt, &self.host, self.retries, self.events.as_ref())
    }

    /// Tells that this endpoint is asked because another failed.
    pub(super) fn tell_next(&self, error: &Error) {
        tracing::debug!(host = self.host, %error, "asking the next mirror");
        if let Some(events) = &self.events {
            let host = &self.host;
            events.tell(&Event::NextMirror { host, error });
        }
    }

    /// Makes a request that succeeds; logs in where that is asked for.
    pub(super) fn ask(&self, ask: Ask<'_>) -> Result<Answer, Failure> {
        let url = ask.url.clone();
        let (mut answer, last) = self.try_ask(ask)?;
        let status = answer.status;
        if status.is_success() {
            return Ok(answer);
        }
        let after = answer.header("retry-after").and_then(retry_after);
        let (body, _) = answer.bounded(MAX_ERROR).unwrap_or_default();
        let message = message(&body);
        Err(match status.as_u16() {
            // A storage service that the registry sends us to says nothing of our credentials.
            401 | 403 if last.origin == self.base.origin => {
                Failure::last(self.unauthorized(message))
            }
            404 => Failure::last(Error::NotFound {
                host: self.host.clone(),
                name: self.name_in(&url),
                message,
            }),
            status => self.http_failure(&last, status, message).after(after),
        })
    }

    /// Makes a request, and gives the answer with the address that it came from in the end.
    fn try_ask(&self, ask: Ask<'_>) -> Result<(Answer, Url), Failure> {
        let Ask {
            method,
            url,
            headers,
            mut body,
            access,
            offset,
        } = ask;
        let mut url = url.clone();
        let mut logged_in = false;
        let mut redirects = 0;
        loop {
            let home = url.origin == self.base.origin;
            let used = self.authorization(&access).filter(|_| home);
            let mut headers = headers.clone();
            if let Some(authorization) = &used {
                headers.push(("authorization", authorization.reveal().to_owned()));
            }
            // A stream can be sent once.
            let repeatable = !matches!(body, Body::Stream(..));
            let body = match &mut body {
                Body::None => Body::None,
                Body::Bytes(bytes) => Body::Bytes(bytes),
                Body::Stream(reader, size) => Body::Stream(&mut **reader, *size),
            };
            let request = Request {
                method: method.clone(),
                url: &url,
                headers,
                body,
                insecure: self.insecure && home,
            };
            let answer = self.exchange(request, offset)?;
            let status = answer.status.as_u16();
            if status == 401 && home && !logged_in && self.log_in(&access, &answer, used)? {
                logged_in = true;
                if !repeatable {
                    let error = self.http_error(&url, status, String::new());
                    return Err(Failure::transient(error));
                }
            } else if answer.status.is_redirection() && status != 304 && repeatable {
                let reads = matches!(method, Method::GET | Method::HEAD);
                if !reads && !matches!(status, 307 | 308) {
                    return Err(
                        self.bad_redirect(&url, "only a reading request may be redirected so")
                    );
                }
                redirects += 1;
                if redirects > MAX_REDIRECTS {
                    return Err(self.too_many_redirects(&url));
                }
                url = self.redirect(&url, &answer)?;
            } else {
                return Ok((answer, url));
            }
        }
    }

    /// Sends one request, with nothing added.
    pub(super) fn exchange(&self, request: Request<'_>, offset: u64) -> Result<Answer, Failure> {
        let url = request.url.clone();
        let sent = self.transport.send(request).map_err(Failure::last)?;
        sent.map_err(|broken| self.broken(&url, offset, broken))
    }

    /// Where a redirect leads. Never from TLS to plain HTTP.
    pub(super) fn redirect(&self, from: &Url, answer: &Answer) -> Result<Url, Failure> {
        let location = answer.header("location");
        let location = location.ok_or_else(|| self.bad_redirect(from, "it is not given"))?;
        self.follow(from, location)
    }

    /// The address `location`, which the server at `from` gave.
    pub(super) fn follow(&self, from: &Url, location: &str) -> Result<Url, Failure> {
        let to = from.join(location);
        let to = to.map_err(|problem| self.bad_redirect(from, problem))?;
        let secure = [from, &self.base]
            .iter()
            .any(|url| url.origin.scheme == Scheme::Https);
        match secure && to.origin.scheme == Scheme::Http {
            true => Err(self.bad_redirect(from, "TLS does not protect it")),
            false => Ok(to),
        }
    }

    fn bad_redirect(&self, url: &Url, problem: &str) -> Failure {
        Failure::last(Error::Redirect {
            url: url.to_string(),
            problem: problem.to_owned(),
        })
    }

    pub(super) fn too_many_redirects(&self, url: &Url) -> Failure {
        self.bad_redirect(url, "there were too many before it")
    }

    pub(super) fn authorization(&self, access: &Access) -> Option<Secret> {
        let authorization = self.authorization.lock().unwrap_or_else(|e| e.into_inner());
        authorization.get(access).cloned()
    }

    /// Gets what the challenges in `answer` ask for; whether there is anything to show that was not `used` yet.
    fn log_in(
        &self,
        access: &Access,
        answer: &Answer,
        used: Option<Secret>,
    ) -> Result<bool, Failure> {
        // Another thread was faster.
        if self.authorization(access) != used {
            return Ok(true);
        }
        let headers = answer.headers.get_all("www-authenticate").iter();
        let challenges: Vec<_> = headers
            .filter_map(|header| header.to_str().ok())
            .flat_map(challenge::parse)
            .collect();
        let named = |scheme: &str| challenges.iter().find(|c| c.scheme == scheme);
        let authorization = match (&self.found.login, named("bearer"), named("basic")) {
            (Login::Bearer(token), ..) => bearer(token),
            (_, Some(challenge), _) => {
                let mut scopes = access.scopes(&self.repository);
                let others = challenge.parameter("scope").unwrap_or_default();
                for scope in others.split_whitespace() {
                    if !scopes.iter().any(|known| known == scope) {
                        scopes.push(scope.to_owned());
                    }
                }
                bearer(&token::fetch(self, challenge, &scopes)?)
            }
            (Login::Basic { username, password }, None, Some(_)) => {
                token::basic(username, password)
            }
            _ => return Ok(false),
        };
        if Some(&authorization) == used.as_ref() {
            return Ok(false);
        }
        let mut known = self.authorization.lock().unwrap_or_else(|e| e.into_inner());
        known.insert(access.clone(), authorization);
        Ok(true)
    }

    pub(super) fn unauthorized(&self, message: String) -> Error {
        Error::Unauthorized {
            host: self.host.clone(),
            repository: self.repository.clone(),
            credentials: self.found.source.clone(),
            message,
        }
    }

    fn http_error(&self, url: &Url, status: u16, message: String) -> Error {
        Error::Http {
            url: url.to_string(),
            status,
            message,
        }
    }

    pub(super) fn http_failure(&self, url: &Url, status: u16, message: String) -> Failure {
        Failure::status(url, status, message)
    }

    /// What it means that a request or its answer broke off.
    pub(super) fn broken(&self, url: &Url, offset: u64, broken: Broken) -> Failure {
        // A token or storage service is named as it is.
        let host = match url.origin == self.base.origin {
            true => self.host.clone(),
            false => url.origin.host(),
        };
        self.transport.failure(url, host, offset, broken)
    }

    /// What answers, but not as the specification says.
    pub(super) fn protocol(&self, url: &Url, problem: &str) -> Failure {
        Failure::last(Error::Protocol {
            url: url.to_string(),
            problem: problem.to_owned(),
        })
    }

    /// `repository:tag` or `repository@digest`, from the address of one.
    fn name_in(&self, url: &Url) -> String {
        let rest = url
            .path()
            .strip_prefix(self.base.path())
            .unwrap_or_default();
        let name = rest.rsplit('/').next().unwrap_or_default();
        match rest.starts_with("/manifests/") || name.contains(':') {
            true if name.contains(':') => format!("{}@{name}", self.repository),
            true => format!("{}:{name}", self.repository),
            false => self.repository.clone(),
        }
    }
}

fn bearer(token: &Secret) -> Secret {
    Secret::new(format!("Bearer {}", token.reveal()))
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoint")
            .field("base", &self.base)
            .finish_non_exhaustive()
    }
}

/// What an error's body says, in one line: the specification's JSON or plain text.
pub(super) fn message(body: &[u8]) -> String {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_displayed_in_one_line() {
        let json = br#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown","detail":{}},{"code":"DENIED"}]}"#;
        assert_eq!(message(json), "manifest unknown (MANIFEST_UNKNOWN); DENIED");
        assert_eq!(message(b" plain\n text\x1b[2J "), "plain text[2J");
        assert_eq!(message(b"<html>503</html>"), "");
        assert_eq!(message(&[b'x'; 9999]).len(), 300);
    }
}
