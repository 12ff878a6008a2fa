//! Locks for processes that make or use the same object.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// An exclusive lock on a name, held until dropped. Its last holder removes the lock's file, so
/// that the store keeps no files of unused locks.
#[derive(Debug)]
pub struct Lock {
    /// `None` after the lock was passed to another process.
    file: Option<File>,
    path: PathBuf,
}

impl Lock {
    /// Waits for the lock at `path`.
    pub fn acquire(path: PathBuf) -> Result<Self> {
        loop {
            let file = open(&path)?;
            file.lock().map_err(Error::io(&path))?;
            if let Some(lock) = Self::if_current(file, &path) {
                return Ok(lock);
            }
        }
    }

    /// Takes the lock at `path` if no process holds it.
    pub fn try_acquire(path: PathBuf) -> Result<Option<Self>> {
        loop {
            let file = open(&path)?;
            match file.try_lock() {
                Ok(()) => {}
                Err(fs::TryLockError::WouldBlock) => return Ok(None),
                Err(fs::TryLockError::Error(e)) => return Err(Error::io(&path)(e)),
            }
            if let Some(lock) = Self::if_current(file, &path) {
                return Ok(Some(lock));
            }
        }
    }

    /// Returns the lock if `file` is still at `path`. The previous holder may have removed the file
    /// after we opened it and before we locked it: a lock on a removed file excludes no other
    /// process.
    fn if_current(file: File, path: &Path) -> Option<Self> {
        let (ours, theirs) = (file.metadata().ok()?, fs::metadata(path).ok()?);
        (ours.ino() == theirs.ino()).then(|| Self {
            file: Some(file),
            path: path.to_owned(),
        })
    }

    /// Passes the lock on: the process that inherits the file holds it until the last copy of the
    /// file is closed.
    ///
    /// # Errors
    ///
    /// Never for a lock that is held.
    pub fn into_file(mut self) -> io::Result<File> {
        self.file
            .take()
            .ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// Takes over the lock at `path` from the process that [passed it on](Self::into_file); `None`
    /// if `file` is not that lock.
    pub fn from_file(file: File, path: PathBuf) -> Result<Option<Self>> {
        // Locking an open file that has the lock already has no effect.
        match file.try_lock() {
            Ok(()) => Ok(Self::if_current(file, &path)),
            Err(fs::TryLockError::WouldBlock) => Ok(None),
            Err(fs::TryLockError::Error(e)) => Err(Error::io(&path)(e)),
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        if let Some(file) = &self.file {
            // Removed while still locked, so that no other process can lock the removed file and
            // mistake it for the current one.
            let _ = fs::remove_file(&self.path);
            let _ = file.unlock();
        }
    }
}

fn open(path: &Path) -> Result<File> {
    File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path)
        .map_err(Error::io(path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    #[test]
    fn a_lock_has_one_holder_at_a_time_and_leaves_no_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let inside = AtomicU32::new(0);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..50 {
                        let _lock = Lock::acquire(path.clone()).unwrap();
                        assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                        inside.fetch_sub(1, Ordering::SeqCst);
                    }
                });
            }
        });
        assert!(!path.exists());
    }

    #[test]
    fn a_lock_that_is_passed_on_is_held_until_its_file_is_closed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let held = Lock::acquire(path.clone()).unwrap();
        let inherited = held.into_file().unwrap();
        assert!(Lock::try_acquire(path.clone()).unwrap().is_none());
        let other = File::open(&path).unwrap();
        assert!(Lock::from_file(other, path.clone()).unwrap().is_none());
        let held = Lock::from_file(inherited, path.clone()).unwrap().unwrap();
        assert!(Lock::try_acquire(path.clone()).unwrap().is_none());
        drop(held);
        assert!(!path.exists());
    }

    #[test]
    fn a_held_lock_is_not_taken_twice() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let held = Lock::acquire(path.clone()).unwrap();
        assert!(Lock::try_acquire(path.clone()).unwrap().is_none());
        drop(held);
        assert!(Lock::try_acquire(path).unwrap().is_some());
    }
}
