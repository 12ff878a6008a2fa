//! Errors of archives.

use std::io;

use blockbox_path::BytePath;

/// Why an archive cannot be read further.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Reading failed.
    #[error("cannot read the archive at byte {offset}")]
    Io {
        /// Bytes of the archive that were read before.
        offset: u64,
        /// The reader's error.
        #[source]
        source: io::Error,
    },
    /// The first bytes are not those of any archive.
    #[error("not a tar archive")]
    NotTar,
    /// The input is of another known format.
    #[error("not a tar archive: it is {format}")]
    OtherFormat {
        /// What it is, such as `a zip archive`.
        format: &'static str,
    },
    /// The archive ends in the middle of a header, of a body, or of the padding after one.
    #[error("the archive is cut off at byte {offset}")]
    Truncated {
        /// The archive's length in bytes.
        offset: u64,
    },
    /// An entry breaks a rule.
    #[error("{path} (archive byte {offset}): {problem}")]
    Entry {
        /// The entry's path as the archive has it; for a damaged header what could be read of it.
        path: BytePath,
        /// Where the entry's header begins, in bytes.
        offset: u64,
        /// The rule.
        problem: Problem,
    },
}

/// The rule that an entry breaks.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// The header's checksum is wrong: the archive is damaged, or the file is not an archive.
    #[error("the header's checksum is wrong")]
    Checksum,
    /// A numeric field is neither octal nor base-256, or out of range.
    #[error("the field {field} holds no valid number")]
    Number {
        /// The field's name in `struct posix_header` or the PAX keyword.
        field: &'static str,
    },
    /// The entry's size is negative.
    #[error("the size is negative")]
    NegativeSize,
    /// The records of a PAX header do not follow POSIX.1-2001.
    #[error("malformed PAX record at byte {at} of the extended header")]
    Pax {
        /// Where in the extended header, in bytes.
        at: usize,
    },
    /// The value of an extended attribute cannot be decoded.
    #[error("malformed value of the PAX record {key}")]
    PaxValue {
        /// The record's keyword.
        key: BytePath,
    },
    /// A sparse file's map is malformed, not ascending, or does not fit its contents.
    #[error("malformed map of a sparse file")]
    SparseMap,
    /// The archive goes beyond one of the [`Limits`](crate::Limits).
    #[error("beyond the limit {name} = {limit}")]
    Limit {
        /// The limit's field name.
        name: &'static str,
        /// Its value.
        limit: u64,
    },
}
