//! The structures on disk, as `fs/erofs/erofs_fs.h` of Linux defines them.

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Where the superblock begins, in bytes (`EROFS_SUPER_OFFSET`).
pub(crate) const EROFS_SUPER_OFFSET: u64 = 1024;
/// `EROFS_SUPER_MAGIC_V1`.
pub(crate) const EROFS_SUPER_MAGIC_V1: u32 = 0xe0f5_e1e2;

pub(crate) const EROFS_FEATURE_COMPAT_SB_CHKSUM: u32 = 0x01;
pub(crate) const EROFS_FEATURE_COMPAT_MTIME: u32 = 0x02;
pub(crate) const EROFS_FEATURE_COMPAT_XATTR_FILTER: u32 = 0x04;
pub(crate) const EROFS_FEATURE_COMPAT_SHARED_EA_IN_METABOX: u32 = 0x08;
pub(crate) const EROFS_FEATURE_COMPAT_PLAIN_XATTR_PFX: u32 = 0x10;
pub(crate) const EROFS_FEATURE_COMPAT_ISHARE_XATTRS: u32 = 0x20;

pub(crate) const EROFS_FEATURE_INCOMPAT_ZERO_PADDING: u32 = 0x001;
/// Also `BIG_PCLUSTER`.
pub(crate) const EROFS_FEATURE_INCOMPAT_COMPR_CFGS: u32 = 0x002;
pub(crate) const EROFS_FEATURE_INCOMPAT_CHUNKED_FILE: u32 = 0x004;
/// Also `COMPR_HEAD2`.
pub(crate) const EROFS_FEATURE_INCOMPAT_DEVICE_TABLE: u32 = 0x008;
pub(crate) const EROFS_FEATURE_INCOMPAT_ZTAILPACKING: u32 = 0x010;
/// Also `DEDUPE`.
pub(crate) const EROFS_FEATURE_INCOMPAT_FRAGMENTS: u32 = 0x020;
pub(crate) const EROFS_FEATURE_INCOMPAT_XATTR_PREFIXES: u32 = 0x040;
pub(crate) const EROFS_FEATURE_INCOMPAT_48BIT: u32 = 0x080;
pub(crate) const EROFS_FEATURE_INCOMPAT_METABOX: u32 = 0x100;

/// `struct erofs_super_block` without its extension slots.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct SuperBlock {
    pub magic: U32,
    pub checksum: U32,
    pub feature_compat: U32,
    pub blkszbits: u8,
    pub sb_extslots: u8,
    /// `rb`: the root's nid, or with `rootnid_8b` the upper bits of `blocks`.
    pub rb: U16,
    pub inos: U64,
    pub epoch: U64,
    pub fixed_nsec: U32,
    pub blocks_lo: U32,
    pub meta_blkaddr: U32,
    pub xattr_blkaddr: U32,
    pub uuid: [u8; 16],
    pub volume_name: [u8; 16],
    pub feature_incompat: U32,
    /// `u1`: `available_compr_algs` or `lz4_max_distance`.
    pub u1: U16,
    pub extra_devices: U16,
    pub devt_slotoff: U16,
    pub dirblkbits: u8,
    pub xattr_prefix_count: u8,
    pub xattr_prefix_start: U32,
    pub packed_nid: U64,
    pub xattr_filter_reserved: u8,
    pub ishare_xattr_prefix_id: u8,
    pub reserved: [u8; 2],
    pub build_time: U32,
    pub rootnid_8b: U64,
    pub reserved2: U64,
}

/// The first extension slot of the superblock.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct SuperBlockSlot1 {
    pub metabox_nid: U64,
    pub reserved3: U64,
}

/// `EROFS_SB_EXTSLOT_SIZE`.
pub(crate) const EROFS_SB_EXTSLOT_SIZE: u64 = 16;

/// `struct erofs_deviceslot`.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct DeviceSlot {
    pub tag: [u8; 64],
    pub blocks_lo: U32,
    pub uniaddr_lo: U32,
    // 32 bits in the headers of Linux 6.15 to 6.17, which read neither this nor the next: 16 since.
    pub blocks_hi: U16,
    pub uniaddr_hi: U16,
    pub reserved: [u8; 52],
}

/// Bytes per device slot; `devt_slotoff` counts in them.
pub(crate) const EROFS_DEVT_SLOT_SIZE: u64 = 128;

/// Inodes begin at multiples of this many bytes; a nid counts in them.
pub(crate) const EROFS_SLOT_SIZE: u64 = 32;

pub(crate) const EROFS_I_VERSION_MASK: u16 = 0x01;
pub(crate) const EROFS_I_DATALAYOUT_SHIFT: u32 = 1;
pub(crate) const EROFS_I_DATALAYOUT_MASK: u16 = 0x07;
/// `EROFS_I_NLINK_1_BIT` of other compact inodes, `EROFS_I_DOT_OMITTED_BIT` of directories.
pub(crate) const EROFS_I_BIT4: u16 = 0x10;
pub(crate) const EROFS_I_ALL: u16 = 0x1f;

pub(crate) const EROFS_INODE_FLAT_PLAIN: u16 = 0;
pub(crate) const EROFS_INODE_COMPRESSED_FULL: u16 = 1;
pub(crate) const EROFS_INODE_FLAT_INLINE: u16 = 2;
pub(crate) const EROFS_INODE_COMPRESSED_COMPACT: u16 = 3;
pub(crate) const EROFS_INODE_CHUNK_BASED: u16 = 4;

/// `struct erofs_inode_compact`.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct InodeCompact {
    pub i_format: U16,
    pub i_xattr_icount: U16,
    pub i_mode: U16,
    /// `nlink`, or with `EROFS_I_NLINK_1_BIT` the upper bits of the address in `i_u`.
    pub i_nb: U16,
    pub i_size: U32,
    pub i_mtime: U32,
    pub i_u: U32,
    pub i_ino: U32,
    pub i_uid: U16,
    pub i_gid: U16,
    pub i_reserved: U32,
}

/// `struct erofs_inode_extended`.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct InodeExtended {
    pub i_format: U16,
    pub i_xattr_icount: U16,
    pub i_mode: U16,
    /// The upper bits of the address in `i_u`.
    pub i_nb: U16,
    pub i_size: U64,
    pub i_u: U32,
    pub i_ino: U32,
    pub i_uid: U32,
    pub i_gid: U32,
    pub i_mtime: U64,
    pub i_mtime_nsec: U32,
    pub i_nlink: U32,
    pub i_reserved2: [u8; 16],
}

/// `Z_EROFS_PCLUSTER_MAX_SIZE`: bytes that a physical cluster has at most.
pub(crate) const PCLUSTER_MAX_SIZE: u64 = 1 << 20;
/// `Z_EROFS_PCLUSTER_MAX_DSIZE`: bytes that one decodes to at most.
pub(crate) const PCLUSTER_MAX_DSIZE: u64 = 12 << 20;

/// `struct z_erofs_lz4_cfgs`.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct Lz4Configuration {
    pub max_distance: U16,
    pub max_pclusterblks: U16,
    pub reserved: [u8; 10],
}

/// `struct z_erofs_lzma_cfgs`.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct LzmaConfiguration {
    pub dict_size: U32,
    pub format: U16,
    pub reserved: [u8; 8],
}

/// `struct z_erofs_deflate_cfgs`.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct DeflateConfiguration {
    pub windowbits: u8,
    pub reserved: [u8; 5],
}

/// `struct z_erofs_zstd_cfgs`.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct ZstdConfiguration {
    pub format: u8,
    pub windowlog: u8,
    pub reserved: [u8; 4],
}

pub(crate) const EROFS_CHUNK_FORMAT_BLKBITS_MASK: u16 = 0x1f;
pub(crate) const EROFS_CHUNK_FORMAT_INDEXES: u16 = 0x20;
pub(crate) const EROFS_CHUNK_FORMAT_48BIT: u16 = 0x40;
pub(crate) const EROFS_CHUNK_FORMAT_ALL: u16 = 0x7f;

/// `struct erofs_inode_chunk_index`.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct ChunkIndex {
    pub startblk_hi: U16,
    pub device_id: U16,
    pub startblk_lo: U32,
}

/// `struct erofs_xattr_ibody_header`.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct XattrIbodyHeader {
    pub h_name_filter: U32,
    pub h_shared_count: u8,
    pub h_reserved2: [u8; 7],
}

/// `struct erofs_xattr_entry`, which its name and value follow.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct XattrEntry {
    pub e_name_len: u8,
    pub e_name_index: u8,
    pub e_value_size: U16,
}

pub(crate) const EROFS_XATTR_LONG_PREFIX: u8 = 0x80;
pub(crate) const EROFS_XATTR_LONG_PREFIX_MASK: u8 = 0x7f;

/// `struct erofs_dirent`.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct Dirent {
    pub nid: U64,
    pub nameoff: U16,
    pub file_type: u8,
    pub reserved: u8,
}

/// `EROFS_NAME_LEN`.
pub(crate) const EROFS_NAME_LEN: usize = 255;

/// `EROFS_DIRENT_NID_METABOX_BIT` as a mask: the inode lies in the metabox inode's data.
pub(crate) const EROFS_NID_METABOX: u64 = 1 << 63;

const _: () = {
    assert!(size_of::<SuperBlock>() == 128);
    assert!(size_of::<SuperBlockSlot1>() == 16);
    assert!(size_of::<DeviceSlot>() == 128);
    assert!(size_of::<InodeCompact>() == 32);
    assert!(size_of::<InodeExtended>() == 64);
    assert!(size_of::<Lz4Configuration>() == 14);
    assert!(size_of::<LzmaConfiguration>() == 14);
    assert!(size_of::<DeflateConfiguration>() == 6);
    assert!(size_of::<ZstdConfiguration>() == 6);
    assert!(size_of::<ChunkIndex>() == 8);
    assert!(size_of::<XattrIbodyHeader>() == 12);
    assert!(size_of::<XattrEntry>() == 4);
    assert!(size_of::<Dirent>() == 12);
};
