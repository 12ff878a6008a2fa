//! Counts and warnings of reading a layer.

use crate::limits::Limits;
use blockbox_tar::{Remark, RemarkKind};
use std::fmt;

/// Counts of one archive, and what in it was passed over.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Entries, extended headers not counted.
    pub entries: u64,
    /// Regular files whose contents went to the sink.
    pub files: u64,
    /// Bytes of those files, holes included.
    pub content_bytes: u64,
    /// Bytes of the archive up to and with its end-of-archive blocks.
    pub archive_bytes: u64,
    /// The first remarks, as many as [`Limits::warnings`](crate::Limits::warnings) says.
    pub warnings: Vec<Warning>,
    /// How many there are in all.
    pub warning_count: u64,
}

impl Stats {
    /// Keeps what the archive's reader passed over.
    pub(super) fn remark(&mut self, remark: Remark, limits: &Limits) {
        let kind = match remark.kind {
            RemarkKind::Volume { kind } => WarningKind::Volume { kind },
            RemarkKind::LoneZeroBlock => WarningKind::LoneZeroBlock,
        };
        self.warn(&remark.path, remark.offset, kind, limits);
    }

    /// Keeps a remark, or only counts it where there are too many.
    pub(crate) fn warn(&mut self, path: &[u8], offset: u64, kind: WarningKind, limits: &Limits) {
        self.warning_count += 1;
        if self.warnings.len() < limits.warnings {
            let path = path.to_vec();
            self.warnings.push(Warning { path, offset, kind });
        }
    }
}

/// Something in the source that is not in the layer.
///
/// ```
/// # use fsmerge::{Warning, WarningKind};
/// # fn show(warning: &Warning) {
/// // lib/x: dropped the extended attribute os2.x, of a namespace that Linux does not have
/// println!("{warning}");
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// The entry, as the archive has it.
    pub path: Vec<u8>,
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
        name: Vec<u8>,
    },
    /// A POSIX ACL that Linux could not read, dropped: access to the file would fail.
    MalformedAcl {
        /// The attribute's name.
        name: Vec<u8>,
    },
    /// A volume label or a part of a multi-volume archive, passed over.
    Volume {
        /// The header's `typeflag`.
        kind: u8,
    },
    /// A single block of zeros where two end an archive: what follows is not read, as GNU tar does not.
    LoneZeroBlock,
}

impl fmt::Display for WarningKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownXattr { name } => write!(
                f,
                "dropped the extended attribute {}, of a namespace that Linux does not have",
                name.escape_ascii()
            ),
            Self::MalformedAcl { name } => {
                write!(f, "dropped the malformed ACL {}", name.escape_ascii())
            }
            Self::Volume { kind } => {
                write!(f, "passed over an entry of type {:?}", char::from(*kind))
            }
            Self::LoneZeroBlock => write!(f, "took a single block of zeros for the archive's end"),
        }
    }
}

impl fmt::Display for Warning {
    /// The path, escaped, and what became of it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            // It is nobody's.
            WarningKind::LoneZeroBlock => write!(f, "byte {}: {}", self.offset, self.kind),
            _ => write!(f, "{}: {}", self.path.escape_ascii(), self.kind),
        }
    }
}
