//! What a folder holds before it is opened as a store. A folder that is certainly neither empty nor
//! a store is left alone: commands change and remove files of a store, and must never do so in a
//! folder that a mistyped path names.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::{FOLDERS, atomic, version};
use crate::error::{Error, Result};

/// The folders that version 1 made together, before anything else.
const OF_VERSION_1: [&str; 5] = ["layers", "images", "sandboxes", "kernel", "locks"];

/// What a folder holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// Nothing yet.
    Nothing,
    /// A store of version 1, which had no version file.
    Version1,
    /// A store with a version file.
    Version(u32),
}

/// Returns what `root` holds.
///
/// # Errors
///
/// [`Error::NotAStore`] if it holds anything else; [`Error::Owner`] if it is another user's store;
/// those of [`version::read`].
pub(super) fn find(root: &Path) -> Result<Found> {
    if let Some(found) = version(root)? {
        return Ok(found);
    }
    let mut names = Vec::new();
    for path in entries(root)? {
        let name = path.file_name().unwrap_or_default();
        // The folder of kernels may be made before the store; a file system has its own folder.
        let is_new = name == "kernel" || name == "lost+found" || is_temporary(name);
        if !is_new {
            names.push(path);
        }
    }
    let Some(first) = names.iter().min() else {
        return Ok(Found::Nothing);
    };
    // Another process may have made the store meanwhile: it writes the version before the rest.
    if let Some(found) = version(root)? {
        return Ok(found);
    }
    if OF_VERSION_1.iter().all(|name| root.join(name).is_dir()) {
        for path in &names {
            check_entry(root, path)?;
        }
        check_owner(root, root)?;
        return Ok(Found::Version1);
    }
    Err(foreign(root, first))
}

/// Returns what a folder with a version file holds; `None` if it has none.
fn version(root: &Path) -> Result<Option<Found>> {
    let version = version::read(root).map_err(|error| of_owner(root, error))?;
    if version.is_some() {
        check_owner(root, &root.join(version::FILE))?;
    }
    Ok(version.map(Found::Version))
}

/// Checks that an entry of a folder without a version file can only be of a store of version 1.
fn check_entry(root: &Path, path: &Path) -> Result<()> {
    let name = path.file_name().unwrap_or_default();
    let is_of_a_store: fn(&Path) -> bool = match name.to_str() {
        Some("layers") => |layer| {
            let is_one = layer.extension().is_some_and(|e| e == "erofs");
            is_one && is_digest(layer.file_stem()) && layer.is_file()
        },
        Some("images") => |image| is_digest(image.file_name()) && image.is_dir(),
        Some("sandboxes") => |sandbox| sandbox.join("sandbox.json").is_file(),
        Some("locks") => |lock| lock.is_file(),
        Some("references.json") if path.is_file() => return Ok(()),
        // Folders of later versions, which were killed before they wrote theirs.
        Some(name) if FOLDERS.contains(&name) => |_| false,
        _ => return Err(foreign(root, path)),
    };
    for entry in entries(path)? {
        if !is_temporary(entry.file_name().unwrap_or_default()) && !is_of_a_store(&entry) {
            return Err(foreign(root, &entry));
        }
    }
    Ok(())
}

fn foreign(root: &Path, entry: &Path) -> Error {
    Error::NotAStore {
        root: root.to_owned(),
        entry: entry.to_owned(),
    }
}

/// Returns whether this is the name of a file or folder that is being made.
fn is_temporary(name: &OsStr) -> bool {
    name.as_encoded_bytes()
        .starts_with(atomic::PREFIX.as_bytes())
}

/// Returns whether this is the hexadecimal form of a digest.
fn is_digest(name: Option<&OsStr>) -> bool {
    let bytes = name.unwrap_or_default().as_encoded_bytes();
    matches!(bytes.len(), 64 | 128) && bytes.iter().all(u8::is_ascii_hexdigit)
}

/// Returns the paths in a folder; none if it does not exist.
fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    match fs::read_dir(folder) {
        Ok(entries) => entries
            .map(|entry| Ok(entry.map_err(Error::io(folder))?.path()))
            .collect(),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(e) => Err(Error::io(folder)(e)),
    }
}

/// Checks that the store belongs to this user, to whom everything made in it will belong. Root is
/// no exception: the store's owner could not use what root makes there.
fn check_owner(root: &Path, of: &Path) -> Result<()> {
    let meta = fs::metadata(of).map_err(Error::io(of))?;
    if meta.uid() == rustix::process::geteuid().as_raw() {
        return Ok(());
    }
    Err(Error::Owner {
        root: root.to_owned(),
        uid: meta.uid(),
    })
}

/// Returns the error that names the owner, if `error` is that this user may not enter the store.
fn of_owner(root: &Path, error: Error) -> Error {
    let denied = match &error {
        Error::Io { source, .. } => source.kind() == io::ErrorKind::PermissionDenied,
        _ => false,
    };
    match denied.then(|| check_owner(root, root)) {
        Some(Err(owner @ Error::Owner { .. })) => owner,
        _ => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Store;

    fn put(root: &Path, path: &str) {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "x").unwrap();
    }

    #[test]
    fn a_folder_with_other_things_is_no_store_and_stays_as_it_was() {
        let digest = "a".repeat(64);
        let whole = OF_VERSION_1.map(|name| format!("{name}/"));
        let whole: Vec<&str> = whole.iter().map(String::as_str).collect();
        let refused = [
            vec!["thesis.pdf"],
            vec!["downloads/thesis.pdf"],
            vec!["images/"],
            vec!["layers/", "images/", "sandboxes/", "locks/"],
            [&whole[..], &["notes"]].concat(),
            [&whole[..], &["images/cat.png"]].concat(),
            [&whole[..], &["layers/x.erofs"]].concat(),
            [&whole[..], &["sandboxes/beach/photo"]].concat(),
            [&whole[..], &["downloads/thesis.pdf"]].concat(),
        ];
        let accepted = [
            vec![],
            vec!["kernel/libkrunfw.so.5", "lost+found/"],
            [&whole[..], &["references.json"]].concat(),
        ];
        for (made, is_store) in refused
            .iter()
            .map(|made| (made, false))
            .chain(accepted.iter().map(|made| (made, true)))
        {
            let dir = tempfile::tempdir().unwrap();
            for path in made {
                match path.strip_suffix('/') {
                    Some(folder) => fs::create_dir_all(dir.path().join(folder)).unwrap(),
                    None => put(dir.path(), path),
                }
            }
            let before = entries(dir.path()).unwrap().len();
            for opened in [Store::open_existing(dir.path()), Store::open(dir.path())] {
                match opened {
                    Ok(_) => assert!(is_store, "{made:?}"),
                    Err(error) => {
                        assert!(!is_store, "{made:?}: {error}");
                        assert!(matches!(&error, Error::NotAStore { .. }), "{error:?}");
                        assert_eq!(entries(dir.path()).unwrap().len(), before);
                    }
                }
            }
        }
        let dir = tempfile::tempdir().unwrap();
        for folder in OF_VERSION_1 {
            fs::create_dir(dir.path().join(folder)).unwrap();
        }
        put(dir.path(), &format!("layers/{digest}.erofs"));
        put(dir.path(), &format!("images/{digest}/fsmeta.erofs"));
        put(dir.path(), "sandboxes/old/sandbox.json");
        assert_eq!(find(dir.path()).unwrap(), Found::Version1);
    }

    #[test]
    fn a_store_of_another_user_names_its_owner() {
        let dir = tempfile::tempdir().unwrap();
        Store::open(dir.path()).unwrap();
        let version = dir.path().join(version::FILE);
        if std::os::unix::fs::chown(&version, Some(12_345), None).is_err() {
            testkit::skip("only root gives files to other users");
            return;
        }
        for opened in [Store::open_existing(dir.path()), Store::open(dir.path())] {
            assert!(matches!(
                opened.unwrap_err(),
                Error::Owner { uid: 12_345, .. }
            ));
        }
    }
}
