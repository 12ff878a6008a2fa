//! The temporary names of this process's files.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tempfile::NamedTempFile;

/// The prefix of the names of incomplete files.
pub const PREFIX: &str = ".tmp-";

static NAMES: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());

/// A temporary name that is registered until this is dropped.
#[derive(Debug)]
pub(crate) struct Registered(PathBuf);

impl Registered {
    pub(crate) fn make<F>(
        make: impl FnOnce() -> io::Result<NamedTempFile<F>>,
    ) -> io::Result<(NamedTempFile<F>, Self)> {
        // Held while the file is created, so that [`remove_unfinished`] misses none.
        let mut names = names();
        let file = make()?;
        // The working directory may change.
        let path = std::path::absolute(file.path())?;
        names.insert(path.clone());
        Ok((file, Self(path)))
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        names().remove(&self.0);
    }
}

/// Removes the incomplete files of this process that have temporary names. Only for a process that
/// ends now: creating another such file then waits for ever.
pub fn remove_unfinished() {
    let names = names();
    remove(&names);
    std::mem::forget(names);
}

fn remove(names: &BTreeSet<PathBuf>) {
    for path in names {
        // Nothing can be done about one that stays.
        let _ = fs::remove_file(path);
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
        let (file, registered) = Registered::make(|| NamedTempFile::new_in(dir.path())).unwrap();
        let mine: BTreeSet<_> = [file.path().to_owned()].into();
        assert!(mine.is_subset(&names()));
        remove(&mine);
        assert!(!file.path().exists());
        drop(registered);
        assert!(!mine.is_subset(&names()));
    }
}
