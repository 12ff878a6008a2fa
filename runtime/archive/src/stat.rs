//! The status of the file at a path.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::error::{Error, Result};

/// The type of a file, as far as copying needs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FileKind {
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// Anything else.
    Other,
}

/// The status of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct FileStat {
    /// The type.
    pub kind: FileKind,
    /// The size in bytes.
    pub size: u64,
}

impl FileStat {
    /// Returns the status of a file of this type and size.
    pub fn new(kind: FileKind, size: u64) -> Self {
        Self { kind, size }
    }

    /// Returns whether the file is a directory.
    pub fn is_directory(&self) -> bool {
        self.kind == FileKind::Directory
    }

    /// Returns the line that a guest answers with.
    pub fn encode(&self) -> String {
        let kind = match self.kind {
            FileKind::Directory => 'd',
            FileKind::Symlink => 'l',
            FileKind::Other => '-',
        };
        format!("{kind} {}\n", self.size)
    }

    /// Parses the line that a guest answered with.
    pub fn decode(line: &[u8]) -> Option<Self> {
        let line = std::str::from_utf8(line).ok()?.strip_suffix('\n')?;
        let (kind, size) = line.split_once(' ')?;
        let kind = match kind {
            "d" => FileKind::Directory,
            "l" => FileKind::Symlink,
            "-" => FileKind::Other,
            _ => return None,
        };
        Some(Self {
            kind,
            size: size.parse().ok()?,
        })
    }
}

/// Returns the status of the file at `path`; with `follow`, that of the target of a symbolic link.
/// If the path ends in a slash, a symbolic link is followed, and the file must be a directory.
///
/// # Errors
///
/// [`Error::Io`].
pub fn stat(path: &Path, follow: bool) -> Result<FileStat> {
    let found = match follow {
        true => fs::metadata(path),
        false => fs::symlink_metadata(path),
    };
    let found = found.map_err(Error::io(path))?;
    let kind = match found.file_type() {
        kind if kind.is_dir() => FileKind::Directory,
        kind if kind.is_symlink() => FileKind::Symlink,
        _ => FileKind::Other,
    };
    Ok(FileStat {
        kind,
        size: found.size(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encoded_attributes_decode_to_the_same_values() {
        for kind in [FileKind::Directory, FileKind::Symlink, FileKind::Other] {
            let stat = FileStat::new(kind, u64::MAX);
            assert_eq!(FileStat::decode(stat.encode().as_bytes()), Some(stat));
        }
        for wrong in ["", "d", "d 1", "x 1\n", "d -1\n", "d 1 2\n"] {
            assert_eq!(FileStat::decode(wrong.as_bytes()), None, "{wrong:?}");
        }
    }
}
