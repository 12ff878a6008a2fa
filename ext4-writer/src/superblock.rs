//! Encoding the superblock.

use zerocopy::{FromZeros, IntoBytes};

use crate::Options;
use crate::checksum::Checksum;
use crate::format::{
    DX_HASH_HALF_MD4, EXT2_FLAGS_SIGNED_HASH, EXT2_FLAGS_UNSIGNED_HASH, EXT3_JNL_BACKUP_BLOCKS,
    EXT4_CRC32C_CHKSUM, EXT4_DEFM_ACL, EXT4_DEFM_XATTR_USER, EXT4_DYNAMIC_REV,
    EXT4_ERRORS_CONTINUE, EXT4_GOOD_OLD_FIRST_INO, EXT4_JOURNAL_INO, EXT4_SUPER_MAGIC,
    EXT4_VALID_FS, EXTRA_ISIZE, GroupDesc, INODE_SIZE, SuperBlock, compat, incompat, ro_compat,
};
use crate::geometry::Geometry;
use crate::quota::Owner;
use crate::special::{Role, Special};

/// The value of `s_checksum`.
pub(crate) fn checksum(superblock: &SuperBlock) -> u32 {
    let covered = size_of::<SuperBlock>() - size_of::<u32>();
    Checksum::START
        .add(&superblock.as_bytes()[..covered])
        .value()
}

/// The superblock without counts of free blocks and inodes.
pub(crate) fn describe(
    geometry: &Geometry,
    options: &Options,
    special: &[Special],
    seed: Checksum,
) -> SuperBlock {
    let mut compat = compat::EXT_ATTR | compat::DIR_INDEX;
    if geometry.reserved_gdt_blocks > 0 {
        compat |= compat::RESIZE_INODE;
    }
    let (created, created_hi) = options.created.encode_superblock();
    let root_only = u128::from(geometry.blocks) * u128::from(options.reserved_percent) / 100;
    let mut label = [0; 16];
    label[..options.label.len()].copy_from_slice(&options.label);

    let mut superblock = SuperBlock::new_zeroed();
    compat |= refer_to(special, &mut superblock);
    superblock.s_inodes_count = geometry.inodes().into();
    superblock.s_blocks_count_lo = (geometry.blocks as u32).into();
    superblock.s_blocks_count_hi = ((geometry.blocks >> 32) as u32).into();
    superblock.s_r_blocks_count_lo = (root_only as u32).into();
    superblock.s_r_blocks_count_hi = ((root_only >> 32) as u32).into();
    superblock.s_first_data_block = (geometry.first_block as u32).into();
    superblock.s_log_block_size = options.block_size.log().into();
    superblock.s_log_cluster_size = options.block_size.log().into();
    superblock.s_blocks_per_group = (geometry.blocks_per_group as u32).into();
    superblock.s_clusters_per_group = (geometry.blocks_per_group as u32).into();
    superblock.s_inodes_per_group = geometry.inodes_per_group.into();
    superblock.s_wtime = created.into();
    superblock.s_wtime_hi = created_hi;
    superblock.s_lastcheck = created.into();
    superblock.s_lastcheck_hi = created_hi;
    superblock.s_mkfs_time = created.into();
    superblock.s_mkfs_time_hi = created_hi;
    // No check is due after any number of mounts.
    superblock.s_max_mnt_count = u16::MAX.into();
    superblock.s_magic = EXT4_SUPER_MAGIC.into();
    superblock.s_state = EXT4_VALID_FS.into();
    superblock.s_errors = EXT4_ERRORS_CONTINUE.into();
    superblock.s_rev_level = EXT4_DYNAMIC_REV.into();
    superblock.s_first_ino = EXT4_GOOD_OLD_FIRST_INO.into();
    superblock.s_inode_size = (INODE_SIZE as u16).into();
    superblock.s_feature_compat = compat.into();
    let flag = |wanted, flag| if wanted { flag } else { 0 };
    superblock.s_feature_incompat = (incompat::FILETYPE
        | incompat::EXTENTS
        | incompat::BIT64
        | incompat::FLEX_BG
        | incompat::CSUM_SEED
        | flag(geometry.first_meta_bg.is_some(), incompat::META_BG)
        | flag(options.inline_data, incompat::INLINE_DATA)
        | flag(options.ea_inode, incompat::EA_INODE)
        | flag(options.large_dir, incompat::LARGEDIR))
    .into();
    superblock.s_feature_ro_compat = (ro_compat::SPARSE_SUPER
        | ro_compat::LARGE_FILE
        | ro_compat::HUGE_FILE
        | ro_compat::DIR_NLINK
        | ro_compat::EXTRA_ISIZE
        | ro_compat::METADATA_CSUM
        | flag(options.quota, ro_compat::QUOTA)
        | flag(options.project, ro_compat::PROJECT)
        | flag(options.verity, ro_compat::VERITY)
        | flag(options.read_only, ro_compat::READONLY))
    .into();
    superblock.s_uuid = options.effective_uuid();
    superblock.s_volume_name = label;
    superblock.s_reserved_gdt_blocks = geometry.reserved_gdt_blocks.into();
    superblock.s_hash_seed = options.effective_hash_seed();
    superblock.s_def_hash_version = DX_HASH_HALF_MD4;
    superblock.s_desc_size = (size_of::<GroupDesc>() as u16).into();
    superblock.s_default_mount_opts = (EXT4_DEFM_XATTR_USER | EXT4_DEFM_ACL).into();
    superblock.s_min_extra_isize = EXTRA_ISIZE.into();
    superblock.s_want_extra_isize = EXTRA_ISIZE.into();
    superblock.s_flags = match options.signed_hash {
        true => EXT2_FLAGS_SIGNED_HASH,
        false => EXT2_FLAGS_UNSIGNED_HASH,
    }
    .into();
    superblock.s_log_groups_per_flex = geometry.log_groups_per_flex;
    superblock.s_checksum_type = EXT4_CRC32C_CHKSUM;
    superblock.s_overhead_clusters = (geometry.overhead() as u32).into();
    superblock.s_first_meta_bg = (geometry.first_meta_bg.unwrap_or(0) as u32).into();
    superblock.s_checksum_seed = seed.value().into();
    superblock
}

/// Refers to the special inodes from the superblock. Returns the features that they are.
fn refer_to(special: &[Special], superblock: &mut SuperBlock) -> u32 {
    let mut compat = 0;
    for inode in special {
        match inode.role {
            Role::Resize => (),
            Role::Journal => {
                compat |= compat::HAS_JOURNAL;
                let journal = &inode.body;
                superblock.s_journal_inum = EXT4_JOURNAL_INO.into();
                superblock.s_jnl_backup_type = EXT3_JNL_BACKUP_BLOCKS;
                // The journal inode's `i_block`, and its size, the high half first.
                let words = superblock.s_jnl_blocks.iter_mut();
                for (word, bytes) in words.zip(journal.block.as_chunks().0) {
                    *word = u32::from_le_bytes(*bytes).into();
                }
                superblock.s_jnl_blocks[15] = ((journal.size >> 32) as u32).into();
                superblock.s_jnl_blocks[16] = (journal.size as u32).into();
            }
            Role::OrphanFile => {
                compat |= compat::ORPHAN_FILE;
                superblock.s_orphan_file_inum = inode.ino.into();
            }
            Role::Quota(Owner::User) => superblock.s_usr_quota_inum = inode.ino.into(),
            Role::Quota(Owner::Group) => superblock.s_grp_quota_inum = inode.ino.into(),
            Role::Quota(Owner::Project) => superblock.s_prj_quota_inum = inode.ino.into(),
        }
    }
    compat
}
