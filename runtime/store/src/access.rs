//! The store's lock: shared for those who add objects, exclusive for those who remove them.

use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::{Lock, Store};
use crate::error::{Error, Result};

/// The right to use objects of the store; while it is held, no process removes any.
#[derive(Debug)]
pub struct Shared(File);

/// The right to remove objects of the store; while it is held, no process uses or makes any.
#[derive(Debug)]
pub struct Exclusive {
    _folder: File,
}

impl Shared {
    /// Turns this into the right to remove objects, if no other process uses the store now.
    pub fn try_exclusive(self) -> Option<Exclusive> {
        // flock(2) releases the shared lock before it takes the exclusive one. This is harmless,
        // because the caller concludes nothing from the shared lock afterwards.
        self.0
            .try_lock()
            .ok()
            .map(|()| Exclusive { _folder: self.0 })
    }
}

impl Store {
    /// Waits until no process removes objects, and keeps others from removing them. The first
    /// caller after a crash sweeps up what the crash left.
    pub fn share(&self) -> Result<Shared> {
        let folder = File::open(self.root()).map_err(Error::io(self.root()))?;
        match folder.try_lock() {
            Ok(()) => {
                self.sweep()?;
                // This descriptor already has a lock, so this call converts it.
            }
            Err(TryLockError::WouldBlock) => {}
            Err(TryLockError::Error(e)) => return Err(Error::io(self.root())(e)),
        }
        folder.lock_shared().map_err(Error::io(self.root()))?;
        Ok(Shared(folder))
    }

    /// Returns the right to remove objects, if no process uses the store now.
    pub fn try_exclusive(&self) -> Result<Option<Exclusive>> {
        let folder = File::open(self.root()).map_err(Error::io(self.root()))?;
        match folder.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(e)) => return Err(Error::io(self.root())(e)),
        }
        self.sweep()?;
        Ok(Some(Exclusive { _folder: folder }))
    }

    /// Returns the files of layers that belong to no image.
    pub fn unused_layers(&self) -> Result<Vec<PathBuf>> {
        let folder = self.layers();
        let mut unused = Vec::new();
        for path in crate::names(&folder)?.iter().map(|name| folder.join(name)) {
            let meta = fs::symlink_metadata(&path).map_err(Error::io(&path))?;
            let is_layer = path.extension().is_some_and(|e| e == "erofs");
            // An image holds its layers by hard links.
            if is_layer && meta.nlink() == 1 {
                unused.push(path);
            }
        }
        Ok(unused)
    }

    /// Waits until no process uses the store.
    pub fn exclusive(&self) -> Result<Exclusive> {
        let folder = File::open(self.root()).map_err(Error::io(self.root()))?;
        folder.lock().map_err(Error::io(self.root()))?;
        self.sweep()?;
        Ok(Exclusive { _folder: folder })
    }

    /// Removes the partial objects of killed processes. No process may be making objects.
    fn sweep(&self) -> Result<()> {
        let locks = self.root().join("locks");
        for entry in fs::read_dir(&locks).map_err(Error::io(&locks))? {
            // Releasing a lock removes its file; the locks of running sandboxes are held.
            drop(Lock::try_acquire(entry.map_err(Error::io(&locks))?.path())?);
        }
        // Holders of only this lock may write files in the root itself.
        let references = Lock::try_acquire(self.lock_path("references"))?;
        let root = references.is_some().then(|| self.root().to_owned());
        let folders = [
            "layers",
            "images",
            "sandboxes",
            "snapshots",
            "volumes",
            "kernel",
        ]
        .map(|name| self.root().join(name));
        for folder in folders.into_iter().chain(root) {
            for entry in fs::read_dir(&folder).map_err(Error::io(&folder))? {
                let entry = entry.map_err(Error::io(&folder))?;
                if entry
                    .file_name()
                    .as_encoded_bytes()
                    .starts_with(super::atomic::PREFIX.as_bytes())
                {
                    remove(&entry.path())?;
                }
            }
        }
        Ok(())
    }
}

/// Removes a file or a folder; one that does not exist is not an error. A folder is renamed first,
/// so that a crash leaves a temporary folder, and never a partial object.
pub fn remove(path: &Path) -> Result<()> {
    let removed = match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => remove_folder(path),
        Ok(_) => fs::remove_file(path),
        Err(e) => Err(e),
    };
    match removed {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(Error::io(path)(e)),
        _ => Ok(()),
    }
}

fn remove_folder(path: &Path) -> io::Result<()> {
    // Only a rename: a new folder needs space, which a full disk does not have.
    let renamed = tempfile::Builder::new()
        .prefix(super::atomic::PREFIX)
        .make_in(path.parent().unwrap_or(path), |aside| {
            fs::rename(path, aside)
        })?;
    let aside = renamed.into_temp_path().keep()?;
    fs::remove_dir_all(aside)
}

impl Exclusive {
    /// Removes the layers that `candidate` accepts and that belong to no image.
    pub fn remove_unused_layers(
        &self,
        store: &Store,
        candidate: impl Fn(&Path) -> bool,
    ) -> Result<()> {
        for layer in store.unused_layers()? {
            if candidate(&layer) {
                remove(&layer)?;
                remove(&layer.with_extension("json"))?;
            }
        }
        Ok(())
    }
}
