//! The files that `docker login` and `podman login` write.

use std::collections::HashMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use oci_client::secrets::RegistryAuth;
use serde::Deserialize;

use crate::{Credentials, Error};

/// The largest such file that is read, in bytes.
const MAX_FILE: u64 = 4 << 20;

/// What Docker calls Docker Hub in its file.
const DOCKER_HUB: &str = "https://index.docker.io/v1/";

impl Credentials {
    /// What to tell the registry `host` about who asks for `repository`.
    pub(crate) fn find(&self, host: &str, repository: &str) -> Result<RegistryAuth, Error> {
        match self {
            Self::Anonymous => Ok(RegistryAuth::Anonymous),
            Self::Basic { username, password } => Ok(RegistryAuth::Basic(
                username.clone(),
                password.reveal().to_owned(),
            )),
            Self::File(path) => look_up(std::slice::from_ref(path), host, repository),
            Self::Default => look_up(
                &default_files(|name| std::env::var_os(name)),
                host,
                repository,
            ),
        }
    }
}

fn default_files(env: impl Fn(&str) -> Option<OsString>) -> Vec<PathBuf> {
    let folder = |name| {
        env(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    let home = folder("HOME")
        .or_else(|| folder("USERPROFILE"))
        .map(|home| home.join(".docker"));
    [
        folder("REGISTRY_AUTH_FILE"),
        folder("XDG_RUNTIME_DIR").map(|dir| dir.join("containers/auth.json")),
        folder("DOCKER_CONFIG")
            .or(home)
            .map(|dir| dir.join("config.json")),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn look_up(files: &[PathBuf], host: &str, repository: &str) -> Result<RegistryAuth, Error> {
    for path in files {
        if let Some(file) = AuthFile::read(path)?
            && let Some(auth) = file.find(path, host, repository)
        {
            return Ok(auth);
        }
    }
    Ok(RegistryAuth::Anonymous)
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct AuthFile {
    auths: HashMap<String, Entry>,
    cred_helpers: HashMap<String, String>,
    creds_store: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Entry {
    auth: String,
    username: String,
    password: String,
    registrytoken: String,
}

impl AuthFile {
    fn read(path: &Path) -> Result<Option<Self>, Error> {
        use std::io::Read as _;
        let mut bytes = Vec::new();
        let opened = std::fs::File::open(path);
        match opened.and_then(|file| file.take(MAX_FILE).read_to_end(&mut bytes)) {
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(source) => {
                return Err(Error::Io {
                    path: path.to_owned(),
                    source,
                });
            }
        }
        serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|source| Error::Credentials {
                path: path.to_owned(),
                source,
            })
    }

    fn find(&self, path: &Path, host: &str, repository: &str) -> Option<RegistryAuth> {
        // podman: the longest prefix of HOST/REPOSITORY; docker: the host, perhaps as an address.
        let mut name = format!("{host}/{repository}");
        let prefixes = std::iter::from_fn(|| {
            let this = (!name.is_empty()).then(|| name.clone())?;
            name.truncate(name.rfind('/').unwrap_or(0));
            Some(this)
        });
        let names = prefixes.chain((host == "docker.io").then(|| DOCKER_HUB.to_owned()));
        for name in names {
            let entry = self.auths.get(&name).or_else(|| {
                self.auths
                    .iter()
                    .find(|(key, _)| is_address_of(key, &name))
                    .map(|(_, entry)| entry)
            });
            if let Some(auth) = entry.and_then(Entry::auth) {
                return Some(auth);
            }
        }
        if self.cred_helpers.contains_key(host) || self.creds_store.is_some() {
            tracing::warn!(file = %path.display(), host,
                "credential helpers are not used; `docker login` without one, or $REGISTRY_AUTH_FILE, is");
        }
        None
    }
}

/// Whether `key` is `host` with a scheme before or a path behind it.
fn is_address_of(key: &str, host: &str) -> bool {
    let rest = key
        .strip_prefix("https://")
        .or_else(|| key.strip_prefix("http://"));
    rest.is_some_and(|rest| rest.split('/').next() == Some(host))
}

impl Entry {
    fn auth(&self) -> Option<RegistryAuth> {
        if !self.registrytoken.is_empty() {
            return Some(RegistryAuth::Bearer(self.registrytoken.clone()));
        }
        let decoded = base64::engine::general_purpose::STANDARD
            .decode(self.auth.trim())
            .ok()?;
        let decoded = String::from_utf8(decoded).ok()?;
        match decoded.split_once(':') {
            Some((username, password)) if !username.is_empty() => {
                // Docker pads with NULs.
                let password = password.trim_end_matches('\0');
                Some(RegistryAuth::Basic(
                    username.to_owned(),
                    password.to_owned(),
                ))
            }
            _ if !self.username.is_empty() => Some(RegistryAuth::Basic(
                self.username.clone(),
                self.password.clone(),
            )),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(json: &str, host: &str, repository: &str) -> Option<RegistryAuth> {
        let file: AuthFile = serde_json::from_str(json).expect("valid");
        file.find(Path::new("test"), host, repository)
    }

    fn basic(username: &str, password: &str) -> Option<RegistryAuth> {
        Some(RegistryAuth::Basic(
            username.to_owned(),
            password.to_owned(),
        ))
    }

    // base64 of a:b and c:d:e
    const FILE: &str = r#"{"auths": {
        "https://index.docker.io/v1/": {"auth": "YTpi"},
        "ghcr.io": {"auth": "YTpi"},
        "ghcr.io/team/app": {"auth": "YzpkOmU="},
        "https://old.example:5000/v2/": {"auth": "YTpi"},
        "empty.example": {},
        "plain.example": {"username": "u", "password": "p"}
    }, "credsStore": "desktop"}"#;

    #[test]
    fn entries_are_found_as_docker_and_podman_find_them() {
        assert_eq!(find(FILE, "docker.io", "library/debian"), basic("a", "b"));
        assert_eq!(find(FILE, "ghcr.io", "team/other"), basic("a", "b"));
        assert_eq!(find(FILE, "ghcr.io", "team/app"), basic("c", "d:e"));
        assert_eq!(find(FILE, "ghcr.io", "team/app/sub"), basic("c", "d:e"));
        assert_eq!(find(FILE, "old.example:5000", "x"), basic("a", "b"));
        assert_eq!(find(FILE, "plain.example", "x"), basic("u", "p"));
    }

    #[test]
    fn credentials_of_one_host_never_go_to_another() {
        for host in [
            "evil.example",
            "ghcr.io.evil",
            "empty.example",
            "old.example",
        ] {
            assert_eq!(find(FILE, host, "ghcr.io/team/app"), None, "{host}");
        }
    }

    #[test]
    fn files_are_looked_for_in_this_order() {
        let files = default_files(|name| match name {
            "REGISTRY_AUTH_FILE" => Some("/r/auth.json".into()),
            "XDG_RUNTIME_DIR" => Some("/run/user/1".into()),
            "HOME" => Some("/home/me".into()),
            _ => None,
        });
        let expected = [
            "/r/auth.json",
            "/run/user/1/containers/auth.json",
            "/home/me/.docker/config.json",
        ];
        assert_eq!(files, expected.map(PathBuf::from));
    }
}
