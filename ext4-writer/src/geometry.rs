//! The layout of an empty filesystem: groups, superblock copies, descriptors, bitmaps, inode
//! tables.

use std::ops::Range;

use crate::format::{GroupDesc, INODE_SIZE, JBD2_MIN_JOURNAL_BLOCKS};
use crate::{Error, Journal, Options};

/// The number of groups whose bitmaps and inode tables lie together, as mke2fs has it
/// (`s_log_groups_per_flex`).
const LOG_GROUPS_PER_FLEX: u8 = 4;
/// The same in filesystems of `MANY_GROUPS` and more. Every group with tables needs a block bitmap.
/// The tables of 1,024 groups fill 16 groups and a part of one more, those of 64 groups one and a
/// part of one more. And the bitmaps lie in at most an eighth as many places, each of which costs
/// the host's filesystem more than the bitmap itself.
const LOG_MANY_GROUPS_PER_FLEX: u8 = 10;
const MANY_GROUPS: u64 = 512;

/// The places of one group's own structures, in blocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tables {
    pub(crate) block_bitmap: u64,
    pub(crate) inode_bitmap: u64,
    pub(crate) inode_table: u64,
}

impl Tables {
    /// The places for group `at` of `count` groups whose tables lie in a row from block `start` on.
    fn in_row(start: u64, count: u64, at: u64, table_blocks: u64) -> Self {
        Self {
            block_bitmap: start + at,
            inode_bitmap: start + count + at,
            inode_table: start + 2 * count + at * table_blocks,
        }
    }
}

/// The layout of an empty filesystem. All block numbers count from the start of the image.
#[derive(Clone, Debug)]
pub(crate) struct Geometry {
    /// Bytes per block.
    pub(crate) block_size: u32,
    /// All blocks, including those before the first group (`s_blocks_count`).
    pub(crate) blocks: u64,
    /// The first group's first block (`s_first_data_block`).
    pub(crate) first_block: u64,
    pub(crate) blocks_per_group: u64,
    pub(crate) inodes_per_group: u32,
    /// Blocks that all group descriptors take.
    pub(crate) gdt_blocks: u64,
    /// The first of these blocks that lies in the groups it describes (`s_first_meta_bg`); `None`
    /// without `meta_bg`.
    pub(crate) first_meta_bg: Option<u64>,
    /// Blocks reserved after each copy for more descriptors; 0 without `resize_inode`.
    pub(crate) reserved_gdt_blocks: u16,
    /// Blocks of the journal; 0 without.
    pub(crate) journal_blocks: u64,
    /// The binary logarithm of the number of groups whose tables lie together
    /// (`s_log_groups_per_flex`).
    pub(crate) log_groups_per_flex: u8,
    pub(crate) tables: Vec<Tables>,
}

impl Geometry {
    /// Plans a filesystem.
    pub(crate) fn plan(options: &Options) -> Result<Self, Error> {
        options.check()?;
        let block_size = options.block_size.bytes();
        let size = options.size;
        let too_small = Error::TooSmall { size };
        let too_large = Error::TooLarge { size, block_size };

        let blocks_per_group = u64::from(block_size) * 8;
        let first_block = u64::from(block_size == 1024);
        let mut plan = Self {
            block_size,
            blocks: size / u64::from(block_size),
            first_block,
            blocks_per_group,
            inodes_per_group: 0,
            gdt_blocks: 0,
            first_meta_bg: (options.meta_bg || size / u64::from(block_size) > u32::MAX.into())
                .then_some(0),
            reserved_gdt_blocks: 0,
            journal_blocks: 0,
            log_groups_per_flex: LOG_GROUPS_PER_FLEX,
            tables: Vec::new(),
        };
        if plan.blocks <= first_block {
            return Err(too_small);
        }
        // Dropping a last group that is too small leaves one that is not, so this runs twice at
        // most.
        loop {
            let groups = plan.groups();
            plan.gdt_blocks = plan.descriptor_blocks();
            let descriptors = match plan.first_meta_bg {
                Some(_) => 0,
                None => plan.gdt_blocks,
            };
            if descriptors > blocks_per_group * 3 / 4 {
                return Err(too_large);
            }
            plan.reserved_gdt_blocks = plan.reserve_gdt(options)?;
            plan.inodes_per_group = plan.inodes_per_group(options)?;

            if groups == 1 {
                let overhead = plan.base_blocks(0) + 2 + plan.inode_table_blocks();
                if plan.blocks - first_block < overhead + 3 {
                    return Err(too_small);
                }
                break;
            }
            if !plan.drop_short_group() {
                break;
            }
        }
        if plan.groups() >= MANY_GROUPS {
            plan.log_groups_per_flex = LOG_MANY_GROUPS_PER_FLEX;
        }
        plan.journal_blocks = plan.journal(options.journal)?;
        plan.place_tables(0)?;
        Ok(plan)
    }

    /// The number of groups.
    pub(crate) fn groups(&self) -> u64 {
        (self.blocks - self.first_block).div_ceil(self.blocks_per_group)
    }

    pub(crate) fn group_start(&self, group: u64) -> u64 {
        self.first_block + group * self.blocks_per_group
    }

    /// The blocks of a group; the last one's may be fewer than the others'.
    pub(crate) fn group_blocks(&self, group: u64) -> Range<u64> {
        let start = self.group_start(group);
        start..(start + self.blocks_per_group).min(self.blocks)
    }

    pub(crate) fn group_of(&self, block: u64) -> u64 {
        (block - self.first_block) / self.blocks_per_group
    }

    /// The number of blocks at a group's start for a superblock, descriptors and room for more
    /// (`ext4_num_base_meta_clusters`).
    pub(crate) fn base_blocks(&self, group: u64) -> u64 {
        let superblock = u64::from(has_super(group));
        let per_block = self.descriptors_per_block();
        if let Some(first) = self.first_meta_bg
            && group / per_block >= first
        {
            let in_meta_group = group % per_block;
            let copy = in_meta_group < 2 || in_meta_group == per_block - 1;
            return superblock + u64::from(copy);
        }
        superblock * (1 + self.leading_gdt_blocks() + u64::from(self.reserved_gdt_blocks))
    }

    /// What [`base_blocks`](Self::base_blocks) counts, in the groups that have any, in ascending
    /// order. These are few, so no loop over all groups is needed.
    fn bases(&self) -> impl Iterator<Item = Range<u64>> {
        let mut groups = super_groups(self.groups());
        if let Some(first) = self.first_meta_bg {
            let per_block = self.descriptors_per_block();
            let copies =
                |number| meta_group(number, per_block).filter(|&group| group < self.groups());
            groups.extend((first..self.gdt_blocks).flat_map(copies));
            groups.sort_unstable();
            groups.dedup();
        }
        groups.into_iter().map(|group| {
            let start = self.group_start(group);
            start..start + self.base_blocks(group)
        })
    }

    /// The blocks of descriptors that lie after every copy of the superblock.
    pub(crate) fn leading_gdt_blocks(&self) -> u64 {
        self.first_meta_bg.unwrap_or(self.gdt_blocks)
    }

    /// Where block `number` of the descriptors lies, which is in the groups it describes: the first
    /// copy first (`descriptor_loc`).
    pub(crate) fn descriptor_copies(&self, number: u64) -> impl Iterator<Item = u64> {
        meta_group(number, self.descriptors_per_block())
            .filter(|&group| group < self.groups())
            .map(|group| self.group_start(group) + u64::from(has_super(group)))
    }

    /// The byte at which the first copy of a group's descriptor lies.
    pub(crate) fn descriptor_offset(&self, group: u64) -> u64 {
        let per_block = self.descriptors_per_block();
        let (number, slot) = (group / per_block, group % per_block);
        let block = if number < self.leading_gdt_blocks() {
            self.first_block + 1 + number
        } else {
            let first = number * per_block;
            self.group_start(first) + u64::from(has_super(first))
        };
        block * u64::from(self.block_size) + slot * size_of::<GroupDesc>() as u64
    }

    pub(crate) fn descriptors_per_block(&self) -> u64 {
        u64::from(self.block_size) / size_of::<GroupDesc>() as u64
    }

    pub(crate) fn inode_table_blocks(&self) -> u64 {
        (u64::from(self.inodes_per_group) * INODE_SIZE as u64).div_ceil(self.block_size.into())
    }

    pub(crate) fn inodes(&self) -> u32 {
        // `inodes_per_group()` keeps the product in 32 bits.
        (self.groups() * u64::from(self.inodes_per_group)) as u32
    }

    /// The byte at which an inode's slot begins; inodes count from 1.
    pub(crate) fn inode_offset(&self, ino: u32) -> u64 {
        let index = ino - 1;
        let group = (index / self.inodes_per_group) as usize;
        let slot = u64::from(index % self.inodes_per_group);
        self.tables[group].inode_table * u64::from(self.block_size) + slot * INODE_SIZE as u64
    }

    /// The number of blocks that never hold files, as the kernel counts them
    /// (`ext4_calculate_overhead`). If the superblock has another value (`s_overhead_clusters`),
    /// the kernel writes a transaction when it mounts.
    pub(crate) fn overhead(&self) -> u64 {
        let base: u64 = self.bases().map(|base| base.end - base.start).sum();
        let tables = self.groups() * (2 + self.inode_table_blocks());
        self.first_block + base + tables + self.journal_blocks
    }

    /// Every block that is in use in the empty filesystem, as ranges in ascending order.
    pub(crate) fn reserved(&self) -> Vec<Range<u64>> {
        let mut ranges: Vec<_> = self.bases().collect();
        // The tables of a flexible group mostly lie in a row.
        let mut push = |range: Range<u64>| match ranges.last_mut() {
            Some(last) if last.end == range.start => last.end = range.end,
            _ => ranges.push(range),
        };
        let table_blocks = self.inode_table_blocks();
        for flex in self.tables.chunks(1 << self.log_groups_per_flex) {
            let (start, count) = (flex[0].block_bitmap, flex.len() as u64);
            let mut row = (0..count).map(|at| Tables::in_row(start, count, at, table_blocks));
            if flex.iter().all(|tables| row.next() == Some(*tables)) {
                push(start..start + count * (2 + table_blocks));
                continue;
            }
            for tables in flex {
                push(tables.block_bitmap..tables.block_bitmap + 1);
            }
            for tables in flex {
                push(tables.inode_bitmap..tables.inode_bitmap + 1);
            }
            for tables in flex {
                push(tables.inode_table..tables.inode_table + table_blocks);
            }
        }
        ranges.sort_unstable_by_key(|range| range.start);
        ranges.dedup_by(|next, previous| {
            let adjacent = previous.end == next.start;
            if adjacent {
                previous.end = next.end;
            }
            adjacent
        });
        ranges
    }

    fn reserve_gdt(&self, options: &Options) -> Result<u16, Error> {
        // The resize inode's pointers have 32 bits, and nothing needs to be reserved for groups
        // that hold their own.
        if self.first_meta_bg.is_some() {
            return match options.reserved_gdt_blocks {
                None | Some(0) => Ok(0),
                Some(blocks) => Err(Error::Option {
                    option: "reserved_gdt_blocks",
                    value: blocks.into(),
                }),
            };
        }
        let pointers = u64::from(self.block_size / 4);
        if let Some(blocks) = options.reserved_gdt_blocks {
            if u64::from(blocks) > pointers {
                return Err(Error::Option {
                    option: "reserved_gdt_blocks",
                    value: blocks.into(),
                });
            }
            return Ok(blocks);
        }
        let largest = (self.blocks * 1024).min(u32::MAX.into());
        let groups = largest.div_ceil(self.blocks_per_group);
        let gdt_blocks = groups * size_of::<GroupDesc>() as u64 / u64::from(self.block_size);
        // A small filesystem has no room for reserved blocks.
        let affordable = (self.blocks / 256).min(32);
        Ok(gdt_blocks.saturating_sub(self.gdt_blocks).min(affordable) as u16)
    }

    fn inodes_per_group(&self, options: &Options) -> Result<u32, Error> {
        let groups = self.groups();
        let per_block = u64::from(self.block_size) / INODE_SIZE as u64;
        let bytes = self.blocks * u64::from(self.block_size);
        let wanted = match options.inode_count {
            Some(count) => count.into(),
            None => bytes / options.inode_ratio.max(1),
        };
        // 16: the reserved inodes, lost+found, and some.
        let wanted = wanted.max(16).div_ceil(groups);
        // A bitmap of one block, and counts of 16 bits in descriptors that lack the high halves.
        let limit = (u64::from(self.block_size) * 8)
            .min(65536 - per_block)
            .min(u64::from(u32::MAX) / groups);
        let step = per_block.max(8);
        let inodes = wanted.next_multiple_of(step).min(limit / step * step);
        if inodes == 0 {
            return Err(Error::TooLarge {
                size: bytes,
                block_size: self.block_size,
            });
        }
        match options.inode_count {
            Some(count) if inodes * groups < count.into() => Err(Error::Option {
                option: "inode_count",
                value: count.into(),
            }),
            _ => Ok(inodes as u32),
        }
    }

    fn journal(&self, journal: Journal) -> Result<u64, Error> {
        const K: u64 = 1024;
        match journal {
            Journal::None => Ok(0),
            // `ext2fs_default_journal_size`: blocks of the filesystem, blocks of the journal.
            Journal::Auto => {
                let steps = [
                    (2048, 0),
                    (32 * K, K),
                    (256 * K, 4 * K),
                    (512 * K, 8 * K),
                    (4096 * K, 16 * K),
                    (8192 * K, 32 * K),
                    (16384 * K, 64 * K),
                    (32768 * K, 128 * K),
                ];
                let step = steps.into_iter().find(|(below, _)| self.blocks < *below);
                Ok(step.map_or(256 * K, |(_, journal)| journal))
            }
            Journal::Size(bytes) => {
                let blocks = bytes / u64::from(self.block_size);
                // The upper limit is mke2fs's and e2fsck's.
                if !(JBD2_MIN_JOURNAL_BLOCKS..=10_240_000).contains(&blocks) {
                    return Err(Error::Option {
                        option: "journal",
                        value: bytes,
                    });
                }
                Ok(blocks)
            }
        }
    }

    /// The blocks that the descriptors of all groups take.
    pub(crate) fn descriptor_blocks(&self) -> u64 {
        self.groups().div_ceil(self.descriptors_per_block())
    }

    /// Drops the last of several groups if mke2fs would find it too short, and returns whether it
    /// did.
    pub(crate) fn drop_short_group(&mut self) -> bool {
        let last = self.groups() - 1;
        let rest = self.blocks - self.group_start(last);
        let overhead = self.base_blocks(last) + 2 + self.inode_table_blocks();
        let short = last > 0 && rest < overhead + 50;
        if short {
            self.blocks -= rest;
        }
        short
    }

    /// Places the tables of the groups from `from` on, those of a flexible group together.
    pub(crate) fn place_tables(&mut self, from: u64) -> Result<(), Error> {
        let groups = self.groups();
        let table_blocks = self.inode_table_blocks();
        self.tables.resize(groups as usize, Tables::default());
        let mut start = from;
        let flex = 1_u64 << self.log_groups_per_flex;
        while start < groups {
            let end = groups.min((start / flex + 1) * flex);
            let mut next = self.group_start(start);
            if self.place_in_a_row(start..end, next) {
                start = end;
                continue;
            }
            for group in start..end {
                self.tables[group as usize].block_bitmap = self.place(&mut next, 1)?;
            }
            for group in start..end {
                self.tables[group as usize].inode_bitmap = self.place(&mut next, 1)?;
            }
            for group in start..end {
                self.tables[group as usize].inode_table = self.place(&mut next, table_blocks)?;
            }
            start = end;
        }
        Ok(())
    }

    /// Places the tables of groups at or after `next` in a row, the usual case, if no superblock
    /// copy is in the way.
    fn place_in_a_row(&mut self, groups: Range<u64>, mut next: u64) -> bool {
        let table_blocks = self.inode_table_blocks();
        let count = groups.end - groups.start;
        let first = self.place(&mut next.clone(), 1);
        let row = self.place(&mut next, count * (2 + table_blocks));
        let (Ok(first), Ok(row)) = (first, row) else {
            return false;
        };
        if first != row {
            return false;
        }
        let tables = &mut self.tables[groups.start as usize..groups.end as usize];
        for (tables, at) in tables.iter_mut().zip(0..) {
            *tables = Tables::in_row(row, count, at, table_blocks);
        }
        true
    }

    /// The first run of `count` blocks at or after `next` that avoids superblock copies and the
    /// blocks after them.
    fn place(&self, next: &mut u64, count: u64) -> Result<u64, Error> {
        let too_small = Error::TooSmall {
            size: self.blocks * u64::from(self.block_size),
        };
        let mut start = *next;
        'search: loop {
            let end = start + count;
            if end > self.blocks {
                return Err(too_small);
            }
            for group in self.group_of(start)..=self.group_of(end - 1) {
                let base =
                    self.group_start(group)..self.group_start(group) + self.base_blocks(group);
                if !base.is_empty() && start < base.end && base.start < end {
                    start = base.end;
                    continue 'search;
                }
            }
            *next = end;
            return Ok(start);
        }
    }
}

/// The groups that hold a copy of block `number` of the descriptors, which has so many, if there
/// are so many groups.
fn meta_group(number: u64, per_block: u64) -> impl Iterator<Item = u64> {
    let first = number * per_block;
    [first, first + 1, first + per_block - 1].into_iter()
}

/// Whether a group holds a copy of the superblock and the descriptors (`ext4_bg_has_super`,
/// `sparse_super`).
pub(crate) fn has_super(group: u64) -> bool {
    // Powers of odd numbers are odd.
    let power = || is_power_of::<3>(group) || is_power_of::<5>(group) || is_power_of::<7>(group);
    group <= 1 || group % 2 == 1 && power()
}

/// The base is a constant, because division by a variable is slow and large filesystems have many
/// groups.
fn is_power_of<const BASE: u64>(mut number: u64) -> bool {
    while number.is_multiple_of(BASE) {
        number /= BASE;
    }
    number == 1
}

/// The groups below `groups` that hold such a copy, in ascending order.
pub(crate) fn super_groups(groups: u64) -> Vec<u64> {
    let powers = |base: u64| {
        std::iter::successors(Some(base), move |power| power.checked_mul(base))
            .take_while(move |power| *power < groups)
    };
    let mut all: Vec<u64> = (0..groups.min(2))
        .chain([3, 5, 7].into_iter().flat_map(powers))
        .collect();
    all.sort_unstable();
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::BlockSize;

    #[test]
    fn superblock_copies_are_in_groups_0_1_and_powers_of_3_5_7() {
        let groups: Vec<_> = (0..130).filter(|&group| has_super(group)).collect();
        assert_eq!(groups, [0, 1, 3, 5, 7, 9, 25, 27, 49, 81, 125]);
        assert_eq!(super_groups(130), groups);
        assert_eq!(super_groups(125), groups[..10]);
        assert_eq!(super_groups(1), [0]);
    }

    #[test]
    fn the_tables_of_a_flexible_group_lie_in_a_row_though_they_fill_more_than_a_group() {
        for (size, log, inode_ratio) in [
            (60 << 30, 4, 4096),
            (1_u64 << 40, 10, 16384),
            (1 << 40, 10, 4096),
        ] {
            let options = Options::new(size).inode_ratio(inode_ratio);
            let plan = Geometry::plan(&options).unwrap();
            assert_eq!(plan.log_groups_per_flex, log);
            let count = 1 << log;
            // No copy of the superblock lies among these.
            let first = if log == 4 { 32 } else { 1024 };
            let tables = &plan.tables[first..first + count];
            let start = plan.group_start(first as u64);
            for (tables, at) in tables.iter().zip(0..) {
                let row = [
                    start + at,
                    start + count as u64 + at,
                    start + 2 * count as u64 + at * plan.inode_table_blocks(),
                ];
                let found = [tables.block_bitmap, tables.inode_bitmap, tables.inode_table];
                assert_eq!(found, row);
            }
            assert!(count as u64 * (2 + plan.inode_table_blocks()) > plan.blocks_per_group);
        }
    }

    #[test]
    fn nothing_overlaps_at_any_size() {
        for block_size in [BlockSize::B1024, BlockSize::B2048, BlockSize::B4096] {
            for inode_ratio in [1024, 16384, 1 << 20] {
                for (i, size) in (18..36)
                    .flat_map(|log| [1_u64 << log, (1 << log) + 987_654])
                    .enumerate()
                {
                    let options = Options::new(size)
                        .block_size(block_size)
                        .inode_ratio(inode_ratio)
                        .meta_bg(i % 3 == 0);
                    let plan = match Geometry::plan(&options) {
                        Ok(plan) => plan,
                        Err(Error::TooSmall { .. }) if size < 4 << 20 => continue,
                        Err(e) => panic!("{options:?}: {e}"),
                    };
                    let reserved = plan.reserved();
                    let used: u64 = reserved.iter().map(|range| range.end - range.start).sum();
                    let base: u64 = (0..plan.groups())
                        .map(|group| plan.base_blocks(group))
                        .sum();
                    let tables = plan.groups() * (2 + plan.inode_table_blocks());
                    assert_eq!(used, base + tables, "{options:?}");
                    let overhead = plan.first_block + used + plan.journal_blocks;
                    assert_eq!(plan.overhead(), overhead, "{options:?}");
                    assert!(reserved.is_sorted_by(|a, b| a.end < b.start), "{options:?}");
                    assert!(reserved.last().is_some_and(|last| last.end <= plan.blocks));
                }
            }
        }
    }
}
