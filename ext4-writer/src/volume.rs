//! An existing filesystem: its superblock, descriptors and bitmaps, checked, and the changes to
//! them.

use std::collections::BTreeMap;
use std::io::{Read, Seek, SeekFrom, Write};
use std::ops::Range;

use crate::bitmap::Bitmap;
use crate::checksum::Checksum;
use crate::format::{
    EXT4_BG_BLOCK_UNINIT, EXT4_BG_INODE_UNINIT, EXT4_RESIZE_INO, GroupDesc, INODE_SIZE,
    SUPERBLOCK_OFFSET, SuperBlock, compat, incompat, ro_compat,
};
use crate::geometry::{Geometry, Tables};
use crate::groups;
use crate::info::{read_all, read_at, write_at};
use crate::{Error, Features, Info};

/// The features that a filesystem must have to be changed here. All filesystems of
/// [`Builder`](crate::Builder) have them.
const NEEDED: Features = Features {
    compat: 0,
    incompat: incompat::BIT64 | incompat::FLEX_BG,
    ro_compat: ro_compat::SPARSE_SUPER | ro_compat::METADATA_CSUM,
};

/// The features that it may have.
const KNOWN: Features = Features {
    compat: compat::HAS_JOURNAL
        | compat::EXT_ATTR
        | compat::RESIZE_INODE
        | compat::DIR_INDEX
        | compat::ORPHAN_FILE,
    incompat: NEEDED.incompat
        | incompat::FILETYPE
        | incompat::RECOVER
        | incompat::META_BG
        | incompat::EXTENTS
        | incompat::EA_INODE
        | incompat::CSUM_SEED
        | incompat::LARGEDIR
        | incompat::INLINE_DATA,
    ro_compat: NEEDED.ro_compat
        | ro_compat::LARGE_FILE
        | ro_compat::HUGE_FILE
        | ro_compat::DIR_NLINK
        | ro_compat::EXTRA_ISIZE
        | ro_compat::QUOTA
        | ro_compat::PROJECT
        | ro_compat::VERITY
        | ro_compat::READONLY
        | ro_compat::ORPHAN_PRESENT,
};

/// A filesystem's superblock and descriptors, checked.
#[derive(Debug)]
pub(crate) struct Volume {
    pub(crate) superblock: SuperBlock,
    pub(crate) descriptors: Vec<GroupDesc>,
    pub(crate) geometry: Geometry,
    pub(crate) seed: Checksum,
    /// Block bitmaps that are changed, by group.
    block_bitmaps: BTreeMap<u64, Bitmap>,
    /// Inode bitmaps that are changed, by group.
    inode_bitmaps: BTreeMap<u64, Bitmap>,
}

pub(crate) fn corrupt(structure: &'static str, offset: u64) -> Error {
    Error::Corrupt { structure, offset }
}

fn wide(low: impl Into<u64>, high: impl Into<u64>, shift: u32) -> u64 {
    low.into() | high.into() << shift
}

impl Volume {
    pub(crate) fn read(
        image: &mut (impl Read + Seek),
        superblock: SuperBlock,
    ) -> Result<Self, Error> {
        check_features(&superblock)?;
        let geometry = geometry(image, &superblock)?;
        let mut volume = Self {
            seed: checksum_seed(&superblock),
            superblock,
            descriptors: Vec::new(),
            geometry,
            block_bitmaps: BTreeMap::new(),
            inode_bitmaps: BTreeMap::new(),
        };
        let geometry = &volume.geometry;
        let groups = geometry.groups();
        let leading = geometry.leading_gdt_blocks() * geometry.descriptors_per_block();
        let offset = geometry.descriptor_offset(0);
        volume.descriptors = read_all(image, offset, groups.min(leading) as usize)?;
        let per_block = geometry.descriptors_per_block();
        while (volume.descriptors.len() as u64) < groups {
            let first = volume.descriptors.len() as u64;
            let count = (groups - first).min(per_block);
            let offset = volume.geometry.descriptor_offset(first);
            let mut block: Vec<GroupDesc> = read_all(image, offset, count as usize)?;
            volume.descriptors.append(&mut block);
        }
        for (number, descriptor) in (0..).zip(&volume.descriptors) {
            let geometry = &mut volume.geometry;
            let at = geometry.descriptor_offset(number);
            let mut unsigned = descriptor.clone();
            unsigned.bg_checksum = 0.into();
            let checksum = groups::descriptor_checksum(volume.seed, number, &unsigned);
            if descriptor.bg_checksum.get() != checksum {
                return Err(corrupt("ext4_group_desc", at));
            }
            let tables = tables(descriptor);
            for (start, count) in [
                (tables.block_bitmap, 1),
                (tables.inode_bitmap, 1),
                (tables.inode_table, geometry.inode_table_blocks()),
            ] {
                let end = start.checked_add(count);
                if start <= geometry.first_block || end.is_none_or(|end| end > geometry.blocks) {
                    return Err(corrupt("ext4_group_desc", at));
                }
            }
            geometry.tables.push(tables);
        }
        Ok(volume)
    }

    /// The byte at which a block begins.
    pub(crate) fn offset(&self, block: u64) -> u64 {
        block * u64::from(self.geometry.block_size)
    }

    /// The block bitmap of a group, for it to be changed.
    pub(crate) fn block_bitmap(
        &mut self,
        image: &mut (impl Read + Seek),
        group: u64,
    ) -> Result<&mut Bitmap, Error> {
        let descriptor = &self.descriptors[group as usize];
        let offset = self.offset(tables(descriptor).block_bitmap);
        if descriptor.bg_flags.get() & EXT4_BG_BLOCK_UNINIT != 0 {
            return Err(corrupt("bg_flags", offset));
        }
        let stored = (
            descriptor.bg_block_bitmap_csum_lo.get(),
            descriptor.bg_block_bitmap_csum_hi.get(),
        );
        let len = self.geometry.block_size as usize;
        load(&mut self.block_bitmaps, group, || {
            let bitmap = read_bitmap(image, offset, len)?;
            match self.seed.add(&bitmap.0).halves() == stored {
                true => Ok(bitmap),
                false => Err(corrupt("block bitmap", offset)),
            }
        })
    }

    /// Makes the blocks of `blocks` that are in use free.
    pub(crate) fn free_blocks(
        &mut self,
        image: &mut (impl Read + Seek),
        blocks: Range<u64>,
    ) -> Result<(), Error> {
        let mut at = blocks.start;
        while at < blocks.end {
            let group = self.geometry.group_of(at);
            let all = self.geometry.group_blocks(group);
            let end = all.end.min(blocks.end);
            let bits = at - all.start..end - all.start;
            let bitmap = self.block_bitmap(image, group)?;
            let freed = bitmap.count(bits.clone());
            bitmap.clear(bits);
            self.add_free_blocks(group, freed);
            at = end;
        }
        Ok(())
    }

    pub(crate) fn add_free_blocks(&mut self, group: u64, more: u64) {
        let descriptor = &mut self.descriptors[group as usize];
        let free = free_blocks(descriptor) + more;
        descriptor.bg_free_blocks_count_lo = (free as u16).into();
        descriptor.bg_free_blocks_count_hi = ((free >> 16) as u16).into();
    }

    /// Makes an inode free, if it is in use.
    pub(crate) fn free_inode(
        &mut self,
        image: &mut (impl Read + Seek),
        ino: u32,
        is_directory: bool,
    ) -> Result<(), Error> {
        let per_group = self.geometry.inodes_per_group;
        let group = u64::from((ino - 1) / per_group);
        let bit = u64::from((ino - 1) % per_group);
        let descriptor = &self.descriptors[group as usize];
        let offset = self.offset(tables(descriptor).inode_bitmap);
        if descriptor.bg_flags.get() & EXT4_BG_INODE_UNINIT != 0 {
            return Err(corrupt("bg_flags", offset));
        }
        let stored = (
            descriptor.bg_inode_bitmap_csum_lo.get(),
            descriptor.bg_inode_bitmap_csum_hi.get(),
        );
        let (len, covered) = (self.geometry.block_size as usize, per_group as usize / 8);
        let bitmap = load(&mut self.inode_bitmaps, group, || {
            let bitmap = read_bitmap(image, offset, len)?;
            match self.seed.add(&bitmap.0[..covered]).halves() == stored {
                true => Ok(bitmap),
                false => Err(corrupt("inode bitmap", offset)),
            }
        })?;
        if bitmap.count(bit..bit + 1) == 0 {
            return Ok(());
        }
        bitmap.clear(bit..bit + 1);
        let descriptor = &mut self.descriptors[group as usize];
        let free = free_inodes(descriptor) + 1;
        descriptor.bg_free_inodes_count_lo = (free as u16).into();
        descriptor.bg_free_inodes_count_hi = ((free >> 16) as u16).into();
        if is_directory {
            let directories = wide(
                descriptor.bg_used_dirs_count_lo.get(),
                descriptor.bg_used_dirs_count_hi.get(),
                16,
            )
            .saturating_sub(1);
            descriptor.bg_used_dirs_count_lo = (directories as u16).into();
            descriptor.bg_used_dirs_count_hi = ((directories >> 16) as u16).into();
        }
        Ok(())
    }

    /// Writes the changed bitmaps, updates the checksums of their groups' descriptors, and returns
    /// the numbers of these groups.
    pub(crate) fn write_bitmaps(
        &mut self,
        image: &mut (impl Write + Seek),
    ) -> Result<Vec<u64>, Error> {
        let covered = self.geometry.inodes_per_group as usize / 8;
        for (group, bitmap) in &self.block_bitmaps {
            let (low, high) = self.seed.add(&bitmap.0).halves();
            let descriptor = &mut self.descriptors[*group as usize];
            descriptor.bg_block_bitmap_csum_lo = low.into();
            descriptor.bg_block_bitmap_csum_hi = high.into();
            let block = tables(descriptor).block_bitmap;
            write_at(image, self.offset(block), &bitmap.0)?;
        }
        for (group, bitmap) in &self.inode_bitmaps {
            let (low, high) = self.seed.add(&bitmap.0[..covered]).halves();
            let descriptor = &mut self.descriptors[*group as usize];
            descriptor.bg_inode_bitmap_csum_lo = low.into();
            descriptor.bg_inode_bitmap_csum_hi = high.into();
            let block = tables(descriptor).inode_bitmap;
            write_at(image, self.offset(block), &bitmap.0)?;
        }
        let changed: std::collections::BTreeSet<u64> = self
            .block_bitmaps
            .keys()
            .chain(self.inode_bitmaps.keys())
            .copied()
            .collect();
        for &group in &changed {
            let descriptor = &mut self.descriptors[group as usize];
            descriptor.bg_checksum = 0.into();
            descriptor.bg_checksum =
                groups::descriptor_checksum(self.seed, group, descriptor).into();
        }
        Ok(changed.into_iter().collect())
    }
}

fn load(
    bitmaps: &mut BTreeMap<u64, Bitmap>,
    group: u64,
    read: impl FnOnce() -> Result<Bitmap, Error>,
) -> Result<&mut Bitmap, Error> {
    use std::collections::btree_map::Entry;
    match bitmaps.entry(group) {
        Entry::Occupied(entry) => Ok(entry.into_mut()),
        Entry::Vacant(entry) => Ok(entry.insert(read()?)),
    }
}

fn read_bitmap(image: &mut (impl Read + Seek), offset: u64, len: usize) -> Result<Bitmap, Error> {
    let mut bitmap = Bitmap::new(len * 8);
    read_at(image, offset, &mut bitmap.0)?;
    Ok(bitmap)
}

/// Where the checksums of everything but the superblock start.
pub(crate) fn checksum_seed(superblock: &SuperBlock) -> Checksum {
    match superblock.s_feature_incompat.get() & incompat::CSUM_SEED {
        0 => Checksum::START.add(&superblock.s_uuid),
        _ => Checksum::from_seed(superblock.s_checksum_seed.get()),
    }
}

pub(crate) fn check_features(superblock: &SuperBlock) -> Result<(), Error> {
    let features = Features::of(superblock);
    let unknown = features.without(KNOWN).names();
    let missing = NEEDED.without(features).names();
    let wrong: Vec<_> = unknown
        .chain(missing.map(|name| format!("^{name}")))
        .collect();
    match wrong.is_empty() {
        true => Ok(()),
        false => Err(Error::Features {
            features: wrong.join(" "),
        }),
    }
}

/// The geometry without the groups' tables.
pub(crate) fn geometry(
    image: &mut (impl Read + Seek),
    superblock: &SuperBlock,
) -> Result<Geometry, Error> {
    let info = Info::of(superblock)?;
    let block_size = info.block_size;
    let first_block = u64::from(block_size == 1024);
    let blocks_per_group = u64::from(block_size) * 8;
    let inodes_per_group = info.inodes_per_group;
    let resize_inode = info.features.compat & compat::RESIZE_INODE != 0;
    let reserved = match resize_inode {
        false => 0,
        true => info.reserved_gdt_blocks,
    };
    let meta_bg = info.features.incompat & incompat::META_BG != 0;
    let mut geometry = Geometry {
        block_size,
        blocks: info.blocks,
        first_block,
        blocks_per_group,
        inodes_per_group,
        gdt_blocks: 0,
        first_meta_bg: meta_bg.then(|| superblock.s_first_meta_bg.get().into()),
        reserved_gdt_blocks: reserved,
        journal_blocks: 0,
        // The kernel treats any other value as none.
        log_groups_per_flex: match superblock.s_log_groups_per_flex {
            log @ 1..=31 => log,
            _ => 0,
        },
        tables: Vec::new(),
    };
    let possible = block_size <= 4096
        && u64::from(info.blocks_per_group) == blocks_per_group
        && superblock.s_clusters_per_group == superblock.s_blocks_per_group
        && u64::from(superblock.s_first_data_block.get()) == first_block
        && usize::from(info.inode_size) == INODE_SIZE
        && usize::from(superblock.s_desc_size.get()) == size_of::<GroupDesc>()
        && inodes_per_group >= EXT4_RESIZE_INO
        && inodes_per_group.is_multiple_of(8)
        && u64::from(inodes_per_group) <= blocks_per_group
        && info.groups.checked_mul(inodes_per_group.into()) == Some(info.inodes.into())
        && (reserved == 0 || info.blocks <= u32::MAX.into())
        && u32::from(reserved) <= block_size / 4
        && !(meta_bg && resize_inode);
    let wrong = || corrupt("ext4_super_block", SUPERBLOCK_OFFSET);
    if !possible {
        return Err(wrong());
    }
    geometry.gdt_blocks = geometry.descriptor_blocks();
    let last = geometry.group_blocks(info.groups - 1);
    let end = image
        .seek(SeekFrom::End(0))
        .map_err(|source| Error::Output {
            offset: SUPERBLOCK_OFFSET,
            source,
        })?;
    // The descriptors of all groups are read next: an image is as large as its filesystem, so their
    // size is plausible.
    if geometry.leading_gdt_blocks() > geometry.gdt_blocks
        || geometry.base_blocks(0) >= blocks_per_group
        || geometry.base_blocks(info.groups - 1) >= last.end - last.start
        || info.blocks > end / u64::from(block_size)
    {
        return Err(wrong());
    }
    Ok(geometry)
}

pub(crate) fn tables(descriptor: &GroupDesc) -> Tables {
    Tables {
        block_bitmap: wide(
            descriptor.bg_block_bitmap_lo.get(),
            descriptor.bg_block_bitmap_hi.get(),
            32,
        ),
        inode_bitmap: wide(
            descriptor.bg_inode_bitmap_lo.get(),
            descriptor.bg_inode_bitmap_hi.get(),
            32,
        ),
        inode_table: wide(
            descriptor.bg_inode_table_lo.get(),
            descriptor.bg_inode_table_hi.get(),
            32,
        ),
    }
}

fn free_blocks(descriptor: &GroupDesc) -> u64 {
    wide(
        descriptor.bg_free_blocks_count_lo.get(),
        descriptor.bg_free_blocks_count_hi.get(),
        16,
    )
}

fn free_inodes(descriptor: &GroupDesc) -> u64 {
    wide(
        descriptor.bg_free_inodes_count_lo.get(),
        descriptor.bg_free_inodes_count_hi.get(),
        16,
    )
}

/// Sets the superblock's counts of free blocks and inodes to the sums over all groups.
pub(crate) fn count_free(superblock: &mut SuperBlock, descriptors: &[GroupDesc]) {
    let free: u64 = descriptors.iter().map(free_blocks).sum();
    let free_inodes: u64 = descriptors.iter().map(free_inodes).sum();
    superblock.s_free_blocks_count_lo = (free as u32).into();
    superblock.s_free_blocks_count_hi = ((free >> 32) as u32).into();
    superblock.s_free_inodes_count = (free_inodes as u32).into();
}
