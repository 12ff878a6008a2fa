//! Where the values of secrets come from. The values themselves are on no disk.

use std::path::PathBuf;

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
        /// Its absolute path.
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

impl Secret {
    /// A secret of this name.
    pub fn new(name: impl Into<String>, source: SecretSource) -> Self {
        Self {
            name: name.into(),
            source,
        }
    }
}
