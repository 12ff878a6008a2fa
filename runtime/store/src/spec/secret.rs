//! The sources of secrets. The values themselves are on no disk.

use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// A file in the guest's `/run/secrets`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Secret {
    /// Its name.
    pub name: String,
    /// The source of its value, which is read at every start.
    #[serde(flatten)]
    pub source: SecretSource,
}

/// The source of a secret's value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "from", rename_all = "lowercase")]
#[non_exhaustive]
pub enum SecretSource {
    /// A file of the host.
    File {
        /// Its absolute path, without symbolic links: a guest that shares one of its folders could
        /// add such links. [`SecretSource::file`] resolves the existing ones.
        path: PathBuf,
    },
    /// A variable of the program that starts the sandbox.
    Environment {
        /// The variable.
        variable: String,
    },
    /// The program that starts the sandbox passes the value.
    Given,
}

impl SecretSource {
    /// Returns the source for the file of the host that is at `path` now.
    ///
    /// # Errors
    ///
    /// If the working directory is unknown.
    pub fn file(path: &Path) -> io::Result<Self> {
        let path = std::path::absolute(path)?;
        // A pipe has no other name, and a missing file is reported when it is read.
        let resolved = path.canonicalize().ok().filter(|path| path.is_file());
        Ok(Self::File {
            path: resolved.unwrap_or(path),
        })
    }
}

impl Secret {
    /// Returns a secret with this name.
    pub fn new(name: impl Into<String>, source: SecretSource) -> Self {
        Self {
            name: name.into(),
            source,
        }
    }
}
