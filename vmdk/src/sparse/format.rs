//! The structures of a sparse image, by VMware's *Virtual Disk Format 5.0*.

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

pub(super) const MAGIC: u32 = u32::from_le_bytes(*b"KDMV");

/// `flags`: the header has the four bytes that reveal a transfer in text mode.
pub(super) const FLAG_LINE_ENDS: u32 = 1 << 0;
/// `flags`: there is a second grain directory at `rgd_offset`.
pub(super) const FLAG_REDUNDANT: u32 = 1 << 1;
/// `flags`: a table entry of 1 is a grain of zeros.
pub(super) const FLAG_ZERO_GRAINS: u32 = 1 << 2;
/// `flags`: grains are compressed.
pub(super) const FLAG_COMPRESSED: u32 = 1 << 16;
/// `flags`: everything but grains is preceded by a marker.
pub(super) const FLAG_MARKERS: u32 = 1 << 17;
/// Flags from this bit on change the meaning of the rest.
pub(super) const FLAGS_INCOMPATIBLE: u32 = 0xffff_0000;

/// `gd_offset`: the real one is in the footer (`GD_AT_END`).
pub(super) const DIRECTORY_AT_END: u64 = u64::MAX;

/// `compress_algorithm`: RFC 1950 streams.
pub(super) const DEFLATE: u16 = 1;

/// Entries of a grain table (`numGTEsPerGT`).
pub(super) const TABLE_ENTRIES: usize = 512;

/// The size of a grain table, in sectors.
pub(super) const TABLE_SECTORS: u64 = 4;

/// `SparseExtentHeader`: the first sector, and the one before the last of a streamOptimized image.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct Header {
    pub(super) magic_number: U32,
    pub(super) version: U32,
    pub(super) flags: U32,
    /// Of the disk, in sectors.
    pub(super) capacity: U64,
    /// In sectors.
    pub(super) grain_size: U64,
    /// In sectors; 0 for none.
    pub(super) descriptor_offset: U64,
    /// In sectors.
    pub(super) descriptor_size: U64,
    pub(super) num_gtes_per_gt: U32,
    /// In sectors.
    pub(super) rgd_offset: U64,
    /// In sectors.
    pub(super) gd_offset: U64,
    /// Sectors before the first grain.
    pub(super) over_head: U64,
    pub(super) unclean_shutdown: u8,
    /// [`LINE_ENDS`].
    pub(super) line_ends: [u8; 4],
    pub(super) compress_algorithm: U16,
    pub(super) pad: [u8; 433],
}

const _: () = assert!(size_of::<Header>() == 512);

/// `singleEndLineChar`, `nonEndLineChar`, `doubleEndLineChar1`, `doubleEndLineChar2`.
pub(super) const LINE_ENDS: [u8; 4] = *b"\n \r\n";

/// The header of a compressed grain.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct GrainMarker {
    /// The grain's first sector on the disk.
    pub(super) lba: U64,
    /// Of the compressed bytes that follow.
    pub(super) size: U32,
}

const _: () = assert!(size_of::<GrainMarker>() == 12);

/// The header of everything but grains in a streamOptimized image.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct Marker {
    /// Of what follows.
    pub(super) num_sectors: U64,
    /// 0, which no grain has.
    pub(super) size: U32,
    /// One of the `MARKER_` constants.
    pub(super) kind: U32,
    pub(super) pad: [u8; 496],
}

const _: () = assert!(size_of::<Marker>() == 512);

pub(super) const MARKER_END: u32 = 0;
pub(super) const MARKER_TABLE: u32 = 1;
pub(super) const MARKER_DIRECTORY: u32 = 2;
pub(super) const MARKER_FOOTER: u32 = 3;
