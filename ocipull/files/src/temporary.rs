//! The temporary names of this process's files and folders.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The prefix of the names of incomplete files and folders.
pub const PREFIX: &str = ".tmp-";

static NAMES: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());

/// A temporary name that is registered until this is dropped.
#[derive(Debug)]
pub(crate) struct Registered(PathBuf);

impl Registered {
    /// Makes something whose path is then `path_of` it.
    pub(crate) fn make<T>(
        make: impl FnOnce() -> io::Result<T>,
        path_of: impl FnOnce(&T) -> &Path,
    ) -> io::Result<(T, Self)> {
        // Held while it is made, so that [`remove_unfinished`] misses nothing.
        let mut names = names();
        let made = make()?;
        // The working directory may change.
        let path = std::path::absolute(path_of(&made))?;
        names.insert(path.clone());
        Ok((made, Self(path)))
    }

    /// Gives what is complete its name. [`remove_unfinished`] comes before or after this, because
    /// it would go on in a folder that has its name already.
    pub(crate) fn finish(&self, name: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        let mut names = names();
        name()?;
        names.remove(&self.0);
        Ok(())
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        names().remove(&self.0);
    }
}

/// Removes the incomplete files and folders of this process that have temporary names. Only for a
/// process that ends now: making or naming another one then waits for ever.
pub fn remove_unfinished() {
    let names = names();
    remove(&names);
    std::mem::forget(names);
}

fn remove(names: &BTreeSet<PathBuf>) {
    for path in names {
        // Nothing can be done about one that stays. Other threads may go on to write to a folder.
        if fs::remove_file(path).is_err() {
            let _ = fs::remove_dir_all(path).or_else(|_| fs::remove_dir_all(path));
        }
    }
}

fn names() -> MutexGuard<'static, BTreeSet<PathBuf>> {
    NAMES.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use super::*;

    #[test]
    fn a_temporary_name_is_registered_until_it_is_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let make = || tempfile::NamedTempFile::new_in(dir.path());
        let (file, registered) = Registered::make(make, |file| file.path()).unwrap();
        let mine: BTreeSet<_> = [file.path().to_owned()].into();
        assert!(mine.is_subset(&names()));
        remove(&mine);
        assert!(!file.path().exists());
        drop(registered);
        assert!(!mine.is_subset(&names()));
    }

    #[test]
    fn a_folder_is_removed_with_what_is_in_it_unless_it_has_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let make = || tempfile::tempdir_in(dir.path());
        for finished in [false, true] {
            let (folder, registered) = Registered::make(make, tempfile::TempDir::path).unwrap();
            fs::create_dir(folder.path().join("sub")).unwrap();
            fs::write(folder.path().join("sub/file"), "contents").unwrap();
            if finished {
                registered.finish(|| Ok(())).unwrap();
            }
            let mine = [folder.path().to_owned()].into();
            let left: BTreeSet<_> = names().intersection(&mine).cloned().collect();
            remove(&left);
            assert_eq!(folder.path().exists(), finished);
        }
    }
}
