//! Warnings of reading a layer.

use std::fmt;

use blockbox_path::BytePath;

/// A warning: something in the source that was left out of the layer.
///
/// ```
/// # use fsmerge::{Warning, WarningKind};
/// # fn show(warning: &Warning) {
/// // lib/x: dropped the extended attribute os2.x, of a namespace that Linux does not have
/// println!("{warning}");
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Warning {
    /// The entry, as the archive has it.
    pub path: BytePath,
    /// Where the entry's header begins in the archive, in bytes. 0 where there is no archive.
    pub offset: u64,
    /// What it is.
    pub kind: WarningKind,
}

/// The kinds of remark.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum WarningKind {
    /// An extended attribute of a namespace that Linux does not have, dropped.
    UnknownXattr {
        /// The attribute's name.
        name: BytePath,
    },
    /// A POSIX ACL that Linux could not read, dropped: access to the file would fail.
    MalformedAcl {
        /// The attribute's name.
        name: BytePath,
    },
    /// A volume label or a part of a multi-volume archive, passed over.
    Volume {
        /// The header's `typeflag`.
        kind: u8,
    },
    /// A single block of zeros where two end an archive: what follows is not read, as GNU tar does
    /// not.
    LoneZeroBlock,
}

impl fmt::Display for WarningKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownXattr { name } => write!(
                f,
                "dropped the extended attribute {name}, of a namespace that Linux does not have"
            ),
            Self::MalformedAcl { name } => {
                write!(f, "dropped the malformed ACL {name}")
            }
            Self::Volume { kind } => {
                write!(f, "skipped an entry of type {:?}", char::from(*kind))
            }
            Self::LoneZeroBlock => write!(
                f,
                "treated a single block of zeros as the end of the archive"
            ),
        }
    }
}

impl fmt::Display for Warning {
    /// Displays the escaped path and what was done.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            // It belongs to no entry.
            WarningKind::LoneZeroBlock => write!(f, "byte {}: {}", self.offset, self.kind),
            _ => write!(f, "{}: {}", self.path, self.kind),
        }
    }
}
