//! Extents of files.

use core::fmt;

use crate::algorithm::Algorithm;

/// A run of bytes of a file that are stored together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Extent {
    /// The offset in the file, in bytes.
    pub logical: u64,
    /// The length in bytes of the file. The last run ends at the end of the file, not of a block.
    pub length: u64,
    /// Where the bytes are stored.
    pub source: Source,
}

impl Extent {
    /// Returns a run of `length` bytes at offset `logical` of a file.
    pub fn new(logical: u64, length: u64, source: Source) -> Self {
        Self {
            logical,
            length,
            source,
        }
    }

    /// Returns the offset in the file at which the run ends, in bytes.
    pub fn end(&self) -> u64 {
        self.logical.saturating_add(self.length)
    }

    /// Makes this run longer by `next`, where that follows it in the file and on the device.
    pub(crate) fn absorb(&mut self, next: &Self) -> bool {
        if next.logical != self.end() {
            return false;
        }
        let adjacent = match (self.source, next.source) {
            (Source::Hole, Source::Hole) => true,
            (
                Source::Data { device, offset },
                Source::Data {
                    device: next_device,
                    offset: next_offset,
                },
            ) => device == next_device && offset.checked_add(self.length) == Some(next_offset),
            _ => false,
        };
        if adjacent {
            self.length = self.length.saturating_add(next.length);
        }
        adjacent
    }
}

/// Where the bytes of an [`Extent`] are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub enum Source {
    /// Not stored: they are zeros.
    Hole,
    /// Uncompressed, on a device.
    Data {
        /// The device: 0 is the primary one, `n` the `n`-th of the device table. Always 0 for an
        /// image opened without devices.
        device: u16,
        /// Where they begin on it, in bytes.
        offset: u64,
    },
    /// Uncompressed, after the inode (inline data).
    Inline {
        /// Where they begin on the primary device in bytes, or in the metabox inode's data if the
        /// inode lies there.
        offset: u64,
    },
    /// Compressed, on a device.
    Compressed {
        /// The device, as of [`Source::Data`].
        device: u16,
        /// Where the physical cluster begins on it, in bytes.
        offset: u64,
        /// The physical cluster's length in bytes.
        length: u64,
        /// How it is compressed.
        algorithm: Algorithm,
    },
    /// Compressed, after the inode and its indexes.
    CompressedInline {
        /// Where the compressed bytes begin, as of [`Source::Inline`].
        offset: u64,
        /// How many there are.
        length: u64,
        /// How they are compressed.
        algorithm: Algorithm,
    },
    /// In the data of the packed inode ([`Superblock::packed_nid`](crate::Superblock::packed_nid)).
    Fragment {
        /// Where they begin there, in bytes.
        offset: u64,
    },
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Hole => f.write_str("hole"),
            Self::Data { device, offset } => write!(f, "device {device} at {offset}"),
            Self::Inline { offset } => write!(f, "inline at {offset}"),
            Self::Compressed {
                device,
                offset,
                length,
                algorithm,
            } => {
                let name = algorithm.name();
                write!(f, "device {device} at {offset}, {length} bytes of {name}")
            }
            Self::CompressedInline {
                offset,
                length,
                algorithm,
            } => {
                let name = algorithm.name();
                write!(f, "inline at {offset}, {length} bytes of {name}")
            }
            Self::Fragment { offset } => write!(f, "fragment at {offset}"),
        }
    }
}
