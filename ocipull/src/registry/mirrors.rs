//! The servers of a repository in the order of requests: first the mirrors, then the registry
//! itself.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::conf::{Conf, PullFrom, Site};
use super::endpoint::{Endpoint, answered_in_plain_http};
use super::retry::Failure;
use super::transport::Transport;
use super::url::Scheme;
use crate::credentials::Search;
use crate::{Error, Options};

/// A server.
struct Mirror {
    endpoint: Endpoint,
    pull_from: PullFrom,
    /// Whether it is the registry that the reference names, not a mirror of it.
    primary: bool,
    fallback: Fallback,
    /// Whether it turned out to speak plain HTTP only, and has a fallback for that.
    speaks_http: AtomicBool,
}

/// Whether a server is the one before it in plain HTTP.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fallback {
    /// No, it is another server.
    No,
    /// Yes, and it is asked if the connection to that one failed: the registry is called insecure.
    Unanswered,
    /// Yes, and it is asked in place of that one if that one speaks plain HTTP: it is on this host.
    SpeaksHttp,
}

/// The kind of request.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum For {
    Tag,
    Digest,
    /// Requests that only the registry itself serves: uploads and lists.
    Primary,
}

impl Mirror {
    fn serves(&self, what: For) -> bool {
        match (what, self.pull_from) {
            _ if self.primary => true,
            (For::Primary, _) => false,
            (For::Digest, PullFrom::All | PullFrom::DigestOnly) => true,
            (For::Tag, PullFrom::All | PullFrom::TagOnly) => true,
            _ => false,
        }
    }
}

/// Whether a server may have failed because it speaks plain HTTP: some only close the connection in
/// a TLS handshake.
fn never_answered(error: &Error) -> bool {
    matches!(error, Error::Connect { .. } | Error::Interrupted { .. })
}

/// All servers of a repository.
pub(super) struct Mirrors(Vec<Mirror>);

impl Mirrors {
    pub(super) fn new(host: &str, repository: &str, options: &Options) -> Result<Self, Error> {
        let conf = Conf::read(&options.registries)?;
        let transport = Arc::new(Transport::new(options));
        let search = Search {
            helpers: conf.helpers.as_deref(),
            events: options.events.as_ref(),
        };
        let mut mirrors = Vec::new();
        for site in conf.sites(host, repository)? {
            let Site {
                host: site_host,
                repository: site_repository,
                insecure,
                pull_from,
                primary,
            } = site;
            // A mirror on the registry's own host counts as the registry that the user named.
            let own = site_host == host;
            let found = match own {
                true => options
                    .credentials
                    .find(&site_host, &site_repository, search)?,
                false => {
                    let credentials = &options.credentials;
                    credentials.find_for_mirror(&site_host, &site_repository, search)?
                }
            };
            let server = |scheme, fallback| -> Result<_, Error> {
                Ok(Mirror {
                    endpoint: Endpoint::new(
                        transport.clone(),
                        (&site_host, &site_repository),
                        (scheme, insecure),
                        found.clone(),
                        options,
                    )?,
                    pull_from,
                    primary,
                    fallback,
                    speaks_http: AtomicBool::new(false),
                })
            };
            if own && options.plain_http {
                mirrors.push(server(Scheme::Http, Fallback::No)?);
                continue;
            }
            let secure = server(Scheme::Https, Fallback::No)?;
            let local = secure.endpoint.base.origin.is_loopback();
            mirrors.push(secure);
            if insecure {
                mirrors.push(server(Scheme::Http, Fallback::Unanswered)?);
            } else if local {
                mirrors.push(server(Scheme::Http, Fallback::SpeaksHttp)?);
            }
        }
        Ok(Self(mirrors))
    }

    /// Whether all responses of all servers are protected by TLS with verified certificates.
    pub(super) fn are_authentic(&self) -> bool {
        self.0.iter().all(|mirror| {
            let endpoint = &mirror.endpoint;
            endpoint.base.origin.scheme == Scheme::Https && !endpoint.insecure
        })
    }

    /// Returns the result of `work` from the first server that has it. Each server is asked again
    /// after temporary failures.
    pub(super) fn first<T>(
        &self,
        what: For,
        mut work: impl FnMut(&Endpoint) -> Result<T, Failure>,
    ) -> Result<T, Error> {
        self.first_with(what, |endpoint| endpoint.retrying(|| work(endpoint)))
    }

    /// The same for work that retries by itself.
    pub(super) fn first_with<T>(
        &self,
        what: For,
        mut work: impl FnMut(&Endpoint) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let mut last: Option<Error> = None;
        for (index, mirror) in self.0.iter().enumerate() {
            if !mirror.serves(what) || !self.is_due(index, last.as_ref()) {
                continue;
            }
            if let Some(error) = &last {
                mirror.endpoint.report_next(error);
            }
            match work(&mirror.endpoint) {
                Ok(done) => return Ok(done),
                Err(error) => {
                    self.note_plain_http(index, &error);
                    last = Some(error);
                }
            }
        }
        Err(last.unwrap_or(Error::Failed))
    }

    /// The first server from `index` on that is asked for digests, given the error of the one
    /// before it.
    pub(super) fn by_digest(
        &self,
        index: usize,
        before: Option<&Error>,
    ) -> Option<(usize, &Endpoint)> {
        if let (Some(asked), Some(error)) = (index.checked_sub(1), before) {
            self.note_plain_http(asked, error);
        }
        let mut rest = self.0.iter().enumerate().skip(index);
        let found =
            rest.find(|(index, mirror)| mirror.serves(For::Digest) && self.is_due(*index, before));
        found.map(|(index, mirror)| (index, &mirror.endpoint))
    }

    /// Whether the server at `index` is to be asked, given the error of the one asked before it.
    fn is_due(&self, index: usize, before: Option<&Error>) -> bool {
        let known = |index: usize| {
            let mirror = self.0.get(index);
            mirror.is_some_and(|mirror| mirror.speaks_http.load(Ordering::Relaxed))
        };
        match self.0.get(index).map(|mirror| mirror.fallback) {
            None => false,
            Some(Fallback::No) => !known(index),
            Some(Fallback::Unanswered) => before.is_none_or(never_answered),
            Some(Fallback::SpeaksHttp) => index.checked_sub(1).is_some_and(known),
        }
    }

    /// Remembers that the server at `index` speaks plain HTTP, if `error` shows that.
    fn note_plain_http(&self, index: usize, error: &Error) {
        let next = self.0.get(index + 1).map(|next| next.fallback);
        if next == Some(Fallback::SpeaksHttp)
            && answered_in_plain_http(error)
            && let Some(mirror) = self.0.get(index)
        {
            mirror.speaks_http.store(true, Ordering::Relaxed);
        }
    }
}

impl fmt::Debug for Mirrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let endpoints = self.0.iter().map(|mirror| &mirror.endpoint);
        f.debug_list().entries(endpoints).finish()
    }
}
