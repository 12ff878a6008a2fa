//! The folders that this process fills under a temporary name.
//!
//! A crash before such a folder is renamed loses all of it. So its files need not be synced one by
//! one, each with the folder, which would cost a journal commit every time: all are synced together
//! before the folder is renamed.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::folder::sync_together;
use crate::error::{Error, Result};

static FOLDERS: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());

/// Returns whether this process fills `folder`, and will sync it with the files in it.
pub(super) fn is_filled(folder: &Path) -> bool {
    folders().contains(folder)
}

/// A folder that is being filled, until this is dropped.
pub(super) struct Filling(PathBuf);

impl Filling {
    pub(super) fn begin(folder: &Path) -> Self {
        folders().insert(folder.to_owned());
        Self(folder.to_owned())
    }

    /// Syncs the folder and the files in it.
    pub(super) fn sync(self) -> Result<()> {
        let mut paths = vec![self.0.clone()];
        for entry in fs::read_dir(&self.0).map_err(Error::io(&self.0))? {
            let entry = entry.map_err(Error::io(&self.0))?;
            let path = entry.path();
            let meta = entry.metadata().map_err(Error::io(&path))?;
            // A file with a second name was synced before it was linked here.
            if meta.is_file() && meta.nlink() == 1 {
                paths.push(path);
            }
        }
        sync_together(&paths)
    }
}

impl Drop for Filling {
    fn drop(&mut self) {
        folders().remove(&self.0);
    }
}

fn folders() -> MutexGuard<'static, BTreeSet<PathBuf>> {
    FOLDERS.lock().unwrap_or_else(PoisonError::into_inner)
}
