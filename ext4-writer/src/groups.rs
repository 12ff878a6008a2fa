//! Bitmaps, group descriptors and superblocks: what says which blocks and inodes are in use.

use std::io::{Seek, Write};
use std::ops::Range;

use zerocopy::{FromZeros, IntoBytes};

use crate::checksum::Checksum;
use crate::format::{
    DX_HASH_HALF_MD4, EXT2_FLAGS_SIGNED_HASH, EXT3_JNL_BACKUP_BLOCKS, EXT4_BG_BLOCK_UNINIT,
    EXT4_BG_INODE_UNINIT, EXT4_BG_INODE_ZEROED, EXT4_CRC32C_CHKSUM, EXT4_DEFM_ACL,
    EXT4_DEFM_XATTR_USER, EXT4_DYNAMIC_REV, EXT4_ERRORS_CONTINUE, EXT4_GOOD_OLD_FIRST_INO,
    EXT4_JOURNAL_INO, EXT4_SUPER_MAGIC, EXT4_VALID_FS, EXTRA_ISIZE, GroupDesc, INODE_SIZE,
    SUPERBLOCK_OFFSET, SuperBlock, compat, incompat, ro_compat,
};
use crate::geometry::{Geometry, LOG_GROUPS_PER_FLEX, has_super};
use crate::image::Image;
use crate::node::Body;
use crate::{Error, Options, Summary};

/// Writes everything that depends on what is in use. Inodes up to `last_ino` are; `directories` are those of directories.
pub(crate) fn write<W: Write + Seek>(
    mut image: Image<W>,
    options: &Options,
    special: &[(u32, Body)],
    last_ino: u32,
    directories: Vec<u32>,
) -> Result<(W, Summary), Error> {
    let geometry = image.geometry.clone();
    let used = image.space.clone().into_used();
    let mut used_dirs = vec![0_u32; geometry.tables.len()];
    for ino in directories {
        used_dirs[((ino - 1) / geometry.inodes_per_group) as usize] += 1;
    }

    let mut descriptors = Vec::with_capacity(geometry.tables.len());
    let mut free_blocks = 0;
    let mut from = 0;
    for (group, directories) in (0..geometry.groups()).zip(used_dirs) {
        let blocks = geometry.group_blocks(group);
        while used
            .get(from)
            .is_some_and(|range| range.end <= blocks.start)
        {
            from += 1;
        }
        let in_group = used[from..]
            .iter()
            .take_while(|range| range.start < blocks.end);
        let in_group: Vec<_> = in_group
            .map(|range| range.start.max(blocks.start)..range.end.min(blocks.end))
            .collect();
        let group = Group {
            number: group,
            free_blocks: blocks.end
                - blocks.start
                - in_group
                    .iter()
                    .map(|range| range.end - range.start)
                    .sum::<u64>(),
            used: in_group,
            used_inodes: (u64::from(last_ino))
                .saturating_sub(group * u64::from(geometry.inodes_per_group))
                .min(geometry.inodes_per_group.into()) as u32,
            directories,
        };
        free_blocks += group.free_blocks;
        descriptors.push(group.write(&mut image)?);
    }
    let mut descriptor_table = descriptors.as_bytes().to_vec();
    descriptor_table.resize(
        (geometry.gdt_blocks * u64::from(geometry.block_size)) as usize,
        0,
    );

    let free_inodes = geometry.inodes() - last_ino;
    let mut superblock = superblock(&geometry, options, special, image.seed);
    superblock.s_free_blocks_count_lo = (free_blocks as u32).into();
    superblock.s_free_blocks_count_hi = ((free_blocks >> 32) as u32).into();
    superblock.s_free_inodes_count = free_inodes.into();
    // The primary copy comes last: until then, there is no filesystem.
    for group in (0..geometry.groups())
        .rev()
        .filter(|&group| has_super(group))
    {
        let start = geometry.group_start(group);
        image.write_block(start + 1, &descriptor_table)?;
        superblock.s_block_group_nr = (group as u16).into();
        superblock.s_checksum = 0.into();
        let covered = &superblock.as_bytes()[..size_of::<SuperBlock>() - size_of::<u32>()];
        superblock.s_checksum = Checksum::START.add(covered).value().into();
        let offset = match group {
            0 => SUPERBLOCK_OFFSET,
            _ => start * u64::from(geometry.block_size),
        };
        image.out.write_at(offset, superblock.as_bytes())?;
    }
    let summary = Summary {
        uuid: options.uuid(),
        block_size: geometry.block_size,
        blocks: geometry.blocks,
        free_blocks,
        inodes: geometry.inodes(),
        free_inodes,
        journal_blocks: geometry.journal_blocks,
    };
    Ok((image.out.finish(options.size)?, summary))
}

/// One group's state.
struct Group {
    number: u64,
    used: Vec<Range<u64>>,
    free_blocks: u64,
    /// How many of its inodes are in use: always the first ones.
    used_inodes: u32,
    directories: u32,
}

impl Group {
    /// Writes the bitmaps that must exist and describes the group.
    fn write<W: Write + Seek>(&self, image: &mut Image<W>) -> Result<GroupDesc, Error> {
        let geometry = &image.geometry;
        let blocks = geometry.group_blocks(self.number);
        let tables = geometry.tables[self.number as usize];
        let inodes = geometry.inodes_per_group;
        let last = self.number + 1 == geometry.groups();
        let bare = blocks.end - blocks.start - geometry.base_blocks(self.number);
        let bits = image.block_size() * 8;

        // No inode table ever needs zeroing: what was not written reads as zeros.
        let mut flags = EXT4_BG_INODE_ZEROED;
        let mut block_bitmap_csum = (0, 0);
        let mut inode_bitmap_csum = (0, 0);
        // The kernel derives the bitmap of a group that holds nothing but its superblock copy, except the last group's,
        // which e2fsck wants to see.
        if self.free_blocks == bare && !last {
            flags |= EXT4_BG_BLOCK_UNINIT;
        } else {
            let mut bitmap = Bitmap::new(bits);
            for range in &self.used {
                bitmap.set(range.start - blocks.start..range.end - blocks.start);
            }
            bitmap.set(blocks.end - blocks.start..bits as u64);
            block_bitmap_csum = image.seed.add(&bitmap.0).halves();
            image.write_block(tables.block_bitmap, &bitmap.0)?;
        }
        if self.used_inodes == 0 {
            flags |= EXT4_BG_INODE_UNINIT;
        } else {
            let mut bitmap = Bitmap::new(bits);
            bitmap.set(0..self.used_inodes.into());
            bitmap.set(inodes.into()..bits as u64);
            let covered = &bitmap.0[..(inodes / 8) as usize];
            inode_bitmap_csum = image.seed.add(covered).halves();
            image.write_block(tables.inode_bitmap, &bitmap.0)?;
        }

        let free_inodes = inodes - self.used_inodes;
        let mut descriptor = GroupDesc {
            bg_block_bitmap_lo: (tables.block_bitmap as u32).into(),
            bg_inode_bitmap_lo: (tables.inode_bitmap as u32).into(),
            bg_inode_table_lo: (tables.inode_table as u32).into(),
            bg_free_blocks_count_lo: (self.free_blocks as u16).into(),
            bg_free_inodes_count_lo: (free_inodes as u16).into(),
            bg_used_dirs_count_lo: (self.directories as u16).into(),
            bg_flags: flags.into(),
            bg_exclude_bitmap_lo: 0.into(),
            bg_block_bitmap_csum_lo: block_bitmap_csum.0.into(),
            bg_inode_bitmap_csum_lo: inode_bitmap_csum.0.into(),
            bg_itable_unused_lo: (free_inodes as u16).into(),
            bg_checksum: 0.into(),
            bg_block_bitmap_hi: ((tables.block_bitmap >> 32) as u32).into(),
            bg_inode_bitmap_hi: ((tables.inode_bitmap >> 32) as u32).into(),
            bg_inode_table_hi: ((tables.inode_table >> 32) as u32).into(),
            bg_free_blocks_count_hi: ((self.free_blocks >> 16) as u16).into(),
            bg_free_inodes_count_hi: ((free_inodes >> 16) as u16).into(),
            bg_used_dirs_count_hi: ((self.directories >> 16) as u16).into(),
            bg_itable_unused_hi: ((free_inodes >> 16) as u16).into(),
            bg_exclude_bitmap_hi: 0.into(),
            bg_block_bitmap_csum_hi: block_bitmap_csum.1.into(),
            bg_inode_bitmap_csum_hi: inode_bitmap_csum.1.into(),
            bg_reserved: 0.into(),
        };
        let number = (self.number as u32).to_le_bytes();
        let checksum = image.seed.add(&number).add(descriptor.as_bytes());
        descriptor.bg_checksum = checksum.halves().0.into();
        Ok(descriptor)
    }
}

/// A block of bits.
struct Bitmap(Vec<u8>);

impl Bitmap {
    fn new(bits: usize) -> Self {
        Self(vec![0; bits / 8])
    }

    fn set(&mut self, bits: Range<u64>) {
        let mut bit = bits.start as usize;
        let end = bits.end as usize;
        while bit < end {
            if bit.is_multiple_of(8) && end - bit >= 8 {
                self.0[bit / 8] = 0xff;
                bit += 8;
            } else {
                self.0[bit / 8] |= 1 << (bit % 8);
                bit += 1;
            }
        }
    }
}

/// The superblock without counts of what is free.
fn superblock(
    geometry: &Geometry,
    options: &Options,
    special: &[(u32, Body)],
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
    if let Some((_, journal)) = special.iter().find(|(ino, _)| *ino == EXT4_JOURNAL_INO) {
        compat |= compat::HAS_JOURNAL;
        superblock.s_journal_inum = EXT4_JOURNAL_INO.into();
        superblock.s_jnl_backup_type = EXT3_JNL_BACKUP_BLOCKS;
        // The journal inode's `i_block`, and its size, the high half first.
        for (word, bytes) in superblock
            .s_jnl_blocks
            .iter_mut()
            .zip(journal.block.as_chunks().0)
        {
            *word = u32::from_le_bytes(*bytes).into();
        }
        superblock.s_jnl_blocks[15] = ((journal.size >> 32) as u32).into();
        superblock.s_jnl_blocks[16] = (journal.size as u32).into();
    }
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
    superblock.s_feature_incompat = (incompat::FILETYPE
        | incompat::EXTENTS
        | incompat::BIT64
        | incompat::FLEX_BG
        | incompat::CSUM_SEED)
        .into();
    superblock.s_feature_ro_compat = (ro_compat::SPARSE_SUPER
        | ro_compat::LARGE_FILE
        | ro_compat::HUGE_FILE
        | ro_compat::DIR_NLINK
        | ro_compat::EXTRA_ISIZE
        | ro_compat::METADATA_CSUM)
        .into();
    superblock.s_uuid = options.uuid();
    superblock.s_volume_name = label;
    superblock.s_reserved_gdt_blocks = geometry.reserved_gdt_blocks.into();
    superblock.s_hash_seed = options.hash_seed();
    superblock.s_def_hash_version = DX_HASH_HALF_MD4;
    superblock.s_desc_size = (size_of::<GroupDesc>() as u16).into();
    superblock.s_default_mount_opts = (EXT4_DEFM_XATTR_USER | EXT4_DEFM_ACL).into();
    superblock.s_min_extra_isize = EXTRA_ISIZE.into();
    superblock.s_want_extra_isize = EXTRA_ISIZE.into();
    superblock.s_flags = EXT2_FLAGS_SIGNED_HASH.into();
    superblock.s_log_groups_per_flex = LOG_GROUPS_PER_FLEX as u8;
    superblock.s_checksum_type = EXT4_CRC32C_CHKSUM;
    superblock.s_overhead_clusters = (geometry.overhead() as u32).into();
    superblock.s_checksum_seed = seed.value().into();
    superblock
}
