//! Where the values of secrets come from. The values themselves are on no disk.

use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// A file in the guest's `/run/secrets`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Secret {
    /// Its name.
    pub name: String,
    /// Where its value comes from, at every start.
    #[serde(flatten)]
    pub source: SecretSource,
}

/// Where the value of a secret comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "from", rename_all = "lowercase")]
#[non_exhaustive]
pub enum SecretSource {
    /// A file of the host.
    File {
        /// Its absolute path, which leads through no symbolic links to a regular file: a guest that
        /// shares a folder of it could put one there. [`SecretSource::file`] resolves those that
        /// there are.
        path: PathBuf,
    },
    /// The environment of the program that starts the sandbox.
    Environment {
        /// The variable.
        variable: String,
    },
    /// The program that starts the sandbox itself.
    Given,
}

impl SecretSource {
    /// The file of the host that is at `path` now.
    ///
    /// # Errors
    ///
    /// When the working directory is unknown.
    pub fn file(path: &Path) -> io::Result<Self> {
        let path = std::path::absolute(path)?;
        // A pipe has no other name, and what is missing is found out when it is read.
        let resolved = path.canonicalize().ok().filter(|path| path.is_file());
        Ok(Self::File {
            path: resolved.unwrap_or(path),
        })
    }
}

impl Secret {
    /// A secret of this name.
    pub fn new(name: impl Into<String>, source: SecretSource) -> Self {
        Self {
            name: name.into(),
            source,
        }
    }
}
