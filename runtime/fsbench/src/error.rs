//! Errors of this crate.

use std::io;
use std::path::{Path, PathBuf};

/// Why a benchmark has no result.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file or folder cannot be read or written.
    #[error("{}", path.display())]
    Io {
        /// The path.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// A folder has no files to read.
    #[error("{}: no files to read", .0.display())]
    NoTree(PathBuf),
    /// There is no workload of this name.
    #[error("no workload is called {0:?}")]
    UnknownWorkload(String),
    /// A workload needs something that this system does not have.
    #[error("there is no {0}")]
    Missing(String),
}

/// The result type of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// Adds the path to an I/O error.
    pub(crate) fn io(path: impl AsRef<Path>) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io {
            path: path.as_ref().to_owned(),
            source,
        }
    }
}
