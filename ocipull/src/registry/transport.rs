//! HTTP over TCP or TLS, one request at a time: time limits, proxies, and classification of
//! failures.
//!
//! Redirects and credentials are handled by [`ask`](super::ask).

use std::collections::HashMap;
use std::io::{self, Read};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use ureq::http::{HeaderMap, Method, StatusCode};
use ureq::{Agent, SendBody, Timeout};

use super::proxy;
use super::retry::Failure;
use super::tls::Trust;
use super::url::{Origin, Scheme, Url};
use crate::{Cause, ConnectHint, Error, Options};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a registry may take to answer an upload: it may have to hash or move gigabytes first.
const UPLOAD_TIMEOUT: Duration = Duration::from_secs(300);

/// The least number of bytes per second, on average over the stall timeout.
const SLOWEST: u64 = 256;

/// Agents kept at once: one for each server that a repository's registry and its redirects lead to.
const MAX_AGENTS: usize = 32;

/// The most connections to a server that wait for the next request: those of several large blobs.
const MAX_IDLE: usize = 16;

/// Sends requests to servers.
pub(super) struct Transport {
    trust: Trust,
    stall_timeout: Duration,
    agents: Mutex<HashMap<Kind, Agent>>,
}

/// What an agent is for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Kind {
    origin: Origin,
    verified: bool,
    uploads: bool,
}

/// A request.
pub(super) struct Request<'a> {
    pub(super) method: Method,
    pub(super) url: &'a Url,
    pub(super) headers: Vec<(&'static str, String)>,
    pub(super) body: Body<'a>,
    /// Whether certificates of unknown issuers are accepted.
    pub(super) insecure: bool,
}

/// The body of a request.
pub(super) enum Body<'a> {
    None,
    Bytes(&'a [u8]),
    /// A reader, and how many bytes it has.
    Stream(&'a mut dyn Read, u64),
}

/// An answer; its body is still to be read.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Incoming,
}

impl Answer {
    /// The header `name`, where it is text.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// At most `limit` bytes of the body, and whether that is all of it.
    pub(super) fn bounded(&mut self, limit: u64) -> Result<(Vec<u8>, bool), Broken> {
        let mut bytes = Vec::new();
        let mut body = Read::by_ref(&mut self.body).take(limit.saturating_add(1));
        body.read_to_end(&mut bytes)
            .map_err(|error| match error.downcast::<Carried>() {
                Ok(Carried(broken)) => broken,
                Err(error) => error.into(),
            })?;
        let complete = bytes.len() as u64 <= limit;
        bytes.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
        Ok((bytes, complete))
    }
}

/// The rest of an answer.
pub(super) struct Incoming {
    body: ureq::BodyReader<'static>,
    /// The bytes that are still to come, if the answer says how many it has.
    left: Option<u64>,
    /// The stall timeout, and the time spent waiting since bytes were last counted.
    limit: Duration,
    waited: Duration,
    bytes: u64,
}

impl Incoming {
    fn new(body: ureq::Body, limit: Duration) -> Self {
        Self {
            left: body.content_length(),
            body: body.into_reader(),
            limit,
            waited: Duration::ZERO,
            bytes: 0,
        }
    }

    /// Lets another request use the connection, if all bytes were read. ureq only notices that by
    /// another read, which waits for nothing then.
    pub(super) fn release(mut self) {
        if self.left == Some(0) {
            let _ = self.body.read(&mut [0]);
        }
    }

    pub(super) fn read(&mut self, buffer: &mut [u8]) -> Result<usize, Broken> {
        loop {
            let start = Instant::now();
            let read = self.body.read(buffer);
            self.waited += start.elapsed();
            match read {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
                Ok(bytes) => {
                    self.left = self.left.map(|left| left.saturating_sub(bytes as u64));
                    self.count(bytes)?;
                    return Ok(bytes);
                }
            }
        }
    }

    /// Fails if a server sends too few bytes per second, even if it never stalls completely.
    fn count(&mut self, bytes: usize) -> Result<(), Broken> {
        self.bytes += bytes as u64;
        if self.waited < self.limit || bytes == 0 {
            return Ok(());
        }
        let least = SLOWEST.saturating_mul(self.waited.as_secs());
        if self.bytes < least {
            return Err(Broken {
                connect: None,
                timed_out: true,
                cause: Cause::new(format!(
                    "only {} bytes in {} seconds",
                    self.bytes,
                    self.waited.as_secs()
                )),
            });
        }
        (self.waited, self.bytes) = (Duration::ZERO, 0);
        Ok(())
    }
}

impl Read for Incoming {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = Incoming::read(self, buffer);
        read.map_err(|broken| io::Error::other(Carried(broken)))
    }
}

/// [`Broken`] on its way through an [`io::Error`].
#[derive(Debug, thiserror::Error)]
#[error("broken off")]
struct Carried(Broken);

/// Why a response is missing or incomplete.
#[derive(Debug)]
pub(super) struct Broken {
    /// The connection failed, with the reason.
    pub(super) connect: Option<ConnectHint>,
    /// The stall timeout passed.
    pub(super) timed_out: bool,
    pub(super) cause: Cause,
}

impl Transport {
    pub(super) fn new(options: &Options) -> Self {
        Self {
            trust: Trust::new(options),
            stall_timeout: options.stall_timeout,
            agents: Mutex::default(),
        }
    }

    /// Makes a request. A status that reports a failure is an answer, too.
    ///
    /// The outer error is about this host's configuration, the inner one about the network.
    pub(super) fn send(&self, request: Request<'_>) -> Result<Result<Answer, Broken>, Error> {
        let Request {
            method,
            url,
            headers,
            body,
            insecure,
        } = request;
        let agent = self.agent(Kind {
            origin: url.origin.clone(),
            verified: !insecure,
            uploads: !matches!(method, Method::GET | Method::HEAD),
        })?;
        let mut builder = ureq::http::Request::builder()
            .method(method)
            .uri(url.full());
        for (name, value) in headers {
            builder = builder.header(name, value);
        }
        if let Body::Stream(_, size) = &body {
            builder = builder.header("content-length", size.to_string());
        }
        let sent = match body {
            Body::None => builder.body(()).map(|request| agent.run(request)),
            Body::Bytes(bytes) => builder.body(bytes).map(|request| agent.run(request)),
            Body::Stream(reader, _) => builder
                .body(SendBody::from_reader(reader))
                .map(|request| agent.run(request)),
        };
        let sent = sent.unwrap_or_else(|error| Err(error.into()));
        Ok(sent.map_err(|error| self.broken(error)).map(|response| {
            let (head, body) = response.into_parts();
            Answer {
                status: head.status,
                headers: head.headers,
                body: Incoming::new(body, self.stall_timeout),
            }
        }))
    }

    /// Converts the failure of a request to `url`, or of its response after `offset` bytes.
    /// Messages call the server `host`.
    pub(super) fn failure(&self, url: &Url, host: String, offset: u64, broken: Broken) -> Failure {
        let Broken {
            connect,
            timed_out,
            cause: source,
        } = broken;
        let failure = match connect {
            None => Failure::transient(Error::Interrupted {
                url: url.to_string(),
                offset,
                source,
            }),
            Some(hint) => {
                let certificate_folder = match hint {
                    ConnectHint::Certificate => self.trust.folder(&url.origin),
                    _ => None,
                };
                let error = Error::Connect {
                    host,
                    proxy: proxy::named(&url.origin),
                    hint,
                    certificate_folder,
                    source,
                };
                // During a download, an unreachable server may come back.
                match hint {
                    ConnectHint::None => Failure::transient(error),
                    ConnectHint::Refused | ConnectHint::HostName if offset > 0 => {
                        Failure::transient(error)
                    }
                    _ => Failure::last(error),
                }
            }
        };
        match timed_out {
            true => failure.timed_out(),
            false => failure,
        }
    }

    fn agent(&self, kind: Kind) -> Result<Agent, Error> {
        let mut agents = self.agents.lock().unwrap_or_else(|e| e.into_inner());
        if let Some(agent) = agents.get(&kind) {
            return Ok(agent.clone());
        }
        let answer = match kind.uploads {
            true => UPLOAD_TIMEOUT.max(self.stall_timeout),
            false => self.stall_timeout,
        };
        let mut config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .https_only(kind.origin.scheme == Scheme::Https)
            .proxy(proxy::for_origin(&kind.origin)?.map(|(proxy, _)| proxy))
            .user_agent(concat!("ocipull/", env!("CARGO_PKG_VERSION")))
            .accept("*/*")
            .timeout_resolve(Some(CONNECT_TIMEOUT))
            .timeout_connect(Some(CONNECT_TIMEOUT.min(self.stall_timeout)))
            .timeout_send_request(Some(self.stall_timeout))
            .timeout_recv_response(Some(answer))
            .timeout_per_read(Some(answer))
            .timeout_per_write(Some(self.stall_timeout))
            .max_idle_age(Duration::from_secs(10))
            .max_idle_connections(MAX_IDLE)
            .max_idle_connections_per_host(MAX_IDLE);
        if kind.origin.scheme == Scheme::Https {
            config = config.tls_config(self.trust.tls_config(&kind.origin, kind.verified)?);
        }
        let agent = config.build().new_agent();
        if agents.len() >= MAX_AGENTS {
            agents.clear();
        }
        agents.insert(kind, agent.clone());
        Ok(agent)
    }

    fn broken(&self, error: ureq::Error) -> Broken {
        let mut broken = Broken::from(error);
        if broken.timed_out {
            let seconds = self.stall_timeout.as_secs_f32();
            let what = match broken.connect {
                Some(_) => "no connection",
                None => "no answer",
            };
            broken.cause = Cause::new(format!("{what} within {seconds} seconds"));
        }
        broken
    }
}

impl From<io::Error> for Broken {
    fn from(error: io::Error) -> Self {
        ureq::Error::from(error).into()
    }
}

impl From<ureq::Error> for Broken {
    fn from(error: ureq::Error) -> Self {
        use ConnectHint as Hint;
        let (connect, timed_out) = match &error {
            ureq::Error::Timeout(Timeout::Connect | Timeout::Resolve) => (Some(Hint::None), true),
            ureq::Error::Timeout(_) => (None, true),
            ureq::Error::HostNotFound => (Some(Hint::HostName), false),
            ureq::Error::ConnectionFailed
            | ureq::Error::ConnectProxyFailed(_)
            | ureq::Error::Tls(_) => (Some(Hint::None), false),
            ureq::Error::Rustls(error) => (Some(tls_hint(error)), false),
            ureq::Error::Io(error) => (io_hint(error), error.kind() == io::ErrorKind::TimedOut),
            _ => (None, false),
        };
        let cause = match error {
            ureq::Error::Timeout(_) => Cause::new("nothing came within the time limit"),
            ureq::Error::Io(error) => Cause::new(error),
            ureq::Error::Rustls(error) => Cause::new(error),
            ureq::Error::ConnectProxyFailed(reason) => Cause::new(format!("the proxy: {reason}")),
            error => Cause::new(error),
        };
        Self {
            connect,
            timed_out,
            cause,
        }
    }
}

fn io_hint(error: &io::Error) -> Option<ConnectHint> {
    let mut inner = error
        .get_ref()
        .map(|inner| inner as &(dyn std::error::Error + 'static));
    while let Some(cause) = inner {
        if let Some(error) = cause.downcast_ref::<rustls::Error>() {
            return Some(tls_hint(error));
        }
        inner = cause.source();
    }
    match error.kind() {
        io::ErrorKind::ConnectionRefused => Some(ConnectHint::Refused),
        io::ErrorKind::HostUnreachable
        | io::ErrorKind::NetworkUnreachable
        | io::ErrorKind::NetworkDown
        | io::ErrorKind::AddrNotAvailable => Some(ConnectHint::None),
        _ => None,
    }
}

fn tls_hint(error: &rustls::Error) -> ConnectHint {
    match error {
        rustls::Error::InvalidMessage(_) => ConnectHint::PlainHttp,
        rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented => {
            ConnectHint::Certificate
        }
        _ => ConnectHint::None,
    }
}
