//! Errors of this crate.

use std::io;
use std::path::PathBuf;

use blockbox_tar::BytePath;

/// The result type of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a tree cannot be packed or unpacked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A system call failed.
    #[error("{}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The stream cannot be read as an archive.
    #[error("cannot read the archive")]
    Archive(#[source] blockbox_tar::Error),
    /// The stream cannot be written.
    #[error("cannot write the archive")]
    Output(#[source] io::Error),
    /// An entry of the archive cannot be unpacked.
    #[error("{name}: {problem}")]
    Entry {
        /// The entry's name.
        name: BytePath,
        /// The reason.
        problem: Problem,
    },
}

/// Why an entry cannot be unpacked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Problem {
    /// The name, or a hard link's target, has a `..` or a NUL in it.
    #[error("the name leads out of the archive")]
    Escape,
    /// A parent is a symbolic link, or not a directory.
    #[error("a parent is not a directory")]
    Parent,
    /// A directory would be replaced by something else.
    #[error("cannot replace a directory with something else")]
    OverDirectory,
    /// Something else would be replaced by a directory.
    #[error("cannot replace something else with a directory")]
    OverFile,
    /// A hard link's target does not exist.
    #[error("the target of the hard link does not exist")]
    LinkTarget,
    /// The type is unknown.
    #[error("unknown type of entry")]
    Type,
    /// An attribute is malformed.
    #[error("malformed attributes")]
    Attributes,
    /// The attributes of the directories together take too much memory.
    #[error("too many directories with attributes")]
    Directories,
    /// Directories are nested too deeply.
    #[error("too many directories inside each other")]
    Depth,
}

impl Error {
    /// Adds the path that an I/O error is about.
    pub(crate) fn io<E: Into<io::Error>>(path: impl Into<PathBuf>) -> impl FnOnce(E) -> Self {
        move |source| Self::Io {
            path: path.into(),
            source: source.into(),
        }
    }

    /// Returns the kind of the system's error; `None` for other errors.
    pub fn io_kind(&self) -> Option<io::ErrorKind> {
        match self {
            Self::Io { source, .. } | Self::Output(source) => Some(source.kind()),
            _ => None,
        }
    }
}
