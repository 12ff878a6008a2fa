//! The servers of a repository in the order of requests: first the mirrors, then the registry
//! itself.

use std::fmt;
use std::sync::Arc;

use super::conf::{Conf, PullFrom, Site};
use super::endpoint::Endpoint;
use super::retry::Failure;
use super::transport::Transport;
use super::url::Scheme;
use crate::{Error, Options};

/// A server.
struct Mirror {
    endpoint: Endpoint,
    pull_from: PullFrom,
    /// Whether it is the registry that the reference names, not a mirror of it.
    primary: bool,
    /// Whether it is asked only if the connection to the previous one failed: it is the same server
    /// in plain HTTP.
    plain_fallback: bool,
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
        let helpers = conf.helpers.as_deref();
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
                    .find(&site_host, &site_repository, helpers)?,
                false => {
                    let credentials = &options.credentials;
                    credentials.find_for_mirror(&site_host, &site_repository, helpers)?
                }
            };
            let schemes: &[_] = match (own && options.plain_http, insecure) {
                (true, _) => &[Scheme::Http],
                (false, true) => &[Scheme::Https, Scheme::Http],
                (false, false) => &[Scheme::Https],
            };
            for (position, scheme) in schemes.iter().enumerate() {
                let endpoint = Endpoint::new(
                    transport.clone(),
                    (&site_host, &site_repository),
                    (*scheme, insecure),
                    found.clone(),
                    options,
                )?;
                mirrors.push(Mirror {
                    endpoint,
                    pull_from,
                    primary,
                    plain_fallback: position > 0,
                });
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
        let mut last = None;
        for mirror in self.0.iter().filter(|mirror| mirror.serves(what)) {
            if let Some(error) = &last {
                if mirror.plain_fallback && !never_answered(error) {
                    continue;
                }
                mirror.endpoint.tell_next(error);
            }
            match work(&mirror.endpoint) {
                Ok(done) => return Ok(done),
                Err(error) => last = Some(error),
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
        let unreachable = before.is_none_or(never_answered);
        let mut rest = self.0.iter().enumerate().skip(index);
        let found = rest.find(|(_, mirror)| {
            mirror.serves(For::Digest) && (unreachable || !mirror.plain_fallback)
        });
        found.map(|(index, mirror)| (index, &mirror.endpoint))
    }
}

impl fmt::Debug for Mirrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let endpoints = self.0.iter().map(|mirror| &mirror.endpoint);
        f.debug_list().entries(endpoints).finish()
    }
}
