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
    /// Where, an absolute path in the image.
    pub path: Vec<u8>,
    /// What happens there.
    pub action: Action,
    /// The permission bits of what is written, copied or made; the default is the source's, else
    /// what is there, else 0644 and 0755.
    pub mode: Option<u16>,
    /// The owner of what is written, copied or made, `USER[:GROUP]` by name or number; the default
    /// is what is there, the archive's, else root.
    pub owner: Option<String>,
}

/// What a patch does.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Action {
    /// A regular file gets these contents. It is made where there is none.
    Write(Vec<u8>),
    /// A regular file gets these contents after its own. It is made where there is none.
    Append(Vec<u8>),
    /// A file or folder of the host is copied: a file to the path, or into the folder that is
    /// there; what a folder holds into the folder at the path, which is made where there is none.
    Copy(PathBuf),
    /// A tar archive of the host, which may be gzip or zstd, is extracted into the folder at the
    /// path.
    Extract(PathBuf),
    /// A folder is made, with its parents, where there is none.
    MakeDir,
    /// A symbolic link to this target is made.
    Symlink(Vec<u8>),
    /// A file or a folder with all that it holds goes.
    Remove,
    /// The permission bits change.
    ChangeMode(u16),
    /// The owner changes: `USER[:GROUP]` by name or number.
    ChangeOwner(String),
}

impl Action {
    /// The verb of the action, as it is written in text.
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
    /// `action` at `path`.
    pub fn new(path: impl Into<Vec<u8>>, action: Action) -> Self {
        Self {
            path: path.into(),
            action,
            mode: None,
            owner: None,
        }
    }

    /// A file with these contents.
    pub fn write(path: impl Into<Vec<u8>>, contents: impl Into<Vec<u8>>) -> Self {
        Self::new(path, Action::Write(contents.into()))
    }

    /// These contents at the end of a file.
    pub fn append(path: impl Into<Vec<u8>>, contents: impl Into<Vec<u8>>) -> Self {
        Self::new(path, Action::Append(contents.into()))
    }

    /// A copy of a file or folder of the host.
    pub fn copy(path: impl Into<Vec<u8>>, from: impl Into<PathBuf>) -> Self {
        Self::new(path, Action::Copy(from.into()))
    }

    /// What a tar archive of the host holds.
    pub fn extract(path: impl Into<Vec<u8>>, archive: impl Into<PathBuf>) -> Self {
        Self::new(path, Action::Extract(archive.into()))
    }

    /// A folder, with its parents.
    pub fn make_dir(path: impl Into<Vec<u8>>) -> Self {
        Self::new(path, Action::MakeDir)
    }

    /// A symbolic link.
    pub fn symlink(path: impl Into<Vec<u8>>, target: impl Into<Vec<u8>>) -> Self {
        Self::new(path, Action::Symlink(target.into()))
    }

    /// Nothing where the image has something.
    pub fn remove(path: impl Into<Vec<u8>>) -> Self {
        Self::new(path, Action::Remove)
    }

    /// Sets the permission bits of what is written, copied or made.
    #[must_use]
    pub fn mode(mut self, mode: u16) -> Self {
        self.mode = Some(mode);
        self
    }

    /// Sets the owner of what is written, copied or made: `USER[:GROUP]` by name or number, looked
    /// up in the image.
    #[must_use]
    pub fn owner(mut self, owner: impl Into<String>) -> Self {
        self.owner = Some(owner.into());
        self
    }
}

/// The verb and the path. Contents belong in no message.
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
    /// The path leads nowhere in an image.
    #[error("not an absolute path without `..`")]
    Path,
    /// The guest mounts something of its own there.
    #[error("the guest has its own {0}, which hides what the disk has there")]
    Covered(&'static str),
    /// The path is the root, which cannot be made, replaced or removed.
    #[error("the root directory cannot be changed so")]
    Root,
    /// There is nothing at the path.
    #[error("there is no such file in the image")]
    NotFound,
    /// A folder above the path is missing.
    #[error("there is no directory {0}")]
    NoParent(String),
    /// What is above the path is not a folder.
    #[error("{0} is not a directory")]
    NotADirectory(String),
    /// A folder is where a file should be.
    #[error("it is a directory")]
    IsADirectory,
    /// Something else than a regular file is where one should be.
    #[error("it is not a regular file")]
    NotAFile,
    /// There is something already.
    #[error("there is something of this name already")]
    Exists,
    /// Symbolic links lead to each other.
    #[error("too many symbolic links")]
    SymlinkLoop,
    /// What is copied is neither a file nor a folder.
    #[error("{} is neither a file nor a folder", .0.display())]
    NotCopied(PathBuf),
    /// The image has no such user or group.
    #[error(transparent)]
    Owner(#[from] UserError),
}
