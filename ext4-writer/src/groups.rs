//! Bitmaps, group descriptors and superblocks, which record the blocks and inodes in use.

use std::collections::VecDeque;
use std::io::{Seek, Write};
use std::ops::Range;

use zerocopy::IntoBytes;

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

/// Writes everything that depends on the blocks and inodes in use. Inodes up to `last_ino` are,
/// except those in `removed`, which ascend; `directories` are those of directories.
pub(crate) fn write<W: Write + Seek>(
    mut image: Image<W>,
    options: &Options,
    special: &[Special],
    last_ino: u32,
    removed: &[u32],
    directories: Vec<u32>,
) -> Result<(W, Summary), Error> {
    let geometry = image.geometry.clone();
    let used = image.space.clone().into_used();
    let removed_inodes = removed.len() as u32;
    let mut used_dirs = vec![0_u32; geometry.tables.len()];
    for ino in directories {
        used_dirs[((ino - 1) / geometry.inodes_per_group) as usize] += 1;
    }

    let mut copies = Copies::new(&geometry);
    let mut free_blocks = 0;
    let mut from = 0;
    let mut removed = removed.iter().peekable();
    let mut filled = Filled::default();
    for (group, directories) in (0..geometry.groups()).zip(used_dirs) {
        let start = geometry.group_start(group);
        while used.get(from).is_some_and(|range| range.end <= start) {
            from += 1;
        }
        let used_inodes = u64::from(last_ino)
            .saturating_sub(group * u64::from(geometry.inodes_per_group))
            .min(geometry.inodes_per_group.into()) as u32;
        let first_ino = group * u64::from(geometry.inodes_per_group) + 1;
        let holes = std::iter::from_fn(|| {
            let here = |ino: &&u32| u64::from(**ino) < first_ino + u64::from(used_inodes);
            removed
                .next_if(here)
                .map(|&ino| (u64::from(ino) - first_ino) as u32)
        });
        let inodes = UsedInodes {
            end: used_inodes,
            holes: holes.collect(),
            directories,
        };
        let group = Group::new(&geometry, group, &used[from..], inodes);
        free_blocks += group.free_blocks;
        copies.push(&group.write(&mut image, &mut filled)?);
    }

    let free_inodes = geometry.inodes() - last_ino + removed_inodes;
    let mut superblock = superblock::describe(&geometry, options, special, image.seed);
    superblock.s_free_blocks_count_lo = (free_blocks as u32).into();
    superblock.s_free_blocks_count_hi = ((free_blocks >> 32) as u32).into();
    superblock.s_free_inodes_count = free_inodes.into();
    copies.write(&mut image, superblock)?;
    let summary = Summary {
        uuid: options.effective_uuid(),
        block_size: geometry.block_size,
        blocks: geometry.blocks,
        free_blocks,
        inodes: geometry.inodes(),
        free_inodes,
        journal_blocks: geometry.journal_blocks,
    };
    Ok((image.out.finish(options.size)?, summary))
}

/// The copies of the superblock and of the descriptors, to be written.
#[derive(Debug)]
pub(crate) struct Copies {
    /// The bytes of a copy on disk: the superblock's block and all descriptors, so that one write
    /// is enough for each.
    bytes: Vec<u8>,
    block_size: usize,
}

impl Copies {
    /// An empty copy, to which the descriptors are added.
    pub(crate) fn new(geometry: &Geometry) -> Self {
        let block_size = geometry.block_size as usize;
        let mut bytes = Vec::with_capacity((1 + geometry.gdt_blocks as usize) * block_size);
        bytes.resize(block_size, 0);
        Self { bytes, block_size }
    }

    /// Adds the next group's descriptor.
    pub(crate) fn push(&mut self, descriptor: &GroupDesc) {
        self.bytes.extend_from_slice(descriptor.as_bytes());
    }

    /// Writes them. The primary superblock comes last: until then, there is no filesystem, or the
    /// one that was there before.
    pub(crate) fn write<W: Write + Seek>(
        mut self,
        image: &mut Image<W>,
        mut superblock: SuperBlock,
    ) -> Result<(), Error> {
        let geometry = image.geometry.clone();
        let block_size = self.block_size;
        self.bytes
            .resize((1 + geometry.gdt_blocks as usize) * block_size, 0);
        let leading = geometry.leading_gdt_blocks().min(geometry.gdt_blocks) as usize;
        let (copy, behind) = self.bytes.split_at_mut((1 + leading) * block_size);
        for (number, block) in (geometry.leading_gdt_blocks()..).zip(behind.chunks(block_size)) {
            for address in geometry.descriptor_copies(number) {
                image.write_block(address, block)?;
            }
        }
        let mut numbered = |group: u64| {
            superblock.s_block_group_nr = (group as u16).into();
            superblock.s_checksum = superblock::checksum(&superblock).into();
            superblock.clone()
        };
        for group in super_groups(geometry.groups()).into_iter().skip(1) {
            let superblock = numbered(group);
            copy[..size_of::<SuperBlock>()].copy_from_slice(superblock.as_bytes());
            let described =
                group / geometry.descriptors_per_block() < geometry.leading_gdt_blocks();
            let written = if described {
                &*copy
            } else {
                &copy[..block_size]
            };
            image.write_block(geometry.group_start(group), written)?;
        }
        // The bytes before the superblock in its block do not belong to the filesystem.
        image.write_block(geometry.first_block + 1, &copy[block_size..])?;
        image
            .out
            .write_at(SUPERBLOCK_OFFSET, numbered(0).as_bytes())
    }
}

/// The value of `bg_checksum` for the descriptor of group `number`, in which this field is zero.
pub(crate) fn descriptor_checksum(seed: Checksum, number: u64, descriptor: &GroupDesc) -> u16 {
    // In one piece, with the descriptor aligned to a word: each piece, and each byte before a word,
    // takes as long as a word.
    let mut covered = [0_u64; 1 + size_of::<GroupDesc>() / 8];
    let bytes = &mut covered.as_mut_bytes()[4..];
    bytes[..4].copy_from_slice(&(number as u32).to_le_bytes());
    bytes[4..].copy_from_slice(descriptor.as_bytes());
    seed.add(bytes).halves().0
}

/// A cache of recent bitmaps: flexible groups without files have the same sequence of bitmaps.
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
    /// The number of cached bitmaps: more than the groups that the tables of a flexible group fill.
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

/// The inodes of one group that are in use, by their positions in it.
#[derive(Debug, Default)]
pub(crate) struct UsedInodes {
    /// No inode from here on is in use.
    end: u32,
    /// Inodes before that are not in use.
    holes: Vec<u32>,
    directories: u32,
}

/// One group's state.
#[derive(Debug)]
pub(crate) struct Group<'a> {
    number: u64,
    /// The ranges in use. The first may begin before the group, and the last may end after it.
    used: &'a [Range<u64>],
    free_blocks: u64,
    inodes: UsedInodes,
}

impl<'a> Group<'a> {
    /// The state of a group, given the ranges of blocks in use from there on, in ascending order.
    pub(crate) fn new(
        geometry: &Geometry,
        number: u64,
        used: &'a [Range<u64>],
        inodes: UsedInodes,
    ) -> Self {
        let blocks = geometry.group_blocks(number);
        let here = used.iter().take_while(|range| range.start < blocks.end);
        let used = &used[..here.count()];
        let in_use: u64 = used
            .iter()
            .map(|range| range.end.min(blocks.end) - range.start.max(blocks.start))
            .sum();
        Self {
            number,
            used,
            free_blocks: blocks.end - blocks.start - in_use,
            inodes,
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
        // The kernel derives the bitmap of a group that holds nothing but its superblock copy,
        // except the last group's, which e2fsck wants to see.
        if self.free_blocks == bare && !last {
            flags |= EXT4_BG_BLOCK_UNINIT;
        } else {
            let relative = |range: &Range<u64>| {
                range.start.max(blocks.start) - blocks.start
                    ..range.end.min(blocks.end) - blocks.start
            };
            let used = self
                .used
                .iter()
                .map(relative)
                .chain(std::iter::once(blocks.end - blocks.start..bits as u64));
            let filled = filled.with(used.collect(), bits, image.seed);
            block_bitmap_csum = filled.checksum;
            image.write_block(tables.block_bitmap, &filled.bitmap.0)?;
        }
        if self.inodes.end == 0 {
            flags |= EXT4_BG_INODE_UNINIT;
        } else {
            let mut bitmap = Bitmap::new(bits);
            bitmap.set(0..self.inodes.end.into());
            for &hole in &self.inodes.holes {
                bitmap.clear(hole.into()..u64::from(hole) + 1);
            }
            bitmap.set(inodes.into()..bits as u64);
            let covered = &bitmap.0[..(inodes / 8) as usize];
            inode_bitmap_csum = image.seed.add(covered).halves();
            image.write_block(tables.inode_bitmap, &bitmap.0)?;
        }

        let unused = inodes - self.inodes.end;
        let free_inodes = unused + self.inodes.holes.len() as u32;
        let mut descriptor = GroupDesc {
            bg_block_bitmap_lo: (tables.block_bitmap as u32).into(),
            bg_inode_bitmap_lo: (tables.inode_bitmap as u32).into(),
            bg_inode_table_lo: (tables.inode_table as u32).into(),
            bg_free_blocks_count_lo: (self.free_blocks as u16).into(),
            bg_free_inodes_count_lo: (free_inodes as u16).into(),
            bg_used_dirs_count_lo: (self.inodes.directories as u16).into(),
            bg_flags: flags.into(),
            bg_exclude_bitmap_lo: 0.into(),
            bg_block_bitmap_csum_lo: block_bitmap_csum.0.into(),
            bg_inode_bitmap_csum_lo: inode_bitmap_csum.0.into(),
            bg_itable_unused_lo: (unused as u16).into(),
            bg_checksum: 0.into(),
            bg_block_bitmap_hi: ((tables.block_bitmap >> 32) as u32).into(),
            bg_inode_bitmap_hi: ((tables.inode_bitmap >> 32) as u32).into(),
            bg_inode_table_hi: ((tables.inode_table >> 32) as u32).into(),
            bg_free_blocks_count_hi: ((self.free_blocks >> 16) as u16).into(),
            bg_free_inodes_count_hi: ((free_inodes >> 16) as u16).into(),
            bg_used_dirs_count_hi: ((self.inodes.directories >> 16) as u16).into(),
            bg_itable_unused_hi: ((unused >> 16) as u16).into(),
            bg_exclude_bitmap_hi: 0.into(),
            bg_block_bitmap_csum_hi: block_bitmap_csum.1.into(),
            bg_inode_bitmap_csum_hi: inode_bitmap_csum.1.into(),
            bg_reserved: 0.into(),
        };
        descriptor.bg_checksum = descriptor_checksum(image.seed, self.number, &descriptor).into();
        Ok(descriptor)
    }
}
