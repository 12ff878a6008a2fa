//! One server that has a repository: the registry, or a mirror of it, with the credentials for it,
//! where its redirects lead, and the errors of its requests.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex};

use super::retry::Failure;
use super::transport::{Answer, Broken, Request, Transport};
use super::url::{Origin, Scheme, Url};
use crate::credentials::Found;
use crate::{ConnectHint, Error, Event, Events, Options, Secret};

/// The kind of access to a repository, which decides the scopes of the token.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Access {
    Pull,
    Push,
    /// Push, and read the repository that a blob is mounted from.
    Mount(String),
    /// Only to check the credentials.
    Login,
}

impl Access {
    pub(super) fn scopes(&self, repository: &str) -> Vec<String> {
        let pull = |repository: &str| format!("repository:{repository}:pull");
        match self {
            Self::Pull => vec![pull(repository)],
            Self::Push => vec![format!("repository:{repository}:pull,push")],
            Self::Login => Vec::new(),
            Self::Mount(from) => vec![format!("repository:{repository}:pull,push"), pull(from)],
        }
    }
}

/// Whether a server answered a TLS handshake in plain HTTP.
pub(super) fn answered_in_plain_http(error: &Error) -> bool {
    matches!(
        error,
        Error::Connect {
            hint: ConnectHint::PlainHttp,
            ..
        }
    )
}

/// A repository at one server.
pub(super) struct Endpoint {
    transport: Arc<Transport>,
    /// The name under which the user knows it, with a port after a colon where there is one.
    pub(super) host: String,
    pub(super) repository: String,
    /// The address of the repository, without a slash at its end.
    pub(super) base: Url,
    /// Whether certificates of unknown issuers are accepted.
    pub(super) insecure: bool,
    pub(super) found: Found,
    /// The value of `Authorization` for each kind of access.
    pub(super) authorization: Mutex<HashMap<Access, Secret>>,
    retries: u32,
    events: Option<Events>,
}

impl Endpoint {
    /// `scheme` is plain HTTP only if the caller asked for it, or the host is this one.
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

    /// Calls `work`, and repeats it after temporary failures.
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

    /// Waits until the next attempt after `attempt` failed ones, and reports it; `None` to give up.
    pub(super) fn wait(&self, failure: &Failure, attempt: u32) -> Option<()> {
        failure.wait(attempt, &self.host, self.retries, self.events.as_ref())
    }

    /// Reports that this endpoint is asked because another one failed.
    pub(super) fn report_next(&self, error: &Error) {
        tracing::debug!(host = self.host, %error, "asking the next mirror");
        if self.base.origin.is_loopback() && answered_in_plain_http(error) {
            // The same server, in plain HTTP.
            return;
        }
        if let Some(events) = &self.events {
            let host = &self.host;
            events.report(&Event::NextMirror { host, error });
        }
    }

    /// Sends one request unchanged.
    pub(super) fn exchange(&self, request: Request<'_>, offset: u64) -> Result<Answer, Failure> {
        let url = request.url.clone();
        let sent = self.transport.send(request).map_err(Failure::last)?;
        sent.map_err(|broken| self.broken(&url, offset, broken))
    }

    /// The target of a redirect. Redirects from TLS to plain HTTP are refused.
    pub(super) fn redirect(&self, from: &Url, answer: &Answer) -> Result<Url, Failure> {
        let location = answer.header("location");
        let location = location.ok_or_else(|| self.bad_redirect(from, "it is not given"))?;
        self.follow(from, location)
    }

    /// Resolves the address `location`, which the server at `from` sent.
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

    pub(super) fn bad_redirect(&self, url: &Url, problem: &str) -> Failure {
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

    pub(super) fn unauthorized(&self, message: String) -> Error {
        Error::Unauthorized {
            host: self.host.clone(),
            repository: self.repository.clone(),
            credentials: self.found.source.clone(),
            message,
        }
    }

    pub(super) fn http_error(&self, url: &Url, status: u16, message: String) -> Error {
        Error::Http {
            url: url.to_string(),
            status,
            message,
        }
    }

    pub(super) fn http_failure(&self, url: &Url, status: u16, message: String) -> Failure {
        Failure::status(url, status, message)
    }

    /// Converts the failure of a request or of reading its response.
    pub(super) fn broken(&self, url: &Url, offset: u64, broken: Broken) -> Failure {
        // Messages name a token or storage service by its own host.
        let host = match url.origin == self.base.origin {
            true => self.host.clone(),
            false => url.origin.host(),
        };
        self.transport.failure(url, host, offset, broken)
    }

    /// The error for a response that violates the specification.
    pub(super) fn protocol(&self, url: &Url, problem: &str) -> Failure {
        Failure::last(Error::Protocol {
            url: url.to_string(),
            problem: problem.to_owned(),
        })
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoint")
            .field("base", &self.base)
            .finish_non_exhaustive()
    }
}
