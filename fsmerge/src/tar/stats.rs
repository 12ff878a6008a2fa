//! What reading a layer counted and remarked.

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

/// Something in the archive that is not in the layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// The entry, as the archive has it.
    pub path: Vec<u8>,
    /// Where the entry's header begins, in bytes.
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
    /// A volume label or a part of a multi-volume archive, passed over.
    Volume {
        /// The header's `typeflag`.
        kind: u8,
    },
    /// A single block of zeros where two end an archive: what follows is not read, as GNU tar does not.
    LoneZeroBlock,
}
