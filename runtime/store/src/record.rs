//! What the store knows of sandboxes.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::Store;
use crate::error::{Error, Result};

const RECORD: &str = "sandbox.json";

/// The name of a sandbox's writable disk in the sandbox's folder.
pub const UPPER: &str = "upper.ext4";

/// The name of the log of a sandbox's console in the sandbox's folder.
pub const CONSOLE: &str = "console.log";

/// What the store knows of a sandbox.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Record {
    /// Its name.
    pub name: String,
    /// The name of its image when it was made.
    pub image: String,
    /// The digest of its image's manifest.
    pub manifest_digest: String,
    /// When it was made, in seconds since the epoch.
    pub created: u64,
}

impl Record {
    /// Whether a process holds the sandbox now.
    pub fn is_running(&self, store: &Store) -> Result<bool> {
        Ok(store.lock_sandbox(&self.name)?.is_none())
    }

    /// The bytes that the writable disk takes on the host.
    pub fn allocated_bytes(&self, store: &Store) -> Result<u64> {
        let path = store.sandbox(&self.name).join(UPPER);
        Ok(fs::metadata(&path).map_err(Error::io(&path))?.blocks() * 512)
    }

    /// Reads the record of the sandbox whose folder is `folder`; `None` where there is none.
    ///
    /// # Errors
    ///
    /// [`Error::Io`], [`Error::Record`].
    pub fn read(folder: &Path) -> Result<Option<Self>> {
        let path = folder.join(RECORD);
        let bytes = match fs::read(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            bytes => bytes.map_err(Error::io(&path))?,
        };
        let record =
            serde_json::from_slice(&bytes).map_err(|source| Error::Record { path, source })?;
        Ok(Some(record))
    }

    /// Writes the record into the folder `folder` of its sandbox.
    ///
    /// # Errors
    ///
    /// [`Error::Io`].
    pub fn write(&self, folder: &Path) -> Result<()> {
        let path = folder.join(RECORD);
        let file = File::create(&path).map_err(Error::io(&path))?;
        serde_json::to_writer_pretty(file, self).map_err(|e| Error::io(&path)(e.into()))
    }

    /// All sandboxes, by name.
    ///
    /// # Errors
    ///
    /// As [`read`](Self::read).
    pub fn list(store: &Store) -> Result<Vec<Self>> {
        let folder = store.sandboxes();
        let mut found = Vec::new();
        for entry in fs::read_dir(&folder).map_err(Error::io(&folder))? {
            let path = entry.map_err(Error::io(&folder))?.path().join(RECORD);
            // A sandbox that is being made or removed has no record.
            let Ok(bytes) = fs::read(&path) else { continue };
            let record: Self =
                serde_json::from_slice(&bytes).map_err(|source| Error::Record { path, source })?;
            found.push(record);
        }
        found.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(found)
    }
}
