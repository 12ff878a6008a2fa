//! Credentials for registries, as `docker login` and `podman login` keep them.
//!
//! [`store`] and [`erase`] write such a file; pulls and pushes read them as [`Credentials`] say.

mod file;
mod helper;
mod login;
mod write;

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::{CredentialSource, Credentials, Error};
use file::AuthFile;
pub(crate) use login::{Found, Login};
pub use write::{erase, store};

/// The name of Docker Hub in Docker's file and for helpers.
const DOCKER_HUB_KEY: &str = "https://index.docker.io/v1/";

/// The name of the files of credentials among the helpers of `registries.conf`.
const AUTH_FILES: &str = "containers-auth.json";

impl Credentials {
    /// The credentials for `repository` of the registry `host`. `helpers` are what
    /// `registries.conf` wants to be asked, in that order, in place of the usual files alone.
    ///
    /// # Errors
    ///
    /// An explicitly named file that cannot be read. Problems of other files are logged and the
    /// files skipped, since images that need no credentials must stay accessible.
    pub(crate) fn find(
        &self,
        host: &str,
        repository: &str,
        helpers: Option<&[String]>,
    ) -> Result<Found, Error> {
        match self {
            Self::Anonymous => Ok(Found::anonymous()),
            Self::Basic { username, password } => Ok(Found {
                login: Login::Basic {
                    username: username.clone(),
                    password: password.clone(),
                },
                source: CredentialSource::Options,
            }),
            Self::File(path) => {
                let files = [Candidate::required(path.clone())];
                look_up(&files, host, repository)
            }
            Self::Default => match helpers {
                Some(helpers) => from_helpers(helpers, &default_files(), host, repository),
                None => look_up(&default_files(), host, repository),
            },
        }
    }

    /// As [`find`](Self::find), for a host that the caller did not name. [`Credentials::Basic`]
    /// does not apply to such a host.
    pub(crate) fn find_for_mirror(
        &self,
        host: &str,
        repository: &str,
        helpers: Option<&[String]>,
    ) -> Result<Found, Error> {
        match self {
            Self::Basic { .. } => Ok(Found::anonymous()),
            other => other.find(host, repository, helpers),
        }
    }
}

/// A file that may contain credentials.
#[derive(Debug, PartialEq, Eq)]
struct Candidate {
    path: PathBuf,
    /// Whether a damaged file is an error, because it was named explicitly.
    required: bool,
}

impl Candidate {
    fn required(path: PathBuf) -> Self {
        Self {
            path,
            required: true,
        }
    }
}

fn default_files() -> Vec<Candidate> {
    candidates(|name| std::env::var_os(name))
}

/// The files in which tools keep credentials, in the order of the search.
fn candidates(env: impl Fn(&str) -> Option<OsString>) -> Vec<Candidate> {
    let folder = |name| {
        env(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    let home = folder("HOME").or_else(|| folder("USERPROFILE"));
    let in_home = |name: &str| home.as_ref().map(|home| home.join(name));
    let named = folder("REGISTRY_AUTH_FILE").map(Candidate::required);
    let usual = [
        folder("XDG_RUNTIME_DIR").map(|dir| dir.join("containers/auth.json")),
        folder("XDG_CONFIG_HOME")
            .or(in_home(".config"))
            .map(|dir| dir.join("containers/auth.json")),
        folder("DOCKER_CONFIG")
            .or(in_home(".docker"))
            .map(|dir| dir.join("config.json")),
    ];
    let usual = usual.into_iter().flatten().map(|path| Candidate {
        path,
        required: false,
    });
    named.into_iter().chain(usual).collect()
}

/// The credentials of the first of `helpers` that has any; one of them stands for `files`.
fn from_helpers(
    helpers: &[String],
    files: &[Candidate],
    host: &str,
    repository: &str,
) -> Result<Found, Error> {
    let mut problem = None;
    for name in helpers {
        let found = match name.as_str() {
            AUTH_FILES => look_up(files, host, repository)?,
            name => match ask(name, host, &mut problem) {
                Some(found) => return Ok(found),
                None => continue,
            },
        };
        if found.login != Login::Anonymous {
            return Ok(found);
        }
        if found.source != CredentialSource::None {
            problem.get_or_insert(found.source);
        }
    }
    Ok(Found {
        login: Login::Anonymous,
        source: problem.unwrap_or(CredentialSource::None),
    })
}

/// What the helper `name` has for `server`.
fn ask(name: &str, server: &str, problem: &mut Option<CredentialSource>) -> Option<Found> {
    match helper::get(name, server) {
        Ok(login) => login.map(|login| Found {
            login,
            source: CredentialSource::Helper(helper::program(name)),
        }),
        Err(error) => {
            tracing::warn!(%error, "a credential helper is passed over");
            problem.get_or_insert(CredentialSource::FailedHelper {
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

fn look_up(files: &[Candidate], host: &str, repository: &str) -> Result<Found, Error> {
    let mut problem = None;
    for Candidate { path, required } in files {
        let file = match AuthFile::read(path) {
            Ok(Some(file)) => file,
            Ok(None) => continue,
            Err(error) if *required => return Err(error),
            Err(error) => {
                tracing::warn!(%error, "a file of credentials is passed over");
                problem = problem.or(Some(CredentialSource::Unreadable(path.clone())));
                continue;
            }
        };
        if let Some(found) = from_file(&file, path, host, repository, &mut problem) {
            return Ok(found);
        }
    }
    Ok(Found {
        login: Login::Anonymous,
        source: problem.unwrap_or(CredentialSource::None),
    })
}

/// Searches the helper for the host, then the file's own entries, then the helper for all hosts.
/// This is podman's order, in which the empty entries that docker leaves beside `credsStore` have
/// no effect.
fn from_file(
    file: &AuthFile,
    path: &Path,
    host: &str,
    repository: &str,
    problem: &mut Option<CredentialSource>,
) -> Option<Found> {
    let mut ask = |name: &str| ask(name, server_of(host), problem);
    if let Some(found) = file.helper_of(host).and_then(&mut ask) {
        return Some(found);
    }
    if let Some(login) = file.entry(host, repository) {
        let source = CredentialSource::File(path.to_owned());
        return Some(Found { login, source });
    }
    file.store().and_then(ask)
}

#[cfg(fuzzing)]
pub(crate) fn fuzz(bytes: &[u8], host: &str, repository: &str) -> bool {
    AuthFile::parse(bytes).is_ok_and(|file| {
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
    use super::*;

    #[test]
    fn files_are_looked_for_in_this_order() {
        let files = candidates(|name| match name {
            "REGISTRY_AUTH_FILE" => Some("/r/auth.json".into()),
            "XDG_RUNTIME_DIR" => Some("/run/user/1".into()),
            "HOME" => Some("/home/me".into()),
            _ => None,
        });
        let paths: Vec<_> = files.iter().map(|file| file.path.as_path()).collect();
        let expected = [
            "/r/auth.json",
            "/run/user/1/containers/auth.json",
            "/home/me/.config/containers/auth.json",
            "/home/me/.docker/config.json",
        ];
        assert_eq!(paths, expected.map(Path::new));
        assert!(files[0].required && !files[1].required);
    }

    #[test]
    fn a_damaged_default_file_does_not_stop_the_search() {
        let dir = tempfile::tempdir().unwrap();
        let broken = dir.path().join("broken");
        let good = dir.path().join("good");
        std::fs::write(&broken, "{").unwrap();
        std::fs::write(&good, r#"{"auths":{"h":{"auth":"YTpi"}}}"#).unwrap();
        let candidate = |path: &Path, required| Candidate {
            path: path.to_owned(),
            required,
        };
        let files = [candidate(&broken, false), candidate(&good, false)];
        let found = look_up(&files, "h", "a").unwrap();
        assert_eq!(found.source, CredentialSource::File(good.clone()));
        let found = look_up(&files, "other", "a").unwrap();
        assert_eq!(found.source, CredentialSource::Unreadable(broken.clone()));
        assert!(matches!(
            look_up(&[candidate(&broken, true)], "h", "a"),
            Err(Error::Credentials { .. })
        ));
    }

    #[test]
    fn helpers_that_registries_conf_names_are_asked_in_their_order() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("auth.json");
        std::fs::write(&path, r#"{"auths":{"h":{"auth":"YTpi"}}}"#).unwrap();
        let files = [Candidate {
            path: path.clone(),
            required: false,
        }];
        let found = |helpers: &[&str], host| {
            let helpers: Vec<_> = helpers.iter().map(|&name| name.to_owned()).collect();
            from_helpers(&helpers, &files, host, "a").unwrap().source
        };
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
