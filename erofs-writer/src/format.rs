//! The structures on disk, as `fs/erofs/erofs_fs.h` of the kernel defines and names them.

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Byte offset of the superblock, whatever the block size (`EROFS_SUPER_OFFSET`).
pub(crate) const SUPER_OFFSET: u64 = 1024;
/// `EROFS_SUPER_MAGIC_V1`.
pub(crate) const SUPER_MAGIC: u32 = 0xE0F5_E1E2;

pub(crate) const FEATURE_COMPAT_SB_CHKSUM: u32 = 0x1;
pub(crate) const FEATURE_COMPAT_MTIME: u32 = 0x2;
pub(crate) const FEATURE_COMPAT_XATTR_FILTER: u32 = 0x4;
pub(crate) const FEATURE_INCOMPAT_LZ4_0PADDING: u32 = 0x1;
/// Also `EROFS_FEATURE_INCOMPAT_BIG_PCLUSTER`.
pub(crate) const FEATURE_INCOMPAT_COMPR_CFGS: u32 = 0x2;
pub(crate) const FEATURE_INCOMPAT_CHUNKED_FILE: u32 = 0x4;
pub(crate) const FEATURE_INCOMPAT_DEVICE_TABLE: u32 = 0x8;
pub(crate) const FEATURE_INCOMPAT_ZTAILPACKING: u32 = 0x10;
/// Also `EROFS_FEATURE_INCOMPAT_DEDUPE`.
pub(crate) const FEATURE_INCOMPAT_FRAGMENTS: u32 = 0x20;
pub(crate) const FEATURE_INCOMPAT_XATTR_PREFIXES: u32 = 0x40;
pub(crate) const FEATURE_INCOMPAT_48BIT: u32 = 0x80;

/// Data layouts (`i_format`, bits 1 to 3).
pub(crate) const INODE_FLAT_PLAIN: u16 = 0;
pub(crate) const INODE_COMPRESSED_FULL: u16 = 1;
pub(crate) const INODE_FLAT_INLINE: u16 = 2;
pub(crate) const INODE_COMPRESSED_COMPACT: u16 = 3;
pub(crate) const INODE_CHUNK_BASED: u16 = 4;

/// Bits of `struct erofs_inode_chunk_info`'s `format`, above the five of the chunk's blocks.
pub(crate) const CHUNK_FORMAT_INDEXES: u16 = 0x20;
pub(crate) const CHUNK_FORMAT_48BIT: u16 = 0x40;
/// The size of an entry of the block map (`EROFS_BLOCK_MAP_ENTRY_SIZE`).
pub(crate) const BLOCK_MAP_ENTRY_SIZE: u64 = 4;

/// Inode layouts (`i_format`, bit 0).
pub(crate) const INODE_LAYOUT_COMPACT: u16 = 0;
pub(crate) const INODE_LAYOUT_EXTENDED: u16 = 1;
pub(crate) const I_DATALAYOUT_BIT: u16 = 1;
/// Of a compact inode that is not a directory: it has one link, and `i_nb` is part of its address.
pub(crate) const I_NLINK_1_BIT: u16 = 4;

/// Inodes are addressed in units of this many bytes from the start of the metadata area
/// (`islotbits`).
pub(crate) const ISLOT: u64 = 32;
/// The longest file name in bytes (`EROFS_NAME_LEN`).
pub(crate) const NAME_LEN: usize = 255;

pub(crate) const S_IFIFO: u16 = 0o010_000;
pub(crate) const S_IFCHR: u16 = 0o020_000;
pub(crate) const S_IFDIR: u16 = 0o040_000;
pub(crate) const S_IFBLK: u16 = 0o060_000;
pub(crate) const S_IFREG: u16 = 0o100_000;
pub(crate) const S_IFLNK: u16 = 0o120_000;
pub(crate) const S_IFSOCK: u16 = 0o140_000;
pub(crate) const S_IFMT: u16 = 0o170_000;

pub(crate) const XATTR_INDEX_USER: u8 = 1;
pub(crate) const XATTR_INDEX_POSIX_ACL_ACCESS: u8 = 2;
pub(crate) const XATTR_INDEX_POSIX_ACL_DEFAULT: u8 = 3;
pub(crate) const XATTR_INDEX_TRUSTED: u8 = 4;
pub(crate) const XATTR_INDEX_SECURITY: u8 = 6;
/// Set in an `e_name_index` that is a long prefix's number.
pub(crate) const XATTR_LONG_PREFIX: u8 = 0x80;
pub(crate) const XATTR_LONG_PREFIX_MASK: u8 = 0x7f;
/// `EROFS_XATTR_FILTER_SEED`; the name index is added to it.
pub(crate) const XATTR_FILTER_SEED: u32 = 0x25BB_E08F;

/// `struct erofs_super_block`.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct SuperBlock {
    pub(crate) magic: U32,
    /// CRC-32C of the superblock's block from here on, this field taken as zero.
    pub(crate) checksum: U32,
    pub(crate) feature_compat: U32,
    pub(crate) blkszbits: u8,
    pub(crate) sb_extslots: u8,
    /// The root's number, or with 48-bit addresses the upper bits of `blocks`.
    pub(crate) rb: U16,
    pub(crate) inos: U64,
    /// Called `build_time` before Linux 6.15.
    pub(crate) epoch: U64,
    /// Called `build_time_nsec` before Linux 6.15.
    pub(crate) fixed_nsec: U32,
    pub(crate) blocks_lo: U32,
    pub(crate) meta_blkaddr: U32,
    pub(crate) xattr_blkaddr: U32,
    pub(crate) uuid: [u8; 16],
    pub(crate) volume_name: [u8; 16],
    pub(crate) feature_incompat: U32,
    pub(crate) available_compr_algs: U16,
    pub(crate) extra_devices: U16,
    pub(crate) devt_slotoff: U16,
    pub(crate) dirblkbits: u8,
    pub(crate) xattr_prefix_count: u8,
    pub(crate) xattr_prefix_start: U32,
    pub(crate) packed_nid: U64,
    pub(crate) xattr_filter_reserved: u8,
    pub(crate) reserved: [u8; 3],
    /// Seconds from `epoch` to when the image was made.
    pub(crate) build_time: U32,
    pub(crate) rootnid_8b: U64,
    pub(crate) reserved2: U64,
}

/// `struct erofs_deviceslot`.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct DeviceSlot {
    pub(crate) tag: [u8; 64],
    pub(crate) blocks_lo: U32,
    pub(crate) uniaddr_lo: U32,
    /// Declared as 32 bits at first, and not read by kernels before that was corrected ("erofs:
    /// handle 48-bit blocks/uniaddr for extra devices").
    pub(crate) blocks_hi: U16,
    pub(crate) uniaddr_hi: U16,
    pub(crate) reserved: [u8; 52],
}

/// `struct erofs_inode_compact`.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct InodeCompact {
    pub(crate) i_format: U16,
    pub(crate) i_xattr_icount: U16,
    pub(crate) i_mode: U16,
    /// The number of links, or the address's upper bits where [`I_NLINK_1_BIT`] is set.
    pub(crate) i_nb: U16,
    pub(crate) i_size: U32,
    /// Seconds after the epoch; kernels before 6.15 take it as zero.
    pub(crate) i_mtime: U32,
    /// `raw_blkaddr`, `rdev` or `struct erofs_inode_chunk_info`.
    pub(crate) i_u: U32,
    pub(crate) i_ino: U32,
    pub(crate) i_uid: U16,
    pub(crate) i_gid: U16,
    pub(crate) i_reserved: U32,
}

/// `struct erofs_inode_extended`.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct InodeExtended {
    pub(crate) i_format: U16,
    pub(crate) i_xattr_icount: U16,
    pub(crate) i_mode: U16,
    /// The address's upper bits.
    pub(crate) i_nb: U16,
    pub(crate) i_size: U64,
    /// `raw_blkaddr`, `rdev` or `struct erofs_inode_chunk_info`.
    pub(crate) i_u: U32,
    pub(crate) i_ino: U32,
    pub(crate) i_uid: U32,
    pub(crate) i_gid: U32,
    pub(crate) i_mtime: U64,
    pub(crate) i_mtime_nsec: U32,
    pub(crate) i_nlink: U32,
    pub(crate) i_reserved2: [u8; 16],
}

/// `struct erofs_xattr_ibody_header`.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct XattrIbodyHeader {
    pub(crate) h_name_filter: U32,
    pub(crate) h_shared_count: u8,
    pub(crate) h_reserved2: [u8; 7],
}

/// `struct erofs_xattr_entry`; the name's rest and the value follow.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct XattrEntry {
    pub(crate) e_name_len: u8,
    pub(crate) e_name_index: u8,
    pub(crate) e_value_size: U16,
}

/// `struct erofs_inode_chunk_index`.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct ChunkIndex {
    pub(crate) startblk_hi: U16,
    pub(crate) device_id: U16,
    pub(crate) startblk_lo: U32,
}

/// `struct z_erofs_map_header`.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct MapHeader {
    pub(crate) h_reserved1: U16,
    pub(crate) h_idata_size: U16,
    pub(crate) h_advise: U16,
    pub(crate) h_algorithmtype: u8,
    pub(crate) h_clusterbits: u8,
}

/// `struct z_erofs_lcluster_index`.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct LclusterIndex {
    pub(crate) di_advise: U16,
    pub(crate) di_clusterofs: U16,
    /// `blkaddr` or `delta`.
    pub(crate) di_u: [U16; 2],
}

/// `struct z_erofs_lz4_cfgs`, after its length.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct Lz4Cfgs {
    pub(crate) length: U16,
    pub(crate) max_distance: U16,
    pub(crate) max_pclusterblks: U16,
    pub(crate) reserved: [u8; 10],
}

/// `struct z_erofs_lzma_cfgs`, after its length.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct LzmaCfgs {
    pub(crate) length: U16,
    pub(crate) dict_size: U32,
    pub(crate) format: U16,
    pub(crate) reserved: [u8; 8],
}

/// `struct z_erofs_deflate_cfgs`, after its length.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct DeflateCfgs {
    pub(crate) length: U16,
    pub(crate) windowbits: u8,
    pub(crate) reserved: [u8; 5],
}

/// `struct z_erofs_zstd_cfgs`, after its length.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct ZstdCfgs {
    pub(crate) length: U16,
    pub(crate) format: u8,
    /// Above `ZSTD_WINDOWLOG_ABSOLUTEMIN`, 10.
    pub(crate) windowlog: u8,
    pub(crate) reserved: [u8; 4],
}

/// `struct erofs_dirent`.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct Dirent {
    pub(crate) nid: U64,
    pub(crate) nameoff: U16,
    pub(crate) file_type: u8,
    pub(crate) reserved: u8,
}

// The kernel's `erofs_check_ondisk_layout_definitions`.
const _: () = assert!(size_of::<SuperBlock>() == 128);
const _: () = assert!(size_of::<DeviceSlot>() == 128);
const _: () = assert!(size_of::<InodeCompact>() == 32);
const _: () = assert!(size_of::<InodeExtended>() == 64);
const _: () = assert!(size_of::<XattrIbodyHeader>() == 12);
const _: () = assert!(size_of::<XattrEntry>() == 4);
const _: () = assert!(size_of::<ChunkIndex>() == 8);
const _: () = assert!(size_of::<MapHeader>() == 8);
const _: () = assert!(size_of::<LclusterIndex>() == 8);
const _: () = assert!(size_of::<Lz4Cfgs>() == 2 + 14);
const _: () = assert!(size_of::<LzmaCfgs>() == 2 + 14);
const _: () = assert!(size_of::<DeflateCfgs>() == 2 + 6);
const _: () = assert!(size_of::<ZstdCfgs>() == 2 + 6);
const _: () = assert!(size_of::<Dirent>() == 12);

/// The `EROFS_FT_*` of a mode (the generic `FT_*` of the kernel).
pub(crate) fn file_type(mode: u16) -> u8 {
    match mode & S_IFMT {
        S_IFREG => 1,
        S_IFDIR => 2,
        S_IFCHR => 3,
        S_IFBLK => 4,
        S_IFIFO => 5,
        S_IFSOCK => 6,
        S_IFLNK => 7,
        _ => 0,
    }
}
