//! What can go wrong.

use std::io;
use std::path::{Path, PathBuf};

/// Why a bench has no result.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file or folder cannot be used.
    #[error("{}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A folder has no files to read.
    #[error("{}: no files to read", .0.display())]
    NoTree(PathBuf),
    /// There is no workload of this name.
    #[error("no workload is called {0:?}")]
    UnknownWorkload(String),
    /// A workload needs what this system does not have.
    #[error("there is no {0}")]
    Missing(String),
}

/// A result with [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// For `map_err`: adds the path.
    pub(crate) fn io(path: impl AsRef<Path>) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io {
            path: path.as_ref().to_owned(),
            source,
        }
    }
}
