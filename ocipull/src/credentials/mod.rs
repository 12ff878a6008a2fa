//! Credentials for registries, as `docker login` and `podman login` keep them.
//!
//! [`store`] and [`erase`] write such a file; pulls and pushes read them as [`Credentials`] say.

mod file;
mod helper;
mod login;
mod place;
mod write;

use crate::{CredentialSource, Credentials, Error, Events};
use file::AuthFile;
pub(crate) use file::encode;
pub(crate) use login::{Found, Login};
use place::Place;
pub use write::{erase, store};

/// The name of Docker Hub in Docker's file and for helpers.
const DOCKER_HUB_KEY: &str = "https://index.docker.io/v1/";

/// The name of the files of credentials among the helpers of `registries.conf`.
const AUTH_FILES: &str = "containers-auth.json";

/// How credentials are searched for.
#[derive(Clone, Copy, Default)]
pub(crate) struct Search<'a> {
    /// What `registries.conf` wants to be asked, in that order, in place of the usual files alone.
    pub(crate) helpers: Option<&'a [String]>,
    /// Receive what is waited for.
    pub(crate) events: Option<&'a Events>,
}

impl Credentials {
    /// The credentials for `repository` of the registry `host`.
    ///
    /// # Errors
    ///
    /// An explicitly named file that cannot be read. Problems of other files are logged and the
    /// files skipped, since images that need no credentials must stay accessible.
    pub(crate) fn find(
        &self,
        host: &str,
        repository: &str,
        search: Search<'_>,
    ) -> Result<Found, Error> {
        let lookup = Lookup {
            host,
            repository,
            events: search.events,
            problem: None,
        };
        match self {
            Self::Anonymous => Ok(Found::anonymous()),
            Self::Basic { username, password } => Ok(Found {
                login: Login::Basic {
                    username: username.clone().into_bytes(),
                    password: password.clone(),
                },
                source: CredentialSource::Options,
            }),
            Self::File(path) => lookup.search(None, &[Place::named(path.clone())]),
            Self::Default => lookup.search(search.helpers, &place::usual()),
        }
    }

    /// As [`find`](Self::find), for a host that the caller did not name. [`Credentials::Basic`]
    /// does not apply to such a host.
    pub(crate) fn find_for_mirror(
        &self,
        host: &str,
        repository: &str,
        search: Search<'_>,
    ) -> Result<Found, Error> {
        match self {
            Self::Basic { .. } => Ok(Found::anonymous()),
            other => other.find(host, repository, search),
        }
    }
}

/// A search for the credentials of one repository.
struct Lookup<'a> {
    host: &'a str,
    repository: &'a str,
    events: Option<&'a Events>,
    /// The first reason why there may be credentials that were not found.
    problem: Option<CredentialSource>,
}

impl Lookup<'_> {
    /// The credentials of the first of `helpers` that has any, one of which stands for `places`;
    /// without helpers, of the first of `places`.
    fn search(mut self, helpers: Option<&[String]>, places: &[Place]) -> Result<Found, Error> {
        let found = match helpers {
            Some(helpers) => self.in_helpers(helpers, places)?,
            None => self.in_places(places)?,
        };
        Ok(found.unwrap_or(Found {
            login: Login::Anonymous,
            source: self.problem.unwrap_or(CredentialSource::None),
        }))
    }

    fn in_helpers(&mut self, helpers: &[String], places: &[Place]) -> Result<Option<Found>, Error> {
        for name in helpers {
            let found = match name.as_str() {
                AUTH_FILES => self.in_places(places)?,
                name => self.ask(name, self.host),
            };
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }

    fn in_places(&mut self, places: &[Place]) -> Result<Option<Found>, Error> {
        for place in places {
            let file = match place.read() {
                Ok(Some(file)) => file,
                Ok(None) => continue,
                Err(error) if place.required => return Err(error),
                Err(error) => {
                    tracing::warn!(%error, "credentials that cannot be read are passed over");
                    self.problem.get_or_insert(place.unreadable());
                    continue;
                }
            };
            let found = self.in_file(&file, place);
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }

    /// Searches the helper for the host, then the file's own entries, then the helper for all
    /// hosts. This is podman's order, in which the empty entries that docker leaves beside
    /// `credsStore` have no effect.
    fn in_file(&mut self, file: &AuthFile, place: &Place) -> Option<Found> {
        let server = server_of(self.host);
        let helper = file.helper_of(self.host);
        if let Some(found) = helper.and_then(|name| self.ask(name, server)) {
            return Some(found);
        }
        if let Some(login) = file.entry(self.host, self.repository) {
            let source = place.source();
            return Some(Found { login, source });
        }
        file.store().and_then(|name| self.ask(name, server))
    }

    /// What the helper `name` has for `server`.
    fn ask(&mut self, name: &str, server: &str) -> Option<Found> {
        match helper::get(name, server, self.events) {
            Ok(login) => login.map(|login| Found {
                login,
                source: CredentialSource::Helper(helper::program(name)),
            }),
            Err(error) => {
                tracing::warn!(%error, "a credential helper is passed over");
                self.problem.get_or_insert(CredentialSource::FailedHelper {
                    program: helper::program(name),
                    problem: match std::error::Error::source(&error) {
                        Some(source) => format!("{error}: {source}"),
                        None => error.to_string(),
                    },
                });
                None
            }
        }
    }
}

#[cfg(fuzzing)]
pub(crate) fn fuzz(bytes: &[u8], host: &str, repository: &str) -> bool {
    AuthFile::parse(bytes, file::Layout::Current).is_ok_and(|file| {
        let _ = (file.helper_of(host), file.store());
        file.entry(host, repository).is_some()
    })
}

/// The name under which docker's helpers keep a host's credentials.
fn server_of(host: &str) -> &str {
    match host {
        crate::name::DOCKER_HUB => DOCKER_HUB_KEY,
        _ => host,
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn search(
        helpers: Option<&[&str]>,
        places: &[Place],
        host: &str,
    ) -> Result<CredentialSource, Error> {
        let helpers = helpers.map(|names| {
            let names = names.iter().map(|&name| name.to_owned());
            names.collect::<Vec<_>>()
        });
        let lookup = Lookup {
            host,
            repository: "a",
            events: None,
            problem: None,
        };
        Ok(lookup.search(helpers.as_deref(), places)?.source)
    }

    #[test]
    fn a_damaged_default_file_does_not_stop_the_search() {
        let dir = tempfile::tempdir().unwrap();
        let broken = dir.path().join("broken");
        let good = dir.path().join("good");
        std::fs::write(&broken, "{").unwrap();
        std::fs::write(&good, r#"{"auths":{"h":{"auth":"YTpi"}}}"#).unwrap();
        let place = |path: &Path| Place::file(path.to_owned());
        let places = [place(&broken), place(&good)];
        let found = search(None, &places, "h").unwrap();
        assert_eq!(found, CredentialSource::File(good.clone()));
        let found = search(None, &places, "other").unwrap();
        assert_eq!(found, CredentialSource::Unreadable(broken.clone()));
        assert!(matches!(
            search(None, &[Place::named(broken)], "h"),
            Err(Error::Credentials { .. })
        ));
    }

    #[test]
    fn helpers_that_registries_conf_names_are_asked_in_their_order() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("auth.json");
        std::fs::write(&path, r#"{"auths":{"h":{"auth":"YTpi"}}}"#).unwrap();
        let places = [Place::file(path.clone())];
        let found = |helpers: &[&str], host| search(Some(helpers), &places, host).unwrap();
        let failed = |source| matches!(source, CredentialSource::FailedHelper { .. });
        assert_eq!(
            found(&["missing-here", AUTH_FILES], "h"),
            CredentialSource::File(path.clone())
        );
        assert!(failed(found(&["missing-here", AUTH_FILES], "other")));
        assert!(failed(found(&["missing-here"], "h")));
        assert_eq!(found(&[], "h"), CredentialSource::None);
    }
}
