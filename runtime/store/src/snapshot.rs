//! Records of snapshots: `snapshot.json` in the folder of each.

use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::spec::Spec;
use crate::{Listing, Store, atomic};

/// The version of the records that this version writes.
pub const VERSION: u32 = 1;

/// The record's name in the folder of a snapshot.
pub const FILE: &str = "snapshot.json";

/// The name of the file with the guest's memory, in the folder of a snapshot that has it.
pub const MEMORY: &str = "memory";

/// The name of the file with the state of the machine's CPUs and devices, in the same folder.
pub const MACHINE: &str = "machine";

/// A snapshot of a sandbox; the copy of its writable disk is beside this record.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Snapshot {
    /// The version of this record, [`VERSION`].
    pub version: u32,
    /// 64 hexadecimal digits that no other snapshot has.
    pub id: String,
    /// The snapshot's name: unique in its store.
    pub name: String,
    /// When it was made, in nanoseconds since the epoch.
    pub created_ns: u64,
    /// The id of the snapshot that the sandbox was made from, if any.
    #[serde(default)]
    pub parent: Option<String>,
    /// The sandbox's specification.
    pub spec: Spec,
    /// The diff IDs of the image's layers, lowest first.
    pub layers: Vec<String>,
    /// The [digest](crate::sparse::digest) of the writable disk.
    pub upper_digest: String,
    /// Whether the disk is as after a power cut, rather than a clean file system.
    #[serde(default)]
    pub crash: bool,
    /// The memory of a running machine, if the snapshot has it.
    #[serde(default)]
    pub memory: Option<Memory>,
    /// Whether the snapshot is in the pool: a machine of an image, kept for new sandboxes. It is
    /// removed with the image.
    #[serde(default)]
    pub warm: bool,
}

/// The digests of the files that hold a running machine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    /// The [digest](crate::sparse::digest) of [`MEMORY`].
    pub digest: String,
    /// The [digest](crate::sparse::digest) of [`MACHINE`].
    pub machine_digest: String,
}

#[derive(Deserialize)]
struct Version {
    version: u32,
}

impl Snapshot {
    /// Returns a snapshot of a sandbox with this specification, without digests.
    pub fn new(id: String, name: String, created_ns: u64, spec: Spec) -> Self {
        Self {
            version: VERSION,
            id,
            name,
            created_ns,
            parent: spec.snapshot.clone(),
            spec,
            layers: Vec::new(),
            upper_digest: String::new(),
            crash: false,
            memory: None,
            warm: false,
        }
    }

    /// Parses a record that was read from `path`.
    ///
    /// # Errors
    ///
    /// [`Error::SnapshotRecord`]; [`Error::RecordVersion`] if a later version wrote it.
    pub fn parse(bytes: &[u8], path: &Path) -> Result<Self> {
        let bad = |source| Error::SnapshotRecord {
            path: path.to_owned(),
            source,
        };
        match serde_json::from_slice(bytes).map_err(bad)? {
            Version { version: VERSION } => serde_json::from_slice(bytes).map_err(bad),
            Version { version } => Err(Error::RecordVersion {
                path: path.to_owned(),
                version,
            }),
        }
    }

    /// Reads the record in the folder of a snapshot; `None` if there is none.
    ///
    /// # Errors
    ///
    /// As [`parse`](Self::parse).
    pub fn read(folder: &Path) -> Result<Option<Self>> {
        let path = folder.join(FILE);
        match atomic::read(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            bytes => Self::parse(&bytes.map_err(Error::io(&path))?, &path).map(Some),
        }
    }

    /// Writes the record into the folder of a snapshot.
    ///
    /// # Errors
    ///
    /// [`Error::Io`].
    pub fn write(&self, folder: &Path) -> Result<()> {
        let path = folder.join(FILE);
        atomic::write_file(&path, |file| {
            atomic::json(file, self).map_err(Error::io(&path))
        })
    }

    /// Reads all snapshots, by name.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] if the folder of snapshots cannot be read.
    pub fn list(store: &Store) -> Result<Listing<Self>> {
        Listing::read(&store.snapshots(), Self::read)
    }
}
