//! Bitmaps, group descriptors and superblocks: what says which blocks and inodes are in use.

use std::collections::VecDeque;
use std::io::{Seek, Write};
use std::ops::Range;

use zerocopy::{FromZeros, IntoBytes};

use crate::bitmap::Bitmap;
use crate::checksum::Checksum;
use crate::format::{
    EXT4_BG_BLOCK_UNINIT, EXT4_BG_INODE_UNINIT, EXT4_BG_INODE_ZEROED, GroupDesc, SUPERBLOCK_OFFSET,
    SuperBlock,
};
use crate::geometry::{Geometry, super_groups};
use crate::image::Image;
use crate::special::Special;
use crate::{Error, Options, Summary, superblock};

/// Writes everything that depends on what is in use. Inodes up to `last_ino` are; `directories` are those of directories.
pub(crate) fn write<W: Write + Seek>(
    mut image: Image<W>,
    options: &Options,
    special: &[Special],
    last_ino: u32,
    directories: Vec<u32>,
) -> Result<(W, Summary), Error> {
    let geometry = image.geometry.clone();
    let used = image.space.clone().into_used();
    let mut used_dirs = vec![0_u32; geometry.tables.len()];
    for ino in directories {
        used_dirs[((ino - 1) / geometry.inodes_per_group) as usize] += 1;
    }

    let room = geometry.gdt_blocks * geometry.descriptors_per_block();
    let mut descriptors = Vec::with_capacity(room as usize);
    let mut free_blocks = 0;
    let mut from = 0;
    let mut filled = Filled::default();
    for (group, directories) in (0..geometry.groups()).zip(used_dirs) {
        let start = geometry.group_start(group);
        while used.get(from).is_some_and(|range| range.end <= start) {
            from += 1;
        }
        let used_inodes = u64::from(last_ino)
            .saturating_sub(group * u64::from(geometry.inodes_per_group))
            .min(geometry.inodes_per_group.into()) as u32;
        let group = Group::new(&geometry, group, &used[from..], used_inodes, directories);
        free_blocks += group.free_blocks;
        descriptors.push(group.write(&mut image, &mut filled)?);
    }

    let free_inodes = geometry.inodes() - last_ino;
    let mut superblock = superblock::describe(&geometry, options, special, image.seed);
    superblock.s_free_blocks_count_lo = (free_blocks as u32).into();
    superblock.s_free_blocks_count_hi = ((free_blocks >> 32) as u32).into();
    superblock.s_free_inodes_count = free_inodes.into();
    write_copies(&mut image, superblock, descriptors)?;
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

/// Writes all copies of the superblock and the descriptors. The primary superblock comes last: until then, there is no
/// filesystem, or the one that was there before.
pub(crate) fn write_copies<W: Write + Seek>(
    image: &mut Image<W>,
    mut superblock: SuperBlock,
    mut descriptors: Vec<GroupDesc>,
) -> Result<(), Error> {
    let geometry = image.geometry.clone();
    let whole = geometry.gdt_blocks * geometry.descriptors_per_block();
    descriptors.resize_with(whole as usize, GroupDesc::new_zeroed);
    let table = descriptors.as_bytes();
    let block_size = geometry.block_size as usize;
    let leading = (geometry.leading_gdt_blocks() as usize * block_size).min(table.len());
    let (leading, behind) = table.split_at(leading);
    for (number, block) in (geometry.leading_gdt_blocks()..).zip(behind.chunks(block_size)) {
        for copy in geometry.descriptor_copies(number) {
            image.write_block(copy, block)?;
        }
    }
    for group in super_groups(geometry.groups()).into_iter().rev() {
        let start = geometry.group_start(group);
        if group / geometry.descriptors_per_block() < geometry.leading_gdt_blocks() {
            image.write_block(start + 1, leading)?;
        }
        superblock.s_block_group_nr = (group as u16).into();
        superblock.s_checksum = superblock::checksum(&superblock).into();
        let offset = match group {
            0 => SUPERBLOCK_OFFSET,
            _ => start * u64::from(geometry.block_size),
        };
        image.out.write_at(offset, superblock.as_bytes())?;
    }
    Ok(())
}

/// What `bg_checksum` is to be in the descriptor of group `number`, whose own is zero.
pub(crate) fn descriptor_checksum(seed: Checksum, number: u64, descriptor: &GroupDesc) -> u16 {
    let number = (number as u32).to_le_bytes();
    seed.add(&number).add(descriptor.as_bytes()).halves().0
}

/// The bitmaps that were made last: those of flexible groups without files are equal, one by one.
#[derive(Debug, Default)]
pub(crate) struct Filled(VecDeque<FilledBitmap>);

/// A bitmap in which `set` are set.
#[derive(Debug)]
struct FilledBitmap {
    set: Vec<Range<u64>>,
    bitmap: Bitmap,
    checksum: (u16, u16),
}

impl Filled {
    /// How many are kept: more than the tables of a flexible group fill.
    const KEPT: usize = 4;

    /// One of `bits` bits in which these are set.
    fn with(&mut self, set: Vec<Range<u64>>, bits: usize, seed: Checksum) -> &FilledBitmap {
        let found = self.0.iter().position(|filled| filled.set == set);
        let at = found.unwrap_or_else(|| {
            self.0.truncate(Self::KEPT - 1);
            let mut bitmap = Bitmap::new(bits);
            for bits in &set {
                bitmap.set(bits.clone());
            }
            self.0.push_front(FilledBitmap {
                checksum: seed.add(&bitmap.0).halves(),
                bitmap,
                set,
            });
            0
        });
        &self.0[at]
    }
}

/// One group's state.
#[derive(Debug)]
pub(crate) struct Group {
    number: u64,
    used: Vec<Range<u64>>,
    free_blocks: u64,
    /// How many of its inodes are in use: always the first ones.
    used_inodes: u32,
    directories: u32,
}

impl Group {
    /// The state of a group, given the ranges of blocks in use from there on, in ascending order.
    pub(crate) fn new(
        geometry: &Geometry,
        number: u64,
        used: &[Range<u64>],
        used_inodes: u32,
        directories: u32,
    ) -> Self {
        let blocks = geometry.group_blocks(number);
        let used: Vec<_> = used
            .iter()
            .take_while(|range| range.start < blocks.end)
            .map(|range| range.start.max(blocks.start)..range.end.min(blocks.end))
            .collect();
        let in_use: u64 = used.iter().map(|range| range.end - range.start).sum();
        Self {
            number,
            used,
            free_blocks: blocks.end - blocks.start - in_use,
            used_inodes,
            directories,
        }
    }

    /// Writes the bitmaps that must exist and describes the group.
    pub(crate) fn write<W: Write + Seek>(
        &self,
        image: &mut Image<W>,
        filled: &mut Filled,
    ) -> Result<GroupDesc, Error> {
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
            let relative =
                |range: &Range<u64>| range.start - blocks.start..range.end - blocks.start;
            let used = self
                .used
                .iter()
                .map(relative)
                .chain(std::iter::once(blocks.end - blocks.start..bits as u64));
            let filled = filled.with(used.collect(), bits, image.seed);
            block_bitmap_csum = filled.checksum;
            image.write_block(tables.block_bitmap, &filled.bitmap.0)?;
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
        descriptor.bg_checksum = descriptor_checksum(image.seed, self.number, &descriptor).into();
        Ok(descriptor)
    }
}
