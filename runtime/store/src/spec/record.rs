//! Reading and writing `sandbox.json`, in all versions.

use std::io;
use std::path::Path;

use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::{ImageSource, Network, Spec, VERSION};
use crate::error::{Error, Result};
use crate::{Listing, Store, atomic};

/// The record's name in the folder of a sandbox.
const FILE: &str = "sandbox.json";

/// The record of version 1, which had no version number.
#[derive(Deserialize)]
struct Version1 {
    name: String,
    image: String,
    manifest_digest: String,
    /// Seconds since the epoch.
    created: u64,
}

impl From<Version1> for Spec {
    fn from(old: Version1) -> Self {
        // No two sandboxes of one store have had the same name and time.
        let id = Sha256::digest(format!("{}\0{}", old.name, old.created));
        let image = ImageSource::new(&old.image, old.manifest_digest);
        Spec {
            id: id.iter().map(|byte| format!("{byte:02x}")).collect(),
            created_ns: old.created.saturating_mul(1_000_000_000),
            network: Network::none(),
            ..Spec::new(old.name, image)
        }
    }
}

#[derive(Deserialize)]
struct Version {
    version: Option<u32>,
}

impl Spec {
    /// Reads the record in the folder of a sandbox; `None` if there is none.
    ///
    /// # Errors
    ///
    /// [`Error::Record`] if it is not a valid record; [`Error::RecordVersion`] if a later version
    /// wrote it.
    pub fn read(folder: &Path) -> Result<Option<Self>> {
        let path = folder.join(FILE);
        let bytes = match atomic::read(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            bytes => bytes.map_err(Error::io(&path))?,
        };
        let bad = |source| Error::SandboxRecord {
            path: path.clone(),
            source,
        };
        let Version { version } = serde_json::from_slice(&bytes).map_err(bad)?;
        let mut spec: Self = match version {
            None => serde_json::from_slice::<Version1>(&bytes)
                .map_err(bad)?
                .into(),
            Some(VERSION) => serde_json::from_slice(&bytes).map_err(bad)?,
            Some(version) => return Err(Error::RecordVersion { path, version }),
        };
        // A rename of a sandbox renames its folder.
        if let Some(name) = folder.file_name().and_then(|name| name.to_str()) {
            name.clone_into(&mut spec.name);
        }
        Ok(Some(spec))
    }

    /// Writes the record into the folder of a sandbox.
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
}

impl Spec {
    /// Reads the records of all sandboxes, by name, without repairing them.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] if the folder of sandboxes cannot be read.
    pub fn list(store: &Store) -> Result<Listing<Self>> {
        Listing::read(&store.sandboxes(), Self::read)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn read(json: &str) -> Result<Option<Spec>> {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("old");
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join(FILE), json).unwrap();
        Spec::read(&folder)
    }

    #[test]
    fn a_record_without_a_version_is_read_as_version_1() {
        let digest = format!("sha256:{}", "a".repeat(64));
        let json = format!(
            r#"{{"name": "old", "image": "debian", "manifest_digest": "{digest}", "created": 7}}"#
        );
        let spec = read(&json).unwrap().unwrap();
        assert_eq!((&*spec.name, &*spec.image.asked), ("old", "debian"));
        assert_eq!(spec.image.manifest_digest, digest);
        assert_eq!((spec.created_ns, spec.id.len()), (7_000_000_000, 64));
        assert_eq!(spec.process, None);
        assert_eq!(spec.network, Network::none());

        // It is written as version 2, and nothing is lost.
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("old");
        fs::create_dir(&folder).unwrap();
        spec.write(&folder).unwrap();
        assert_eq!(Spec::read(&folder).unwrap(), Some(spec));
    }

    #[test]
    fn a_record_of_a_later_version_is_refused_by_its_number() {
        let error = read(r#"{"version": 3, "name": "new"}"#).unwrap_err();
        assert!(
            matches!(error, Error::RecordVersion { version: 3, .. }),
            "{error}"
        );
        assert!(matches!(
            read(r#"{"version": 2}"#).unwrap_err(),
            Error::SandboxRecord { .. }
        ));
    }

    #[test]
    fn a_record_without_a_network_is_of_a_sandbox_without_one() {
        let spec = Spec::new("old".to_owned(), ImageSource::new("debian", String::new()));
        let mut json = serde_json::to_value(&spec).unwrap();
        json.as_object_mut().unwrap().remove("network").unwrap();
        let spec = read(&json.to_string()).unwrap().unwrap();
        assert_eq!(spec.network, Network::none());
    }

    #[test]
    fn a_sandbox_that_is_being_made_has_no_record() {
        let folder = tempfile::tempdir().unwrap();
        assert!(Spec::read(folder.path()).unwrap().is_none());
    }
}
