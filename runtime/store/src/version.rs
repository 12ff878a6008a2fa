//! The version of the layout of a store.

use std::io::{self, Write};
use std::path::Path;

use super::atomic;
use crate::error::{Error, Result};

/// The version that this program writes. Version 1 had no version file and no checksums, and all
/// users could read its files.
pub(super) const CURRENT: u32 = 2;

/// The name of the file with the version.
pub(super) const FILE: &str = "version";

/// Reads the version of the store in `root`; `None` for a new store and for version 1.
pub(super) fn read(root: &Path) -> Result<Option<u32>> {
    let path = root.join(FILE);
    let text = match atomic::read(&path) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).trim().to_owned(),
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(Error::io(&path)(e)),
    };
    match text.parse() {
        Ok(version @ 1..=CURRENT) => Ok(Some(version)),
        _ => Err(unknown(root, &path, text.chars().take(20).collect())),
    }
}

/// Returns the error for an unknown version. Later programs write a version that begins with a
/// number; anything else is damage, as from a crash of the host.
fn unknown(root: &Path, path: &Path, found: String) -> Error {
    match found.starts_with(|first: char| matches!(first, '1'..='9')) {
        true => Error::Version {
            root: root.to_owned(),
            found,
            known: CURRENT,
        },
        false => Error::NoVersion {
            path: path.to_owned(),
            found,
            current: CURRENT,
        },
    }
}

/// Writes the version of the store in `root`.
pub(super) fn write(root: &Path) -> Result<()> {
    let path = root.join(FILE);
    atomic::write_file(&path, |file| {
        writeln!(file, "{CURRENT}").map_err(Error::io(&path))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Store;
    use crate::found::{self, Found};
    use std::fs;

    #[test]
    fn a_store_of_a_later_version_is_refused_and_stays_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        for later in ["3\n", "2.1"] {
            fs::write(dir.path().join(FILE), later).unwrap();
            let error = Store::open(dir.path()).unwrap_err();
            let named = later.trim();
            assert!(matches!(&error, Error::Version { found, .. } if found == named));
            assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        }
    }

    #[test]
    fn a_damaged_version_is_reported_as_such_and_stays_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        for damaged in ["", "\0\0", "0", "soon"] {
            fs::write(dir.path().join(FILE), damaged).unwrap();
            let error = Store::open(dir.path()).unwrap_err();
            let path = dir.path().join(FILE);
            assert!(error.to_string().starts_with(&path.display().to_string()));
            assert!(matches!(&error, Error::NoVersion { current: 2, .. }));
            assert_eq!(fs::read_to_string(path).unwrap(), damaged);
        }
    }

    #[test]
    fn a_new_store_is_opened_by_many_at_once() {
        for _ in 0..20 {
            let dir = tempfile::tempdir().unwrap();
            std::thread::scope(|scope| {
                for _ in 0..8 {
                    scope.spawn(|| drop(Store::open(dir.path()).unwrap().share().unwrap()));
                }
            });
            assert_eq!(read(dir.path()).unwrap(), Some(CURRENT));
        }
    }

    #[test]
    fn a_store_that_appears_meanwhile_is_no_folder_of_somebody_else() {
        for _ in 0..50 {
            let dir = tempfile::tempdir().unwrap();
            std::thread::scope(|scope| {
                scope.spawn(|| drop(Store::open(dir.path()).unwrap()));
                while found::find(dir.path()).unwrap() == Found::Nothing {}
            });
        }
    }

    #[test]
    fn a_store_without_a_version_is_upgraded() {
        let dir = tempfile::tempdir().unwrap();
        Store::open(dir.path()).unwrap();
        assert_eq!(read(dir.path()).unwrap(), Some(CURRENT));
    }
}
