//! Permissions of the store: only its owner can read it.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::{FOLDERS, Store};
use crate::error::{Error, Result};

const FOLDER: u32 = 0o700;

/// The mode of files that never change once made. Monitors open them for reading only.
pub(super) const READ_ONLY: u32 = 0o444;

const WRITABLE: u32 = 0o600;

/// Creates a folder and its parents, if they are missing.
pub(super) fn make_folder(path: &Path) -> Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(FOLDER)
        .create(path)
        .map_err(Error::io(path))
}

/// Lets only the owner enter the store's folders. The store's own folder and that of kernels may
/// have been made by the user, whose permissions they keep.
pub(super) fn own(store: &Store) -> Result<()> {
    FOLDERS
        .iter()
        .filter(|folder| **folder != "kernel")
        .try_for_each(|folder| set(&store.root().join(folder), FOLDER))
}

/// Gives the files of a store of an earlier version, which all users could read, the permissions of
/// new files.
pub(super) fn upgrade(store: &Store) -> Result<()> {
    set(store.root(), FOLDER)?;
    own(store)?;
    for layer in entries(&store.layers())? {
        set(&layer, READ_ONLY)?;
    }
    for image in entries(&store.images())? {
        set(&image, FOLDER)?;
        for file in entries(&image)? {
            set(&file, READ_ONLY)?;
        }
    }
    for sandbox in entries(&store.sandboxes())? {
        set(&sandbox, FOLDER)?;
        for file in entries(&sandbox)? {
            set(&file, WRITABLE)?;
        }
    }
    Ok(())
}

/// Returns the paths in a folder; none if `folder` is not a folder.
fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    match fs::read_dir(folder) {
        Ok(entries) => entries
            .map(|entry| Ok(entry.map_err(Error::io(folder))?.path()))
            .collect(),
        Err(e)
            if matches!(
                e.kind(),
                io::ErrorKind::NotADirectory | io::ErrorKind::NotFound
            ) =>
        {
            Ok(Vec::new())
        }
        Err(e) => Err(Error::io(folder)(e)),
    }
}

/// Sets the permissions of a file, or 0700 of a folder, if they differ. Another process may remove
/// it meanwhile.
fn set(path: &Path, mode: u32) -> Result<()> {
    let changed = fs::symlink_metadata(path).and_then(|meta| {
        let wanted = match meta.is_dir() {
            true => FOLDER,
            false => mode,
        };
        // Correct permissions are not set again: that would fail in the store of another user, or
        // in a read-only one.
        match meta.permissions().mode() & 0o7777 == wanted || meta.is_symlink() {
            true => Ok(()),
            false => fs::set_permissions(path, Permissions::from_mode(wanted)),
        }
    });
    match changed {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        changed => changed.map_err(Error::io(path)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn folders_that_others_can_enter_are_closed_when_the_store_is_opened() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        for folder in FOLDERS.map(|folder| store.root().join(folder)) {
            fs::set_permissions(&folder, Permissions::from_mode(0o755)).unwrap();
        }
        fs::set_permissions(store.root(), Permissions::from_mode(0o755)).unwrap();
        let store = Store::open(dir.path()).unwrap();
        for folder in FOLDERS.map(|folder| store.root().join(folder)) {
            let kept = folder.ends_with("kernel");
            let wanted = if kept { 0o755 } else { FOLDER };
            assert_eq!(mode(&folder), wanted, "{}", folder.display());
        }
        assert_eq!(mode(store.root()), 0o755);
    }

    #[test]
    fn a_new_store_is_private_and_a_folder_that_was_there_keeps_its_mode() {
        let dir = tempfile::tempdir().unwrap();
        let made = Store::open(dir.path().join("made")).unwrap();
        assert_eq!(mode(made.root()), FOLDER);
        let there = dir.path().join("there");
        fs::create_dir(&there).unwrap();
        fs::set_permissions(&there, Permissions::from_mode(0o1777)).unwrap();
        let store = Store::open(&there).unwrap();
        Store::open(&there).unwrap();
        assert_eq!(mode(&there), 0o1777);
        assert_eq!(mode(&store.images()), FOLDER);
    }

    #[test]
    fn files_of_a_store_of_version_1_get_the_permissions_of_new_ones() {
        let dir = tempfile::tempdir().unwrap();
        let digest = "a".repeat(64);
        let files = [
            (format!("layers/{digest}.erofs"), READ_ONLY),
            (format!("images/{digest}/fsmeta.erofs"), READ_ONLY),
            ("sandboxes/c/sandbox.json".to_owned(), WRITABLE),
            ("sandboxes/c/upper.ext4".to_owned(), WRITABLE),
        ];
        for folder in ["kernel", "locks"] {
            fs::create_dir(dir.path().join(folder)).unwrap();
        }
        for (file, _) in &files {
            let path = dir.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, "x").unwrap();
            fs::set_permissions(&path, Permissions::from_mode(0o666)).unwrap();
        }
        Store::open(dir.path()).unwrap();
        for (file, wanted) in files {
            let path = dir.path().join(&file);
            assert_eq!(mode(&path), wanted, "{file}");
            assert_eq!(mode(path.parent().unwrap()), FOLDER, "{file}");
        }
    }
}
