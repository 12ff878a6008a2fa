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

/// Lets only the owner enter the store's folders.
pub(super) fn own(root: &Path) -> Result<()> {
    set(root, FOLDER)?;
    FOLDERS
        .iter()
        .try_for_each(|folder| set(&root.join(folder), FOLDER))
}

/// Gives the files of a store of an earlier version, which all users could read, the permissions of
/// new files.
pub(super) fn upgrade(store: &Store) -> Result<()> {
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
            assert_eq!(mode(&folder), FOLDER, "{}", folder.display());
        }
        assert_eq!(mode(store.root()), FOLDER);
    }

    #[test]
    fn files_of_a_store_of_version_1_get_the_permissions_of_new_ones() {
        let dir = tempfile::tempdir().unwrap();
        let files = [
            ("layers/a.erofs", READ_ONLY),
            ("images/b/fsmeta.erofs", READ_ONLY),
            ("sandboxes/c/upper.ext4", WRITABLE),
        ];
        for (file, _) in files {
            let path = dir.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, "x").unwrap();
            fs::set_permissions(&path, Permissions::from_mode(0o666)).unwrap();
        }
        Store::open(dir.path()).unwrap();
        for (file, wanted) in files {
            let path = dir.path().join(file);
            assert_eq!(mode(&path), wanted, "{file}");
            assert_eq!(mode(path.parent().unwrap()), FOLDER, "{file}");
        }
    }
}
