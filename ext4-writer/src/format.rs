//! The structures on disk, with the kernel's names (`fs/ext4/ext4.h`, `ext4_extents.h`, `xattr.h`,
//! `include/linux/jbd2.h`).

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, big_endian};

/// The superblock lies at byte 1024 of the image and is 1,024 bytes long.
pub(crate) const SUPERBLOCK_OFFSET: u64 = 1024;
pub(crate) const EXT4_SUPER_MAGIC: u16 = 0xef53;
pub(crate) const EXT4_VALID_FS: u16 = 1;
pub(crate) const EXT4_ERROR_FS: u16 = 2;
pub(crate) const EXT4_ERRORS_CONTINUE: u16 = 1;
pub(crate) const EXT4_DYNAMIC_REV: u32 = 1;
pub(crate) const EXT4_CRC32C_CHKSUM: u8 = 1;
pub(crate) const EXT3_JNL_BACKUP_BLOCKS: u8 = 1;
/// Directory hashes take names as signed chars, as images made on x86 do.
pub(crate) const EXT2_FLAGS_SIGNED_HASH: u32 = 1;
/// Directory hashes take names as unsigned chars, as images made on ARM do.
pub(crate) const EXT2_FLAGS_UNSIGNED_HASH: u32 = 2;
pub(crate) const EXT4_DEFM_XATTR_USER: u32 = 4;
pub(crate) const EXT4_DEFM_ACL: u32 = 8;

pub(crate) const DX_HASH_HALF_MD4: u8 = 1;

pub(crate) mod compat {
    pub(crate) const HAS_JOURNAL: u32 = 0x4;
    pub(crate) const EXT_ATTR: u32 = 0x8;
    pub(crate) const RESIZE_INODE: u32 = 0x10;
    pub(crate) const DIR_INDEX: u32 = 0x20;
    pub(crate) const ORPHAN_FILE: u32 = 0x1000;
}

pub(crate) mod incompat {
    pub(crate) const FILETYPE: u32 = 0x2;
    pub(crate) const RECOVER: u32 = 0x4;
    pub(crate) const META_BG: u32 = 0x10;
    pub(crate) const EXTENTS: u32 = 0x40;
    pub(crate) const BIT64: u32 = 0x80;
    pub(crate) const FLEX_BG: u32 = 0x200;
    pub(crate) const EA_INODE: u32 = 0x400;
    pub(crate) const CSUM_SEED: u32 = 0x2000;
    pub(crate) const LARGEDIR: u32 = 0x4000;
    pub(crate) const INLINE_DATA: u32 = 0x8000;
}

pub(crate) mod ro_compat {
    pub(crate) const SPARSE_SUPER: u32 = 0x1;
    pub(crate) const LARGE_FILE: u32 = 0x2;
    pub(crate) const HUGE_FILE: u32 = 0x8;
    pub(crate) const DIR_NLINK: u32 = 0x20;
    pub(crate) const EXTRA_ISIZE: u32 = 0x40;
    pub(crate) const QUOTA: u32 = 0x100;
    pub(crate) const METADATA_CSUM: u32 = 0x400;
    pub(crate) const READONLY: u32 = 0x1000;
    pub(crate) const PROJECT: u32 = 0x2000;
    pub(crate) const VERITY: u32 = 0x8000;
    pub(crate) const ORPHAN_PRESENT: u32 = 0x1_0000;
}

/// `struct ext4_super_block`.
#[derive(Clone, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub(crate) struct SuperBlock {
    pub(crate) s_inodes_count: U32,
    pub(crate) s_blocks_count_lo: U32,
    pub(crate) s_r_blocks_count_lo: U32,
    pub(crate) s_free_blocks_count_lo: U32,
    pub(crate) s_free_inodes_count: U32,
    pub(crate) s_first_data_block: U32,
    pub(crate) s_log_block_size: U32,
    pub(crate) s_log_cluster_size: U32,
    pub(crate) s_blocks_per_group: U32,
    pub(crate) s_clusters_per_group: U32,
    pub(crate) s_inodes_per_group: U32,
    pub(crate) s_mtime: U32,
    pub(crate) s_wtime: U32,
    pub(crate) s_mnt_count: U16,
    pub(crate) s_max_mnt_count: U16,
    pub(crate) s_magic: U16,
    pub(crate) s_state: U16,
    pub(crate) s_errors: U16,
    pub(crate) s_minor_rev_level: U16,
    pub(crate) s_lastcheck: U32,
    pub(crate) s_checkinterval: U32,
    pub(crate) s_creator_os: U32,
    pub(crate) s_rev_level: U32,
    pub(crate) s_def_resuid: U16,
    pub(crate) s_def_resgid: U16,
    pub(crate) s_first_ino: U32,
    pub(crate) s_inode_size: U16,
    pub(crate) s_block_group_nr: U16,
    pub(crate) s_feature_compat: U32,
    pub(crate) s_feature_incompat: U32,
    pub(crate) s_feature_ro_compat: U32,
    pub(crate) s_uuid: [u8; 16],
    pub(crate) s_volume_name: [u8; 16],
    pub(crate) s_last_mounted: [u8; 64],
    pub(crate) s_algorithm_usage_bitmap: U32,
    pub(crate) s_prealloc_blocks: u8,
    pub(crate) s_prealloc_dir_blocks: u8,
    pub(crate) s_reserved_gdt_blocks: U16,
    pub(crate) s_journal_uuid: [u8; 16],
    pub(crate) s_journal_inum: U32,
    pub(crate) s_journal_dev: U32,
    pub(crate) s_last_orphan: U32,
    pub(crate) s_hash_seed: [u8; 16],
    pub(crate) s_def_hash_version: u8,
    pub(crate) s_jnl_backup_type: u8,
    pub(crate) s_desc_size: U16,
    pub(crate) s_default_mount_opts: U32,
    pub(crate) s_first_meta_bg: U32,
    pub(crate) s_mkfs_time: U32,
    pub(crate) s_jnl_blocks: [U32; 17],
    pub(crate) s_blocks_count_hi: U32,
    pub(crate) s_r_blocks_count_hi: U32,
    pub(crate) s_free_blocks_count_hi: U32,
    pub(crate) s_min_extra_isize: U16,
    pub(crate) s_want_extra_isize: U16,
    pub(crate) s_flags: U32,
    pub(crate) s_raid_stride: U16,
    pub(crate) s_mmp_update_interval: U16,
    pub(crate) s_mmp_block: U64,
    pub(crate) s_raid_stripe_width: U32,
    pub(crate) s_log_groups_per_flex: u8,
    pub(crate) s_checksum_type: u8,
    pub(crate) s_encryption_level: u8,
    pub(crate) s_reserved_pad: u8,
    pub(crate) s_kbytes_written: U64,
    pub(crate) s_snapshot_inum: U32,
    pub(crate) s_snapshot_id: U32,
    pub(crate) s_snapshot_r_blocks_count: U64,
    pub(crate) s_snapshot_list: U32,
    pub(crate) s_error_count: U32,
    pub(crate) s_first_error_time: U32,
    pub(crate) s_first_error_ino: U32,
    pub(crate) s_first_error_block: U64,
    pub(crate) s_first_error_func: [u8; 32],
    pub(crate) s_first_error_line: U32,
    pub(crate) s_last_error_time: U32,
    pub(crate) s_last_error_ino: U32,
    pub(crate) s_last_error_line: U32,
    pub(crate) s_last_error_block: U64,
    pub(crate) s_last_error_func: [u8; 32],
    pub(crate) s_mount_opts: [u8; 64],
    pub(crate) s_usr_quota_inum: U32,
    pub(crate) s_grp_quota_inum: U32,
    pub(crate) s_overhead_clusters: U32,
    pub(crate) s_backup_bgs: [U32; 2],
    pub(crate) s_encrypt_algos: [u8; 4],
    pub(crate) s_encrypt_pw_salt: [u8; 16],
    pub(crate) s_lpf_ino: U32,
    pub(crate) s_prj_quota_inum: U32,
    pub(crate) s_checksum_seed: U32,
    pub(crate) s_wtime_hi: u8,
    pub(crate) s_mtime_hi: u8,
    pub(crate) s_mkfs_time_hi: u8,
    pub(crate) s_lastcheck_hi: u8,
    pub(crate) s_first_error_time_hi: u8,
    pub(crate) s_last_error_time_hi: u8,
    pub(crate) s_first_error_errcode: u8,
    pub(crate) s_last_error_errcode: u8,
    pub(crate) s_encoding: U16,
    pub(crate) s_encoding_flags: U16,
    pub(crate) s_orphan_file_inum: U32,
    pub(crate) s_reserved: [U32; 94],
    pub(crate) s_checksum: U32,
}
const _: () = assert!(size_of::<SuperBlock>() == 1024);

pub(crate) const EXT4_BG_INODE_UNINIT: u16 = 1;
pub(crate) const EXT4_BG_BLOCK_UNINIT: u16 = 2;
pub(crate) const EXT4_BG_INODE_ZEROED: u16 = 4;

/// `struct ext4_group_desc` with the 64bit feature.
#[derive(Clone, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub(crate) struct GroupDesc {
    pub(crate) bg_block_bitmap_lo: U32,
    pub(crate) bg_inode_bitmap_lo: U32,
    pub(crate) bg_inode_table_lo: U32,
    pub(crate) bg_free_blocks_count_lo: U16,
    pub(crate) bg_free_inodes_count_lo: U16,
    pub(crate) bg_used_dirs_count_lo: U16,
    pub(crate) bg_flags: U16,
    pub(crate) bg_exclude_bitmap_lo: U32,
    pub(crate) bg_block_bitmap_csum_lo: U16,
    pub(crate) bg_inode_bitmap_csum_lo: U16,
    pub(crate) bg_itable_unused_lo: U16,
    pub(crate) bg_checksum: U16,
    pub(crate) bg_block_bitmap_hi: U32,
    pub(crate) bg_inode_bitmap_hi: U32,
    pub(crate) bg_inode_table_hi: U32,
    pub(crate) bg_free_blocks_count_hi: U16,
    pub(crate) bg_free_inodes_count_hi: U16,
    pub(crate) bg_used_dirs_count_hi: U16,
    pub(crate) bg_itable_unused_hi: U16,
    pub(crate) bg_exclude_bitmap_hi: U32,
    pub(crate) bg_block_bitmap_csum_hi: U16,
    pub(crate) bg_inode_bitmap_csum_hi: U16,
    pub(crate) bg_reserved: U32,
}
const _: () = assert!(size_of::<GroupDesc>() == 64);

pub(crate) const EXT4_ROOT_INO: u32 = 2;
pub(crate) const EXT4_USR_QUOTA_INO: u32 = 3;
pub(crate) const EXT4_GRP_QUOTA_INO: u32 = 4;
pub(crate) const EXT4_RESIZE_INO: u32 = 7;
pub(crate) const EXT4_JOURNAL_INO: u32 = 8;
pub(crate) const EXT4_GOOD_OLD_FIRST_INO: u32 = 11;

pub(crate) const EXT4_LINK_MAX: u32 = 65000;
pub(crate) const EXT4_NAME_LEN: usize = 255;
/// Where a block-mapped inode's pointer to its doubly indirect block lies in `i_block`.
pub(crate) const EXT4_DIND_BLOCK: usize = 13;
/// How many blocks a block-mapped inode points to without indirection.
pub(crate) const EXT4_NDIR_BLOCKS: u64 = 12;

pub(crate) const EXT4_IMMUTABLE_FL: u32 = 0x10;
pub(crate) const EXT4_INDEX_FL: u32 = 0x1000;
pub(crate) const EXT4_HUGE_FILE_FL: u32 = 0x40000;
pub(crate) const EXT4_EXTENTS_FL: u32 = 0x80000;
pub(crate) const EXT4_EA_INODE_FL: u32 = 0x20_0000;
pub(crate) const EXT4_INLINE_DATA_FL: u32 = 0x1000_0000;
pub(crate) const EXT4_PROJINHERIT_FL: u32 = 0x2000_0000;

pub(crate) const S_IFMT: u16 = 0o170_000;
pub(crate) const S_IFIFO: u16 = 0o010_000;
pub(crate) const S_IFCHR: u16 = 0o020_000;
pub(crate) const S_IFDIR: u16 = 0o040_000;
pub(crate) const S_IFBLK: u16 = 0o060_000;
pub(crate) const S_IFREG: u16 = 0o100_000;
pub(crate) const S_IFLNK: u16 = 0o120_000;
pub(crate) const S_IFSOCK: u16 = 0o140_000;

/// The bytes of `struct ext4_inode` that this crate's inodes have beyond
/// `EXT4_GOOD_OLD_INODE_SIZE`.
pub(crate) const EXTRA_ISIZE: u16 = 32;
/// The bytes an inode takes in its table.
pub(crate) const INODE_SIZE: usize = 256;

/// `struct ext4_inode`, and after it the space for extended attributes.
#[derive(Clone, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub(crate) struct Inode {
    pub(crate) i_mode: U16,
    pub(crate) i_uid: U16,
    pub(crate) i_size_lo: U32,
    pub(crate) i_atime: U32,
    pub(crate) i_ctime: U32,
    pub(crate) i_mtime: U32,
    pub(crate) i_dtime: U32,
    pub(crate) i_gid: U16,
    pub(crate) i_links_count: U16,
    pub(crate) i_blocks_lo: U32,
    pub(crate) i_flags: U32,
    pub(crate) l_i_version: U32,
    pub(crate) i_block: [u8; 60],
    pub(crate) i_generation: U32,
    pub(crate) i_file_acl_lo: U32,
    pub(crate) i_size_high: U32,
    pub(crate) i_obso_faddr: U32,
    pub(crate) l_i_blocks_high: U16,
    pub(crate) l_i_file_acl_high: U16,
    pub(crate) l_i_uid_high: U16,
    pub(crate) l_i_gid_high: U16,
    pub(crate) l_i_checksum_lo: U16,
    pub(crate) l_i_reserved: U16,
    pub(crate) i_extra_isize: U16,
    pub(crate) i_checksum_hi: U16,
    pub(crate) i_ctime_extra: U32,
    pub(crate) i_mtime_extra: U32,
    pub(crate) i_atime_extra: U32,
    pub(crate) i_crtime: U32,
    pub(crate) i_crtime_extra: U32,
    pub(crate) i_version_hi: U32,
    pub(crate) i_projid: U32,
    pub(crate) xattrs: [u8; INODE_XATTR_SPACE],
}
const _: () = assert!(size_of::<Inode>() == INODE_SIZE);

/// The bytes after `struct ext4_inode` in its table slot.
pub(crate) const INODE_XATTR_SPACE: usize = INODE_SIZE - 128 - EXTRA_ISIZE as usize;

pub(crate) const EXT4_EXT_MAGIC: u16 = 0xf30a;
/// An initialized extent covers at most this many blocks.
pub(crate) const EXT_INIT_MAX_LEN: u32 = 1 << 15;

/// `struct ext4_extent_header`.
#[derive(Clone, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub(crate) struct ExtentHeader {
    pub(crate) eh_magic: U16,
    pub(crate) eh_entries: U16,
    pub(crate) eh_max: U16,
    pub(crate) eh_depth: U16,
    pub(crate) eh_generation: U32,
}
const _: () = assert!(size_of::<ExtentHeader>() == 12);

/// `struct ext4_extent`.
#[derive(Clone, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub(crate) struct Extent {
    pub(crate) ee_block: U32,
    pub(crate) ee_len: U16,
    pub(crate) ee_start_hi: U16,
    pub(crate) ee_start_lo: U32,
}
const _: () = assert!(size_of::<Extent>() == 12);

/// `struct ext4_extent_idx`.
#[derive(Clone, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub(crate) struct ExtentIdx {
    pub(crate) ei_block: U32,
    pub(crate) ei_leaf_lo: U32,
    pub(crate) ei_leaf_hi: U16,
    pub(crate) ei_unused: U16,
}
const _: () = assert!(size_of::<ExtentIdx>() == 12);

/// The fixed part of `struct ext4_dir_entry_2`; the name follows.
#[derive(Clone, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub(crate) struct DirEntry {
    pub(crate) inode: U32,
    pub(crate) rec_len: U16,
    pub(crate) name_len: u8,
    pub(crate) file_type: u8,
}
const _: () = assert!(size_of::<DirEntry>() == 8);

pub(crate) const EXT4_FT_DIR_CSUM: u8 = 0xde;

/// `struct ext4_dir_entry_tail`.
#[derive(Clone, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub(crate) struct DirEntryTail {
    pub(crate) det_reserved_zero1: U32,
    pub(crate) det_rec_len: U16,
    pub(crate) det_reserved_zero2: u8,
    pub(crate) det_reserved_ft: u8,
    pub(crate) det_checksum: U32,
}
const _: () = assert!(size_of::<DirEntryTail>() == 12);

/// `struct dx_root_info`.
#[derive(Clone, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub(crate) struct DxRootInfo {
    pub(crate) reserved_zero: U32,
    pub(crate) hash_version: u8,
    pub(crate) info_length: u8,
    pub(crate) indirect_levels: u8,
    pub(crate) unused_flags: u8,
}
const _: () = assert!(size_of::<DxRootInfo>() == 8);

/// `struct dx_countlimit` over the hash of the first `struct dx_entry`.
#[derive(Clone, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub(crate) struct DxCountLimit {
    pub(crate) limit: U16,
    pub(crate) count: U16,
}
const _: () = assert!(size_of::<DxCountLimit>() == 4);

/// `struct dx_entry`.
#[derive(Clone, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub(crate) struct DxEntry {
    pub(crate) hash: U32,
    pub(crate) block: U32,
}
const _: () = assert!(size_of::<DxEntry>() == 8);

/// `struct dx_tail`.
#[derive(Clone, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub(crate) struct DxTail {
    pub(crate) dt_reserved: U32,
    pub(crate) dt_checksum: U32,
}
const _: () = assert!(size_of::<DxTail>() == 8);

pub(crate) const EXT4_XATTR_MAGIC: u32 = 0xea02_0000;
/// The most inodes that may share one attribute block.
pub(crate) const EXT4_XATTR_REFCOUNT_MAX: u32 = 1024;

/// `struct ext4_xattr_header`.
#[derive(Clone, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub(crate) struct XattrHeader {
    pub(crate) h_magic: U32,
    pub(crate) h_refcount: U32,
    pub(crate) h_blocks: U32,
    pub(crate) h_hash: U32,
    pub(crate) h_checksum: U32,
    pub(crate) h_reserved: [U32; 3],
}
const _: () = assert!(size_of::<XattrHeader>() == 32);

/// The fixed part of `struct ext4_xattr_entry`; the name follows.
#[derive(Clone, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub(crate) struct XattrEntry {
    pub(crate) e_name_len: u8,
    pub(crate) e_name_index: u8,
    pub(crate) e_value_offs: U16,
    pub(crate) e_value_inum: U32,
    pub(crate) e_value_size: U32,
    pub(crate) e_hash: U32,
}
const _: () = assert!(size_of::<XattrEntry>() == 16);

pub(crate) const EXT4_ORPHAN_BLOCK_MAGIC: u32 = 0x0b10_ca04;

/// `struct ext4_orphan_block_tail`, after the inode numbers of a block of the orphan file.
#[derive(Clone, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub(crate) struct OrphanBlockTail {
    pub(crate) ob_magic: U32,
    pub(crate) ob_checksum: U32,
}
const _: () = assert!(size_of::<OrphanBlockTail>() == 8);

/// Quota files are made of blocks of this size, whatever the filesystem's (`V2_DQBLKSIZE_BITS`).
pub(crate) const QUOTA_BLOCK: usize = 1024;
/// `V2_INITQMAGICS`: of users, groups and projects.
pub(crate) const QUOTA_MAGICS: [u32; 3] = [0xd9c0_1f11, 0xd9c0_1927, 0xd9c0_3f14];

/// `struct v2_disk_dqheader` and `struct v2_disk_dqinfo` after it.
#[derive(Clone, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub(crate) struct QuotaHeader {
    pub(crate) dqh_magic: U32,
    pub(crate) dqh_version: U32,
    pub(crate) dqi_bgrace: U32,
    pub(crate) dqi_igrace: U32,
    pub(crate) dqi_flags: U32,
    pub(crate) dqi_blocks: U32,
    pub(crate) dqi_free_blk: U32,
    pub(crate) dqi_free_entry: U32,
}
const _: () = assert!(size_of::<QuotaHeader>() == 32);

/// `struct qt_disk_dqdbheader`, before the entries of a block.
#[derive(Clone, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub(crate) struct QuotaBlockHeader {
    pub(crate) dqdh_next_free: U32,
    pub(crate) dqdh_prev_free: U32,
    pub(crate) dqdh_entries: U16,
    pub(crate) dqdh_pad1: U16,
    pub(crate) dqdh_pad2: U32,
}
const _: () = assert!(size_of::<QuotaBlockHeader>() == 16);

/// `struct v2r1_disk_dqblk`.
#[derive(Clone, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub(crate) struct QuotaEntry {
    pub(crate) dqb_id: U32,
    pub(crate) dqb_pad: U32,
    pub(crate) dqb_ihardlimit: U64,
    pub(crate) dqb_isoftlimit: U64,
    pub(crate) dqb_curinodes: U64,
    pub(crate) dqb_bhardlimit: U64,
    pub(crate) dqb_bsoftlimit: U64,
    pub(crate) dqb_curspace: U64,
    pub(crate) dqb_btime: U64,
    pub(crate) dqb_itime: U64,
}
const _: () = assert!(size_of::<QuotaEntry>() == 72);

pub(crate) const JBD2_MAGIC_NUMBER: u32 = 0xc03b_3998;
pub(crate) const JBD2_DESCRIPTOR_BLOCK: u32 = 1;
pub(crate) const JBD2_COMMIT_BLOCK: u32 = 2;
pub(crate) const JBD2_SUPERBLOCK_V2: u32 = 4;
pub(crate) const JBD2_REVOKE_BLOCK: u32 = 5;
pub(crate) const JBD2_MIN_JOURNAL_BLOCKS: u64 = 1024;
pub(crate) const JBD2_CRC32C_CHKSUM: u8 = 4;
pub(crate) const JBD2_FEATURE_INCOMPAT_REVOKE: u32 = 0x1;
pub(crate) const JBD2_FEATURE_INCOMPAT_64BIT: u32 = 0x2;
pub(crate) const JBD2_FEATURE_INCOMPAT_CSUM_V3: u32 = 0x10;

/// The block began with the journal's magic, which is zeroed in the log.
pub(crate) const JBD2_FLAG_ESCAPE: u32 = 1;
/// No UUID follows the tag.
pub(crate) const JBD2_FLAG_SAME_UUID: u32 = 2;
pub(crate) const JBD2_FLAG_LAST_TAG: u32 = 8;

/// `struct journal_header_s`.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub(crate) struct JournalHeader {
    pub(crate) h_magic: big_endian::U32,
    pub(crate) h_blocktype: big_endian::U32,
    pub(crate) h_sequence: big_endian::U32,
}
const _: () = assert!(size_of::<JournalHeader>() == 12);

/// `struct journal_block_tag3_s`.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub(crate) struct JournalBlockTag3 {
    pub(crate) t_blocknr: big_endian::U32,
    pub(crate) t_flags: big_endian::U32,
    pub(crate) t_blocknr_high: big_endian::U32,
    pub(crate) t_checksum: big_endian::U32,
}
const _: () = assert!(size_of::<JournalBlockTag3>() == 16);

/// `struct journal_block_tag_s`; without 64-bit block numbers it ends before `t_blocknr_high`.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub(crate) struct JournalBlockTag {
    pub(crate) t_blocknr: big_endian::U32,
    pub(crate) t_checksum: big_endian::U16,
    pub(crate) t_flags: big_endian::U16,
    pub(crate) t_blocknr_high: big_endian::U32,
}
const _: () = assert!(size_of::<JournalBlockTag>() == 12);

/// `struct jbd2_journal_revoke_header_s`.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub(crate) struct JournalRevokeHeader {
    pub(crate) r_header: JournalHeader,
    /// Bytes in use, these included.
    pub(crate) r_count: big_endian::U32,
}
const _: () = assert!(size_of::<JournalRevokeHeader>() == 16);

/// `struct commit_header`.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub(crate) struct CommitHeader {
    pub(crate) h_header: JournalHeader,
    pub(crate) h_chksum_type: u8,
    pub(crate) h_chksum_size: u8,
    pub(crate) h_padding: [u8; 2],
    pub(crate) h_chksum: [big_endian::U32; 8],
    pub(crate) h_commit_sec: big_endian::U64,
    pub(crate) h_commit_nsec: big_endian::U32,
}
const _: () = assert!(size_of::<CommitHeader>() == 60);

/// `struct journal_superblock_s`.
#[derive(Clone, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub(crate) struct JournalSuperBlock {
    pub(crate) h_magic: big_endian::U32,
    pub(crate) h_blocktype: big_endian::U32,
    pub(crate) h_sequence: big_endian::U32,
    pub(crate) s_blocksize: big_endian::U32,
    pub(crate) s_maxlen: big_endian::U32,
    pub(crate) s_first: big_endian::U32,
    pub(crate) s_sequence: big_endian::U32,
    pub(crate) s_start: big_endian::U32,
    pub(crate) s_errno: big_endian::U32,
    pub(crate) s_feature_compat: big_endian::U32,
    pub(crate) s_feature_incompat: big_endian::U32,
    pub(crate) s_feature_ro_compat: big_endian::U32,
    pub(crate) s_uuid: [u8; 16],
    pub(crate) s_nr_users: big_endian::U32,
    pub(crate) s_dynsuper: big_endian::U32,
    pub(crate) s_max_transaction: big_endian::U32,
    pub(crate) s_max_trans_data: big_endian::U32,
    pub(crate) s_checksum_type: u8,
    pub(crate) s_padding2: [u8; 3],
    pub(crate) s_num_fc_blks: big_endian::U32,
    pub(crate) s_head: big_endian::U32,
    pub(crate) s_padding: [big_endian::U32; 40],
    pub(crate) s_checksum: big_endian::U32,
    pub(crate) s_users: [[u8; 16]; 48],
}
const _: () = assert!(size_of::<JournalSuperBlock>() == 1024);
