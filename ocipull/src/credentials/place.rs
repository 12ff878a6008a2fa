//! The places in which tools keep credentials.

use std::ffi::OsString;
use std::path::PathBuf;

use super::file::{AuthFile, Layout};
use crate::{CredentialSource, Error};

/// The variable that has a `config.json` as its value, for docker and for GitLab's runner.
const VARIABLE: &str = "DOCKER_AUTH_CONFIG";

/// A place that may have credentials.
pub(super) struct Place {
    kind: Kind,
    /// Whether damage is an error, because the place was named explicitly.
    pub(super) required: bool,
}

enum Kind {
    File(PathBuf, Layout),
    /// The value of [`VARIABLE`].
    Variable(OsString),
}

impl Place {
    /// A file that was named explicitly.
    pub(super) fn named(path: PathBuf) -> Self {
        Self {
            required: true,
            ..Self::file(path)
        }
    }

    /// A file that may be there.
    pub(super) fn file(path: PathBuf) -> Self {
        Self {
            kind: Kind::File(path, Layout::Current),
            required: false,
        }
    }

    /// The contents; `None` if there is no such file.
    pub(super) fn read(&self) -> Result<Option<AuthFile>, Error> {
        match &self.kind {
            Kind::File(path, layout) => AuthFile::read(path, *layout),
            Kind::Variable(value) => {
                let bytes = value.as_encoded_bytes();
                let file = AuthFile::parse(bytes, Layout::Current);
                file.map(Some).map_err(|source| Error::Credentials {
                    path: format!("${VARIABLE}").into(),
                    source,
                })
            }
        }
    }

    /// The file, if `login` may write to it.
    pub(super) fn writable(self) -> Option<PathBuf> {
        match self.kind {
            Kind::File(path, Layout::Current) => Some(path),
            _ => None,
        }
    }

    /// The place as the source of credentials.
    pub(super) fn source(&self) -> CredentialSource {
        match &self.kind {
            Kind::File(path, _) => CredentialSource::File(path.clone()),
            Kind::Variable(_) => CredentialSource::Variable(VARIABLE.to_owned()),
        }
    }

    /// The place as one whose credentials cannot be read.
    pub(super) fn unreadable(&self) -> CredentialSource {
        match &self.kind {
            Kind::File(path, _) => CredentialSource::Unreadable(path.clone()),
            Kind::Variable(_) => CredentialSource::UnreadableVariable(VARIABLE.to_owned()),
        }
    }
}

/// The usual places, in the order of the search.
pub(super) fn usual() -> Vec<Place> {
    places(|name| std::env::var_os(name))
}

fn places(env: impl Fn(&str) -> Option<OsString>) -> Vec<Place> {
    let set = |name| env(name).filter(|value| !value.is_empty());
    let folder = |name| set(name).map(PathBuf::from);
    let home = folder("HOME").or_else(|| folder("USERPROFILE"));
    let in_home = |name: &str| home.as_ref().map(|home| home.join(name));
    let named = folder("REGISTRY_AUTH_FILE").map(Place::named);
    let variable = set(VARIABLE).map(|value| Place {
        kind: Kind::Variable(value),
        required: false,
    });
    let files = [
        folder("XDG_RUNTIME_DIR").map(|dir| dir.join("containers/auth.json")),
        folder("XDG_CONFIG_HOME")
            .or(in_home(".config"))
            .map(|dir| dir.join("containers/auth.json")),
        folder("DOCKER_CONFIG")
            .or(in_home(".docker"))
            .map(|dir| dir.join("config.json")),
    ];
    let files = files.into_iter().flatten().map(Place::file);
    let legacy = in_home(".dockercfg").map(|path| Place {
        kind: Kind::File(path, Layout::Legacy),
        required: false,
    });
    let first = named.into_iter().chain(variable);
    first.chain(files).chain(legacy).collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn of_user(name: &str) -> Option<OsString> {
        match name {
            "REGISTRY_AUTH_FILE" => Some("/r/auth.json".into()),
            "DOCKER_AUTH_CONFIG" => Some(r#"{"auths":{"h":{"auth":"YTpi"}}}"#.into()),
            "XDG_RUNTIME_DIR" => Some("/run/user/1".into()),
            "HOME" => Some("/home/me".into()),
            _ => None,
        }
    }

    #[test]
    fn places_are_looked_at_in_this_order() {
        let places = places(of_user);
        let sources: Vec<_> = places.iter().map(Place::source).collect();
        let file = |path: &str| CredentialSource::File(path.into());
        let expected = [
            file("/r/auth.json"),
            CredentialSource::Variable("DOCKER_AUTH_CONFIG".to_owned()),
            file("/run/user/1/containers/auth.json"),
            file("/home/me/.config/containers/auth.json"),
            file("/home/me/.docker/config.json"),
            file("/home/me/.dockercfg"),
        ];
        assert_eq!(sources, expected);
        let required: Vec<_> = places.iter().map(|place| place.required).collect();
        assert_eq!(required, [true, false, false, false, false, false]);
    }

    #[test]
    fn nothing_is_written_to_a_variable_or_a_legacy_file() {
        let written = places(of_user).into_iter().filter_map(Place::writable);
        let written: Vec<_> = written.collect();
        let expected = [
            "/r/auth.json",
            "/run/user/1/containers/auth.json",
            "/home/me/.config/containers/auth.json",
            "/home/me/.docker/config.json",
        ];
        assert_eq!(written, expected.map(Path::new));
    }

    #[test]
    fn the_variable_is_read_as_the_file_is_and_damage_names_it() {
        let place = |value: &str| Place {
            kind: Kind::Variable(value.into()),
            required: false,
        };
        let file = place(r#"{"auths":{"h":{"auth":"YTpi"}}}"#).read();
        assert!(file.unwrap().unwrap().entry("h", "r").is_some());
        let error = place("{").read().err().unwrap();
        assert!(error.to_string().contains("$DOCKER_AUTH_CONFIG"), "{error}");
    }
}
