//! Changes to an image's tree that a sandbox is made with: what overlayfs's upperdir holds before
//! the first boot.
//!
//! ```
//! use blockbox_convert::patch::Patch;
//!
//! let patches = [
//!     Patch::write("/etc/motd", "welcome\n").mode(0o600).owner("app"),
//!     Patch::remove("/etc/cron.d"),
//!     "append:/etc/profile=umask 077".parse()?,
//! ];
//! # let _ = patches;
//! # Ok::<(), blockbox_convert::patch::ParseError>(())
//! ```
//!
//! Patches apply in order, each to what those before it left. Symbolic links of the image are
//! followed inside of it, so that `/lib/x` is `/usr/lib/x` where `/lib` is a link to `usr/lib`.

mod apply;
mod merge;
mod parse;
mod tree;

use std::fmt;
use std::path::PathBuf;

use blockbox_protocol::user::UserError;

pub use apply::apply;
pub use parse::{ParseError, read_file};

/// A change to an image's tree.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Patch {
    /// The absolute path in the image.
    pub path: Vec<u8>,
    /// The change at the path.
    pub action: Action,
    /// The permission bits of a file or folder that is written, copied or created. Default: the
    /// source's, else those of the existing file, else 0644 for files and 0755 for folders.
    pub mode: Option<u16>,
    /// The owner of a file or folder that is written, copied or created, `USER[:GROUP]` by name or
    /// number. Default: that of the existing file, else the archive's, else root.
    pub owner: Option<String>,
}

/// The action of a patch.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Action {
    /// Writes these contents to a regular file, which is created if needed.
    Write(Vec<u8>),
    /// Appends these contents to a regular file, which is created if needed.
    Append(Vec<u8>),
    /// Copies a file or folder of the host: a file to the path, or into the folder at the path; a
    /// folder's contents into the folder at the path, which is created if needed.
    Copy(PathBuf),
    /// Extracts a tar archive of the host, which may be compressed with gzip or zstd, into the
    /// folder at the path.
    Extract(PathBuf),
    /// Creates a folder and its parents, if they do not exist.
    MakeDir,
    /// Creates a symbolic link to this target.
    Symlink(Vec<u8>),
    /// Removes a file, or a folder with its contents.
    Remove,
    /// Sets the permission bits.
    ChangeMode(u16),
    /// Sets the owner: `USER[:GROUP]` by name or number.
    ChangeOwner(String),
}

impl Action {
    /// Returns the verb of the action, as in a patch's text.
    pub fn verb(&self) -> &'static str {
        match self {
            Action::Write(_) => "write",
            Action::Append(_) => "append",
            Action::Copy(_) => "copy",
            Action::Extract(_) => "extract",
            Action::MakeDir => "mkdir",
            Action::Symlink(_) => "symlink",
            Action::Remove => "rm",
            Action::ChangeMode(_) => "chmod",
            Action::ChangeOwner(_) => "chown",
        }
    }
}

impl Patch {
    /// Returns a patch with `action` at `path`.
    pub fn new(path: impl Into<Vec<u8>>, action: Action) -> Self {
        Self {
            path: path.into(),
            action,
            mode: None,
            owner: None,
        }
    }

    /// Writes a file with these contents.
    pub fn write(path: impl Into<Vec<u8>>, contents: impl Into<Vec<u8>>) -> Self {
        Self::new(path, Action::Write(contents.into()))
    }

    /// Appends these contents to a file.
    pub fn append(path: impl Into<Vec<u8>>, contents: impl Into<Vec<u8>>) -> Self {
        Self::new(path, Action::Append(contents.into()))
    }

    /// Copies a file or folder of the host.
    pub fn copy(path: impl Into<Vec<u8>>, from: impl Into<PathBuf>) -> Self {
        Self::new(path, Action::Copy(from.into()))
    }

    /// Extracts a tar archive of the host.
    pub fn extract(path: impl Into<Vec<u8>>, archive: impl Into<PathBuf>) -> Self {
        Self::new(path, Action::Extract(archive.into()))
    }

    /// Creates a folder and its parents.
    pub fn make_dir(path: impl Into<Vec<u8>>) -> Self {
        Self::new(path, Action::MakeDir)
    }

    /// Creates a symbolic link.
    pub fn symlink(path: impl Into<Vec<u8>>, target: impl Into<Vec<u8>>) -> Self {
        Self::new(path, Action::Symlink(target.into()))
    }

    /// Removes a file or folder.
    pub fn remove(path: impl Into<Vec<u8>>) -> Self {
        Self::new(path, Action::Remove)
    }

    /// Sets the permission bits of a file or folder that is written, copied or created.
    #[must_use]
    pub fn mode(mut self, mode: u16) -> Self {
        self.mode = Some(mode);
        self
    }

    /// Sets the owner of a file or folder that is written, copied or created: `USER[:GROUP]` by
    /// name or number, looked up in the image.
    #[must_use]
    pub fn owner(mut self, owner: impl Into<String>) -> Self {
        self.owner = Some(owner.into());
        self
    }
}

/// The verb and the path. Contents are not shown in messages.
impl fmt::Display for Patch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = String::from_utf8_lossy(&self.path);
        write!(f, "{} {path}", self.action.verb())
    }
}

impl fmt::Debug for Patch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Patch").field(&self.to_string()).finish()
    }
}

/// Why a patch does not apply.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Problem {
    /// The path is not valid in an image.
    #[error("not an absolute path without `..`")]
    Path,
    /// The guest mounts something else over the path.
    #[error("the guest has its own {0}, which hides what the disk has there")]
    Covered(&'static str),
    /// The path is the root, which cannot be created, replaced or removed.
    #[error("the root directory cannot be replaced or removed")]
    Root,
    /// The path does not exist.
    #[error("there is no such file in the image")]
    NotFound,
    /// A folder above the path does not exist.
    #[error("there is no directory {0}")]
    NoParent(String),
    /// A parent of the path is not a folder.
    #[error("{0} is not a directory")]
    NotADirectory(String),
    /// The path is a folder, where a file is needed.
    #[error("it is a directory")]
    IsADirectory,
    /// The path is not a regular file.
    #[error("it is not a regular file")]
    NotAFile,
    /// The path exists already.
    #[error("there is something of this name already")]
    Exists,
    /// There are too many symbolic links, or a loop of them.
    #[error("too many symbolic links")]
    SymlinkLoop,
    /// The source of a copy is neither a file nor a folder.
    #[error("{} is neither a file nor a folder", .0.display())]
    NotCopied(PathBuf),
    /// The image has no such user or group.
    #[error(transparent)]
    Owner(#[from] UserError),
}
