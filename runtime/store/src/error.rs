//! Errors of the store.

use std::io;
use std::path::{Path, PathBuf};

/// The result type of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of the store.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file or folder of the store could not be read or written.
    #[error("{}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// A later version of this program wrote the store.
    #[error("{}: version {found} of the store is newer than this program, which knows versions up to {known}", root.display())]
    Version {
        /// The store's folder.
        root: PathBuf,
        /// The store's version.
        found: String,
        /// The latest version that this program knows.
        known: u32,
    },
    /// A folder is not a store, and has other files.
    #[error("{}: not a store: it has {}, which is of something else", root.display(), entry.strip_prefix(root).unwrap_or(entry).display())]
    NotAStore {
        /// The folder.
        root: PathBuf,
        /// A file or folder in it.
        entry: PathBuf,
    },
    /// The store belongs to another user.
    #[error("{}: the store belongs to the user with id {uid}, and only that user can use it", root.display())]
    Owner {
        /// The store's folder.
        root: PathBuf,
        /// The user id of its owner.
        uid: u32,
    },
    /// The file with the store's version holds something else.
    #[error("{}: {found:?} is not the version of a store", path.display())]
    NoVersion {
        /// The file.
        path: PathBuf,
        /// Its contents.
        found: String,
        /// The version that this program would write.
        current: u32,
    },
    /// The table of names is damaged. The images are intact, and
    /// [`References::repair`](crate::References::repair) keeps the names that can still be read.
    #[error("{}: not a valid table of the names of images", path.display())]
    References {
        /// The table.
        path: PathBuf,
        /// The error of parsing it.
        source: serde_json::Error,
    },
    /// A record in the store cannot be parsed.
    #[error("{}: not a valid record", path.display())]
    Record {
        /// The record.
        path: PathBuf,
        /// The error of parsing it.
        source: serde_json::Error,
    },
    /// A record of a sandbox cannot be parsed.
    #[error("{}: not a valid record of a sandbox", path.display())]
    SandboxRecord {
        /// The record.
        path: PathBuf,
        /// The error of parsing it.
        source: serde_json::Error,
    },
    /// A record of a snapshot cannot be parsed.
    #[error("{}: not a valid record of a snapshot", path.display())]
    SnapshotRecord {
        /// The record.
        path: PathBuf,
        /// The error of parsing it.
        source: serde_json::Error,
    },
    /// A later version wrote a record.
    #[error("{}: version {version} of this record is newer than this program", path.display())]
    RecordVersion {
        /// The record.
        path: PathBuf,
        /// Its version.
        version: u32,
    },
}

impl Error {
    /// Returns whether a record is damaged, or of a later version.
    pub fn is_record(&self) -> bool {
        matches!(
            self,
            Self::Record { .. }
                | Self::SandboxRecord { .. }
                | Self::SnapshotRecord { .. }
                | Self::RecordVersion { .. }
        )
    }

    /// Adds the path that an I/O error is about: `.map_err(Error::io(path))`.
    pub fn io(path: impl AsRef<Path>) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io {
            path: path.as_ref().to_owned(),
            source,
        }
    }
}
