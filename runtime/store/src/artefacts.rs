//! The checksums of an image's own files.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::Path;

use crate::atomic::NewFile;
use ocipull::Digest;
use serde::{Deserialize, Serialize};

use super::{Checksum, Store, atomic};
use crate::error::{Error, Result};

/// The checksums of the files in an image's folder: the file `artefacts.json` in that folder. The
/// layers are not in it; each has a record of its own in the folder of layers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Artefacts {
    /// The files' checksums by name.
    pub files: BTreeMap<String, Checksum>,
}

impl Artefacts {
    /// The record's name in an image's folder.
    pub const FILE: &str = "artefacts.json";

    /// Reads the record in the folder of an image; `None` if it is missing or damaged.
    ///
    /// # Errors
    ///
    /// [`Error::Io`].
    pub fn read(folder: &Path) -> Result<Option<Self>> {
        read(&folder.join(Self::FILE))
    }

    /// Writes the record into the folder of an image.
    ///
    /// # Errors
    ///
    /// [`Error::Io`].
    pub fn write(&self, folder: &Path) -> Result<()> {
        let path = folder.join(Self::FILE);
        atomic::write_read_only(&path, |file| write(file, &path, self))
    }
}

impl Store {
    /// Reads the recorded checksum of the layer with this diff ID; `None` if it is missing or
    /// damaged.
    ///
    /// # Errors
    ///
    /// [`Error::Io`].
    pub fn recorded_checksum(&self, diff_id: &Digest) -> Result<Option<Checksum>> {
        read(&self.layer_checksum(diff_id))
    }

    /// Records the checksum of the layer with this diff ID. It is written before the layer appears,
    /// so a crash leaves no layer without a checksum. A power cut may; the checksum is then
    /// recorded again, as for a store of an earlier version.
    ///
    /// # Errors
    ///
    /// [`Error::Io`].
    pub fn record_checksum(&self, diff_id: &Digest, checksum: &Checksum) -> Result<()> {
        let path = self.layer_checksum(diff_id);
        atomic::write_expendable(&path, |file| write(file, &path, checksum))
    }
}

fn read<T: serde::de::DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    match atomic::read(path) {
        // A damaged record is of no use, and the checksum is recorded again.
        Ok(bytes) => Ok(serde_json::from_slice(&bytes).ok()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::io(path)(e)),
    }
}

fn write(file: &mut NewFile, path: &Path, value: &impl Serialize) -> Result<()> {
    serde_json::to_writer_pretty(&mut *file, value)
        .map_err(io::Error::from)
        .and_then(|()| writeln!(file))
        .map_err(Error::io(path))
}
