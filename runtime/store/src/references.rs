//! Names that point at images.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::PathBuf;
use std::time::SystemTime;

use ocipull::Digest;
use serde::{Deserialize, Serialize};

use super::{Lock, Store, atomic};
use crate::error::{Error, Result};

/// What a name points at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reference {
    /// The digest of the image's manifest for one platform.
    pub manifest_digest: String,
    /// When the name was last pulled, in seconds since the epoch.
    pub pulled: u64,
}

impl Reference {
    /// What a name points at that is pulled now.
    pub fn now(manifest: &Digest) -> Self {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        Self {
            manifest_digest: manifest.to_string(),
            pulled: now.unwrap_or_default().as_secs(),
        }
    }
}

/// The table of names, `references.json`.
#[derive(Debug)]
pub struct References<'s> {
    store: &'s Store,
    path: PathBuf,
}

impl<'s> References<'s> {
    pub(super) fn new(store: &'s Store) -> Self {
        Self {
            store,
            path: store.root.join("references.json"),
        }
    }

    /// All names.
    pub fn read(&self) -> Result<BTreeMap<String, Reference>> {
        match fs::read(&self.path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|source| Error::Record {
                path: self.path.clone(),
                source,
            }),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(BTreeMap::new()),
            Err(e) => Err(Error::io(&self.path)(e)),
        }
    }

    /// Changes the table; nobody else can change it meanwhile.
    pub fn update(&self, change: impl FnOnce(&mut BTreeMap<String, Reference>)) -> Result<()> {
        let _lock = Lock::acquire(self.store.lock_path("references"))?;
        let mut table = self.read()?;
        change(&mut table);
        atomic::write_file(&self.path, |file| {
            atomic::json(file, &table).map_err(Error::io(&self.path))
        })
    }
}
