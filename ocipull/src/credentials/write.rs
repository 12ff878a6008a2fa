//! Storing and erasing credentials, for `login` and `logout`.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use serde_json::json;

use super::file::{self, AuthFile, Key, Layout};
use super::place::{self, Place};
use super::{helper, server_of};
use crate::{Cause, CredentialSource, Error, Secret};

/// Keeps `username` and `password` for the registry `host` (as [`Reference`](crate::Reference) has
/// it), and returns where.
///
/// `path` is the file; without one, it is the first of the [default
/// files](crate::Credentials::Default) that exists, or else the first of them that is not volatile.
/// Where the file names a credential helper for the host, the helper keeps them. The file's other
/// members stay as they are. It is replaced in one step and readable by its owner alone (mode
/// 0600).
///
/// ```no_run
/// use std::path::Path;
/// use ocipull::{Secret, credentials};
///
/// let file = Path::new("auth.json");
/// credentials::store(Some(file), "registry.example.org", "reader", &Secret::new("secret"))?;
/// assert!(credentials::erase(Some(file), "registry.example.org")?);
/// # Ok::<(), ocipull::Error>(())
/// ```
///
/// # Errors
///
/// [`Error::Io`] and [`Error::Credentials`] for the file, which then stays as it was;
/// [`Error::Helper`].
pub fn store(
    path: Option<&Path>,
    host: &str,
    username: &str,
    password: &Secret,
) -> Result<CredentialSource, Error> {
    let path = target(path)?;
    let mut auth_file = AuthFile::read(&path, Layout::Current)?.unwrap_or_default();
    let helper = auth_file.helper_of(host).or_else(|| auth_file.store());
    if let Some(name) = helper {
        return match helper::store(name, server_of(host), username, password) {
            Ok(()) => Ok(CredentialSource::Helper(helper::program(name))),
            Err(error) => Err(failed(name, error)),
        };
    }
    let mut auths = auth_file.take_auths();
    auths.retain(|key, _| !is_for(key, host));
    let entry = json!({"auth": file::encode(username.as_bytes(), password)});
    auths.insert(server_of(host).to_owned(), entry);
    auth_file.set_auths(auths);
    write(&path, &auth_file)?;
    Ok(CredentialSource::File(path))
}

/// Forgets the credentials for the registry `host`, and returns whether there were any.
///
/// ```no_run
/// use ocipull::credentials;
///
/// // In the file that `docker login` or `podman login` wrote.
/// let known = credentials::erase(None, "registry.example.org")?;
/// println!("{}", if known { "logged out" } else { "was not logged in" });
/// # Ok::<(), ocipull::Error>(())
/// ```
///
/// # Errors
///
/// Those of [`store`].
pub fn erase(path: Option<&Path>, host: &str) -> Result<bool, Error> {
    let path = target(path)?;
    let Some(mut auth_file) = AuthFile::read(&path, Layout::Current)? else {
        return Ok(false);
    };
    let mut erased = false;
    if let Some(name) = auth_file.helper_of(host).or_else(|| auth_file.store()) {
        erased = helper::erase(name, server_of(host)).map_err(|error| failed(name, error))?;
    }
    let mut auths = auth_file.take_auths();
    let before = auths.len();
    auths.retain(|key, _| !is_for(key, host));
    let changed = auths.len() != before;
    auth_file.set_auths(auths);
    if changed {
        write(&path, &auth_file)?;
        erased = true;
    }
    Ok(erased)
}

fn failed(name: &str, error: helper::HelperError) -> Error {
    Error::Helper {
        program: helper::program(name),
        source: Cause::new(error),
    }
}

fn target(path: Option<&Path>) -> Result<PathBuf, Error> {
    if let Some(path) = path {
        return Ok(path.to_owned());
    }
    let places = place::usual();
    // A file that was named is written to whether it exists or not.
    let named = places.iter().position(|place| place.required);
    let files = places.into_iter().filter_map(Place::writable);
    let files: Vec<_> = files.collect();
    let existing = files.iter().position(|path| path.exists());
    // Files under $XDG_RUNTIME_DIR are deleted at the end of the session.
    let usual = files.len().checked_sub(2);
    let chosen = named.or(existing).or(usual).unwrap_or(0);
    files.into_iter().nth(chosen).ok_or_else(|| Error::Io {
        path: PathBuf::from("~"),
        source: std::io::Error::other("neither $HOME nor $REGISTRY_AUTH_FILE is set"),
    })
}

/// Whether the entry `key` is that of `host`, not of one of its repositories.
fn is_for(key: &str, host: &str) -> bool {
    Key::of(key).is_whole_host(host)
}

/// Replaces the file; a symlink to it stays one.
fn write(path: &Path, auth_file: &AuthFile) -> Result<(), Error> {
    let io = |source| Error::Io {
        path: path.to_owned(),
        source,
    };
    let path = &fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let dir = match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    };
    fs::create_dir_all(dir).map_err(io)?;
    let mut text = auth_file.to_json();
    text.push(b'\n');
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.tmp", std::process::id()));
    let temporary = dir.join(name);
    let _ = fs::remove_file(&temporary);
    let mut options = fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let written = options.open(&temporary).and_then(|mut file| {
        file.write_all(&text)?;
        file.sync_all()
    });
    let replaced = written.and_then(|()| fs::rename(&temporary, path));
    replaced.map_err(|error| {
        let _ = fs::remove_file(&temporary);
        io(error)
    })
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::Credentials;
    use crate::credentials::{Login, Search};

    fn login(path: &Path, host: &str) -> Login {
        let credentials = Credentials::File(path.to_owned());
        let found = credentials.find(host, "app", Search::default());
        found.unwrap().login
    }

    #[test]
    fn stored_credentials_are_found_and_erased_ones_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("new/auth.json");
        for host in ["docker.io", "x.y:5000"] {
            let source = store(Some(&path), host, "me", &Secret::new("p:w")).unwrap();
            assert_eq!(source, CredentialSource::File(path.clone()));
            store(Some(&path), host, "me", &Secret::new("p:w2")).unwrap();
            let expected = Login::Basic {
                username: b"me".to_vec(),
                password: Secret::new("p:w2"),
            };
            assert_eq!(login(&path, host), expected);
        }
        assert!(erase(Some(&path), "x.y:5000").unwrap());
        assert!(!erase(Some(&path), "x.y:5000").unwrap());
        assert_eq!(login(&path, "x.y:5000"), Login::Anonymous);
        assert_ne!(login(&path, "docker.io"), Login::Anonymous);
    }

    #[cfg(unix)]
    #[test]
    fn only_the_owner_can_read_the_file() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("auth.json");
        fs::write(&path, "{}").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        store(Some(&path), "h", "me", &Secret::new("x")).unwrap();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn writing_keeps_the_other_members_of_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.json");
        let before = r#"{"HttpHeaders":{"a":"b"},"auths":{"http://h/":{"auth":"YTpi"},"h/r":{"auth":"YTpi"},"g":{}},"z":[1]}"#;
        fs::write(&path, before).unwrap();
        store(Some(&path), "h", "me", &Secret::new("x")).unwrap();
        let after: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        let expected = json!({"HttpHeaders":{"a":"b"},"auths":{"h":{"auth":"bWU6eA=="},"h/r":{"auth":"YTpi"},"g":{}},"z":[1]});
        assert_eq!(after, expected);
        fs::write(&path, "{ damaged").unwrap();
        assert!(store(Some(&path), "h", "me", &Secret::new("x")).is_err());
        assert_eq!(fs::read(&path).unwrap(), b"{ damaged");
    }
}
