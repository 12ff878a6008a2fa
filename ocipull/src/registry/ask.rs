//! Requests to an endpoint, made again with credentials or at another address where the server
//! demands it.
//!
//! Credentials go to the server they are for and to the token service it names, and there over TLS
//! alone, unless plain HTTP was asked for that very host and port, or that server is on this host
//! and speaks nothing else. A redirect to another origin is followed without them.

use ureq::http::Method;

use super::challenge;
use super::endpoint::{Access, Endpoint};
use super::message::{MAX_ERROR, message};
use super::retry::{Failure, retry_after};
use super::token;
use super::transport::{Answer, Body, Request};
use super::url::Url;
use crate::credentials::Login;
use crate::{Error, Secret};

/// The most redirects that are followed.
const MAX_REDIRECTS: usize = 10;

/// A request to an endpoint, which can be made again.
pub(super) struct Ask<'a> {
    pub(super) method: Method,
    pub(super) url: &'a Url,
    pub(super) headers: Vec<(&'static str, String)>,
    pub(super) body: Body<'a>,
    pub(super) access: Access,
    /// Bytes received before, for messages.
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
    /// Makes a request and returns its response if it succeeds; logs in if the server demands it.
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
            // A storage service behind a redirect cannot judge the credentials.
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

    /// Makes a request, and returns the response with the address that it finally came from.
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
                headers.push(("authorization", authorization.reveal_text().into_owned()));
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

    /// Obtains the credentials that the challenges in `answer` demand. Returns whether there are
    /// any that were not `used` yet.
    fn log_in(
        &self,
        access: &Access,
        answer: &Answer,
        used: Option<Secret>,
    ) -> Result<bool, Failure> {
        // Another thread has obtained them meanwhile.
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
    Secret::new(format!("Bearer {}", token.reveal_text()))
}
