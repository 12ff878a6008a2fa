//! The values of secrets, which are only in memory: they are passed from the program that starts a
//! sandbox to its monitor, and into the guest.

mod value;

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::OsStringExt;
use std::path::Path;

use blockbox_store::spec::{Secret, SecretSource};

pub(crate) use value::Value;

use crate::error::{Error, Result};

/// The most bytes of all secrets together, which are sent to the guest in one message.
const MOST: u64 = 512 << 10;

/// Checks that all names are distinct file names.
///
/// # Errors
///
/// [`Error::SecretName`].
pub(crate) fn check(secrets: &[Secret]) -> Result<()> {
    for (index, secret) in secrets.iter().enumerate() {
        let name = &*secret.name;
        let plain = !matches!(name, "" | "." | "..") && !name.contains(['/', '\0']);
        let twice = secrets[..index].iter().any(|other| other.name == name);
        if !plain || twice || name.len() > 255 {
            return Err(Error::SecretName(name.to_owned()));
        }
    }
    Ok(())
}

/// Returns the values: those in `given`, and for the others those read from their sources.
///
/// # Errors
///
/// [`Error::SecretValue`] with the secret's name.
pub(crate) fn read(secrets: &[Secret], given: &[Value]) -> Result<Vec<Value>> {
    let mut left = MOST;
    let mut values = Vec::new();
    for secret in secrets {
        let failed = |reason: String| Error::SecretValue {
            secret: secret.name.clone(),
            reason,
        };
        let given = given.iter().find(|value| value.name == secret.name);
        let data = match (&secret.source, given) {
            (_, Some(value)) => value.data.0.clone(),
            (SecretSource::File { path }, None) => {
                let mut data = Vec::new();
                // One more byte shows that the file is too long.
                let file = open(path).map(|file| file.take(MOST + 1));
                file.and_then(|mut file| file.read_to_end(&mut data))
                    .map_err(|e| failed(format!("{}: {e}", path.display())))?;
                data
            }
            (SecretSource::Environment { variable }, None) => std::env::var_os(variable)
                .ok_or_else(|| failed(format!("the environment has no variable {variable}")))?
                .into_vec(),
            _ => return Err(failed("its value is to be given at every start".to_owned())),
        };
        left = (data.len() as u64 <= left)
            .then(|| left - data.len() as u64)
            .ok_or_else(|| failed(format!("secrets hold at most {MOST} bytes together")))?;
        values.push(Value::new(&secret.name, data));
    }
    Ok(values)
}

/// Opens a secret's file: a regular file only if no symbolic link leads to it.
fn open(path: &Path) -> io::Result<File> {
    let file = blockbox_files::open_input(path)?;
    if !file.metadata()?.is_file() {
        return Ok(file);
    }
    #[cfg(target_os = "linux")]
    let opened = {
        use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat2};
        use rustix::io::Errno;

        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        match openat2(CWD, path, flags, Mode::empty(), ResolveFlags::NO_SYMLINKS) {
            Ok(file) => Some(file.into()),
            Err(Errno::LOOP) => None,
            Err(error) => return Err(error.into()),
        }
    };
    #[cfg(not(target_os = "linux"))]
    let opened = (path.canonicalize()? == path).then_some(file);
    opened.ok_or_else(|| io::Error::other("a symbolic link leads to it now"))
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    use super::*;

    fn file(name: &str, path: &str) -> Secret {
        let path = path.into();
        Secret::new(name, SecretSource::File { path })
    }

    #[test]
    fn a_secrets_name_is_a_file_name_and_unique() {
        assert!(check(&[file("a", "/x"), file("b.c-d", "/x")]).is_ok());
        for wrong in ["", ".", "..", "a/b"] {
            assert!(check(&[file(wrong, "/x")]).is_err(), "{wrong}");
        }
        assert!(check(&[file("a", "/x"), file("a", "/y")]).is_err());
    }

    #[test]
    fn a_symbolic_link_in_place_of_a_secrets_file_is_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().canonicalize().unwrap();
        let at = |name: &str| folder.join(name).display().to_string();
        std::fs::create_dir(at("real")).unwrap();
        std::fs::write(at("real/token"), "value").unwrap();
        let value = |path: &str| read(&[file("a", path)], &[]).map(|read| read[0].data.0.clone());
        assert_eq!(value(&at("real/token")).unwrap(), b"value");
        std::os::unix::fs::symlink("real", at("folder")).unwrap();
        std::os::unix::fs::symlink("real/token", at("link")).unwrap();
        for link in ["folder/token", "link"] {
            let refused = value(&at(link)).unwrap_err().to_string();
            assert!(refused.contains("symbolic link"), "{refused}");
            // A link that existed when the secret was made is resolved.
            let named = SecretSource::file(Path::new(&at(link))).unwrap();
            let path = at("real/token").into();
            assert_eq!(named, SecretSource::File { path });
        }
    }

    #[test]
    fn a_missing_or_endless_value_is_an_error_with_the_secrets_name() {
        let failed = |secret| read(&[secret], &[]).unwrap_err().to_string();
        assert!(failed(file("a", "/no/such/file")).contains("\"a\": /no/such/file"));
        assert!(failed(file("a", "/dev/zero")).contains("not a regular file"));
        // As the shell names a process substitution.
        let endless = File::open("/dev/zero").unwrap();
        let endless = format!("/dev/fd/{}", endless.as_raw_fd());
        assert!(failed(file("a", &endless)).contains("at most"));
        assert!(failed(Secret::new("a", SecretSource::Given)).contains("every start"));
        let given = [Value::new("a", b"x".to_vec())];
        let read = read(&[Secret::new("a", SecretSource::Given)], &given).unwrap();
        assert_eq!(read[0].data.as_bytes(), b"x");
        assert!(!format!("{read:?}").contains('x'));
    }
}
