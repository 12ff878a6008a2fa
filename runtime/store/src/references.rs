//! Names of images.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use ocipull::Digest;
use serde::{Deserialize, Serialize};

use super::{Lock, Store, atomic, salvage};
use crate::error::{Error, Result};

/// The image that a name refers to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reference {
    /// The digest of the image's manifest for one platform.
    pub manifest_digest: String,
    /// When the name was last pulled, in seconds since the epoch.
    pub pulled: u64,
}

impl Reference {
    /// Returns an entry for a name that is pulled now.
    pub fn now(manifest: &Digest) -> Self {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        Self {
            manifest_digest: manifest.to_string(),
            pulled: now.unwrap_or_default().as_secs(),
        }
    }
}

/// The result of repairing a damaged table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repaired {
    /// The path of the damaged table.
    pub aside: PathBuf,
    /// How many names could be read from it.
    pub read: usize,
    /// How many names the table has now.
    pub names: usize,
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

    /// Returns the path of the table.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads all names.
    pub fn read(&self) -> Result<BTreeMap<String, Reference>> {
        match atomic::read(&self.path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|source| Error::References {
                path: self.path.clone(),
                source,
            }),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(BTreeMap::new()),
            Err(e) => Err(Error::io(&self.path)(e)),
        }
    }

    /// Changes the table; no other process can change it meanwhile.
    pub fn update(&self, change: impl FnOnce(&mut BTreeMap<String, Reference>)) -> Result<()> {
        let _lock = Lock::acquire(self.store.lock_path("references"))?;
        let mut table = self.read()?;
        change(&mut table);
        self.write(&table)
    }

    /// Replaces a damaged table with one of the names that can be read from it, and of the `known`
    /// names. The damaged file is kept beside it. Returns `None` if the table is not damaged.
    ///
    /// # Errors
    ///
    /// [`Error::Io`].
    pub fn repair(
        &self,
        known: impl IntoIterator<Item = (String, Reference)>,
    ) -> Result<Option<Repaired>> {
        let _lock = Lock::acquire(self.store.lock_path("references"))?;
        match self.read() {
            Err(Error::References { .. }) => {}
            other => return other.map(|_| None),
        }
        let bytes = atomic::read(&self.path).map_err(Error::io(&self.path))?;
        let mut names = salvage::entries(&bytes);
        let read = names.len();
        for (name, reference) in known {
            names.entry(name).or_insert(reference);
        }
        let aside = self.set_aside()?;
        self.write(&names)?;
        Ok(Some(Repaired {
            aside,
            read,
            names: names.len(),
        }))
    }

    /// Links the table to a new name, and returns that name.
    fn set_aside(&self) -> Result<PathBuf> {
        let mut aside = self.path.with_extension("json.damaged");
        for number in 1_u32.. {
            match fs::hard_link(&self.path, &aside) {
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                    aside = self.path.with_extension(format!("json.damaged-{number}"));
                }
                Err(e) => return Err(Error::io(&aside)(e)),
                Ok(()) => break,
            }
        }
        Ok(aside)
    }

    fn write(&self, table: &BTreeMap<String, Reference>) -> Result<()> {
        atomic::write_private(&self.path, |file| {
            atomic::json(file, table).map_err(Error::io(&self.path))
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use super::*;

    fn reference(digit: char) -> Reference {
        Reference {
            manifest_digest: format!("sha256:{}", digit.to_string().repeat(64)),
            pulled: 7,
        }
    }

    #[test]
    fn a_truncated_table_keeps_the_names_before_the_cut() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let names = ["a", "b", "c"].map(|name| (name.to_owned(), reference('1')));
        store
            .references()
            .update(|table| table.extend(names))
            .unwrap();
        let path = dir.path().join("references.json");
        let whole = fs::read(&path).unwrap();
        let mut most = 0;
        for length in 0..whole.len() {
            fs::write(&path, &whole[..length]).unwrap();
            let error = store.references().read().unwrap_err();
            assert!(matches!(error, Error::References { .. }), "{error}");
            let known = [("known".to_owned(), reference('2'))];
            let repaired = store.references().repair(known).unwrap().unwrap();
            assert_eq!(fs::read(&repaired.aside).unwrap(), &whole[..length]);
            let table = store.references().read().unwrap();
            assert_eq!(table.len(), repaired.names);
            assert_eq!(
                (repaired.names, &table["known"]),
                (repaired.read + 1, &reference('2'))
            );
            assert!(repaired.read >= most);
            most = repaired.read;
            fs::remove_file(repaired.aside).unwrap();
        }
        assert_eq!(most, 3);
        assert_eq!(store.references().repair([]).unwrap(), None);
    }

    #[test]
    fn a_damaged_table_that_is_set_aside_replaces_no_other_file() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let path = dir.path().join("references.json");
        let aside = ["first", "second"].map(|contents| {
            fs::write(&path, contents).unwrap();
            let repaired = store.references().repair([]).unwrap().unwrap();
            (repaired.aside, contents)
        });
        for (path, contents) in aside {
            assert_eq!(fs::read_to_string(path).unwrap(), contents);
        }
    }
}
