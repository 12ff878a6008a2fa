//! What can go wrong, in terms a caller can act on.

use std::io;
use std::path::PathBuf;

/// The result of everything in this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a tree cannot be packed or unpacked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The system refuses something.
    #[error("{}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The stream cannot be read as an archive.
    #[error("cannot read the archive")]
    Archive(#[source] blockbox_tar::Error),
    /// The stream cannot be written.
    #[error("cannot write the archive")]
    Output(#[source] io::Error),
    /// An entry of the archive cannot be unpacked.
    #[error("{}: {problem}", name.escape_ascii())]
    Entry {
        /// The entry's name.
        name: Vec<u8>,
        /// Why not.
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
    /// A parent is a symbolic link or no directory.
    #[error("a parent is not a directory")]
    Parent,
    /// A directory is in the place of something else.
    #[error("cannot replace a directory by something else")]
    OverDirectory,
    /// A directory is to be where something else is.
    #[error("cannot replace what is not a directory by a directory")]
    OverFile,
    /// A hard link's target is not there.
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
    /// Names the file that an I/O error is about.
    pub(crate) fn io<E: Into<io::Error>>(path: impl Into<PathBuf>) -> impl FnOnce(E) -> Self {
        move |source| Self::Io {
            path: path.into(),
            source: source.into(),
        }
    }

    /// The kind of the system's error; `None` for errors of another sort.
    pub fn io_kind(&self) -> Option<io::ErrorKind> {
        match self {
            Self::Io { source, .. } | Self::Output(source) => Some(source.kind()),
            _ => None,
        }
    }
}
