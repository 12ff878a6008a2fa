//! Growing a filesystem in place while it is not mounted.

use std::io::{Read, Seek, SeekFrom, Write};

use zerocopy::{FromZeros, IntoBytes};

use crate::bitmap::Bitmap;
use crate::checksum::Checksum;
use crate::format::{
    EXT4_BG_BLOCK_UNINIT, EXT4_DIND_BLOCK, EXT4_ERROR_FS, EXT4_RESIZE_INO, EXT4_VALID_FS,
    GroupDesc, INODE_SIZE, Inode, SUPERBLOCK_OFFSET, SuperBlock, compat, incompat, ro_compat,
};
use crate::geometry::{Geometry, Tables};
use crate::groups::{self, Group};
use crate::image::Image;
use crate::info::{read_all, read_at, read_superblock};
use crate::{Error, Features, Info, recover, resize_inode};

/// What a filesystem must have to be grown here, as all that [`Builder`](crate::Builder) makes has.
const NEEDED: Features = Features {
    compat: 0,
    incompat: incompat::BIT64 | incompat::FLEX_BG,
    ro_compat: ro_compat::SPARSE_SUPER | ro_compat::METADATA_CSUM,
};

/// What it may have: features that say nothing about where groups' structures lie.
const KNOWN: Features = Features {
    compat: compat::HAS_JOURNAL | compat::EXT_ATTR | compat::RESIZE_INODE | compat::DIR_INDEX,
    incompat: NEEDED.incompat
        | incompat::FILETYPE
        | incompat::RECOVER
        | incompat::EXTENTS
        | incompat::CSUM_SEED
        | incompat::LARGEDIR,
    ro_compat: NEEDED.ro_compat
        | ro_compat::LARGE_FILE
        | ro_compat::HUGE_FILE
        | ro_compat::DIR_NLINK
        | ro_compat::EXTRA_ISIZE
        | ro_compat::PROJECT
        | ro_compat::VERITY
        | ro_compat::READONLY,
};

/// Makes the filesystem in `image` `size` bytes large, and `image` too where it is shorter, and says what it is then.
///
/// Nothing moves: the filesystem grows as far as the blocks reserved for group descriptors go
/// ([`reserved_gdt_blocks`](crate::Options::reserved_gdt_blocks)). `image` must read as zeros behind the filesystem, as a
/// file that is extended does. What [`Options::size`](crate::Options::size) says about leftovers holds here too.
///
/// A filesystem that was not unmounted is recovered first, as [`recover`] does. *It must not be mounted now*: that cannot be
/// told from the image.
///
/// Everything is checked before the first byte is written. The superblock is written last, but a crash amid the writes may
/// leave a filesystem that e2fsck has to repair.
///
/// # Errors
///
/// [`Error::NotExt4`], [`Error::Corrupt`], [`Error::Features`], [`Error::NotClean`] and [`Error::GrowSize`], with the image as
/// it was, but for being recovered; [`Error::Output`].
pub fn grow(mut image: impl Read + Write + Seek, size: u64) -> Result<Info, Error> {
    recover(&mut image)?;
    let superblock = read_superblock(&mut image)?;
    check_state(&superblock)?;
    let old = Volume::read(&mut image, superblock)?;
    let geometry = old.enlarge(size)?;
    if geometry.blocks == old.geometry.blocks {
        return Info::of(&old.superblock);
    }
    let last = old.extend_last_group(&mut image, &geometry)?;
    let resize = old.update_resize_inode(&mut image, &geometry)?;

    let groups = old.geometry.groups();
    let mut descriptors = old.descriptors;
    if let Some((descriptor, _)) = &last {
        descriptors[groups as usize - 1] = descriptor.clone();
    }
    let mut out = Image::over(image, geometry, old.seed);
    let geometry = out.geometry.clone();
    if let Some((_, bitmap)) = last {
        out.write_block(geometry.tables[groups as usize - 1].block_bitmap, &bitmap.0)?;
    }
    let used = geometry.reserved();
    let mut from = 0;
    for group in groups..geometry.groups() {
        let start = geometry.group_start(group);
        while used.get(from).is_some_and(|range| range.end <= start) {
            from += 1;
        }
        let group = Group::new(&geometry, group, &used[from..], 0, 0);
        descriptors.push(group.write(&mut out)?);
    }
    if let Some((inode, doubly, address)) = resize {
        resize_inode::write_pointers(&mut out)?;
        out.write_block(address, &doubly)?;
        let offset = geometry.inode_offset(EXT4_RESIZE_INO);
        out.out.write_at(offset, inode.as_bytes())?;
    }

    let superblock = describe(&old.superblock, &old.geometry, &geometry, &descriptors);
    groups::write_copies(&mut out, superblock.clone(), &descriptors)?;
    let end = geometry.blocks * u64::from(geometry.block_size);
    out.out.finish(end.max(size))?;
    Info::of(&superblock)
}

/// A filesystem's superblock and descriptors, checked.
pub(crate) struct Volume {
    pub(crate) superblock: SuperBlock,
    pub(crate) descriptors: Vec<GroupDesc>,
    pub(crate) geometry: Geometry,
    pub(crate) seed: Checksum,
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
        let mut geometry = geometry(image, &superblock)?;
        let seed = checksum_seed(&superblock);
        let offset = (geometry.first_block + 1) * u64::from(geometry.block_size);
        let descriptors: Vec<GroupDesc> = read_all(image, offset, geometry.groups() as usize)?;
        for (number, descriptor) in (0..).zip(&descriptors) {
            let at = offset + number * size_of::<GroupDesc>() as u64;
            let mut unsigned = descriptor.clone();
            unsigned.bg_checksum = 0.into();
            let checksum = groups::descriptor_checksum(seed, number, &unsigned);
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
        Ok(Self {
            superblock,
            descriptors,
            geometry,
            seed,
        })
    }

    /// Plans the larger filesystem.
    fn enlarge(&self, size: u64) -> Result<Geometry, Error> {
        let old = &self.geometry;
        let block_size = u64::from(old.block_size);
        let error = || {
            let per_block = block_size / size_of::<GroupDesc>() as u64;
            let groups = ((old.gdt_blocks + u64::from(old.reserved_gdt_blocks)) * per_block)
                .min(u64::from(u32::MAX / old.inodes_per_group));
            let mut blocks = old.first_block + groups * old.blocks_per_group;
            if old.reserved_gdt_blocks > 0 {
                blocks = blocks.min(u32::MAX.into());
            }
            Error::GrowSize {
                size,
                smallest: old.blocks * block_size,
                largest: blocks * block_size,
            }
        };
        let mut new = old.clone();
        new.blocks = size / block_size;
        if new.blocks < old.blocks || new.blocks >> 48 != 0 {
            return Err(error());
        }
        new.drop_short_group();
        new.blocks = new.blocks.max(old.blocks);

        new.gdt_blocks = new.descriptor_blocks();
        let more = new.gdt_blocks - old.gdt_blocks;
        let reserved = u64::from(old.reserved_gdt_blocks).checked_sub(more);
        new.reserved_gdt_blocks = reserved.ok_or_else(error)? as u16;
        let inodes = new.groups() * u64::from(new.inodes_per_group);
        let narrow = old.reserved_gdt_blocks > 0 && new.blocks > u32::MAX.into();
        if inodes > u32::MAX.into() || narrow {
            return Err(error());
        }
        new.place_tables(old.groups())?;
        Ok(new)
    }

    /// The last group's descriptor and bitmap with the blocks it gains, if any.
    fn extend_last_group(
        &self,
        image: &mut (impl Read + Seek),
        new: &Geometry,
    ) -> Result<Option<(GroupDesc, Bitmap)>, Error> {
        let number = self.geometry.groups() - 1;
        let before = self.geometry.group_blocks(number);
        let after = new.group_blocks(number);
        let gained = after.end - before.end;
        if gained == 0 {
            return Ok(None);
        }
        let mut descriptor = self.descriptors[number as usize].clone();
        let address = tables(&descriptor).block_bitmap;
        let offset = address * u64::from(new.block_size);
        // e2fsck does not allow this flag on the last group.
        if descriptor.bg_flags.get() & EXT4_BG_BLOCK_UNINIT != 0 {
            return Err(corrupt("bg_flags", offset));
        }
        let mut bitmap = Bitmap::new(new.block_size as usize * 8);
        read_at(image, offset, &mut bitmap.0)?;
        let stored = (
            descriptor.bg_block_bitmap_csum_lo.get(),
            descriptor.bg_block_bitmap_csum_hi.get(),
        );
        let behind = before.end - before.start..after.end - before.start;
        if self.seed.add(&bitmap.0).halves() != stored || !bitmap.all_set(behind.clone()) {
            return Err(corrupt("block bitmap", offset));
        }
        bitmap.clear(behind);
        let (low, high) = self.seed.add(&bitmap.0).halves();
        descriptor.bg_block_bitmap_csum_lo = low.into();
        descriptor.bg_block_bitmap_csum_hi = high.into();
        let free = free_blocks(&descriptor) + gained;
        descriptor.bg_free_blocks_count_lo = (free as u16).into();
        descriptor.bg_free_blocks_count_hi = ((free >> 16) as u16).into();
        descriptor.bg_checksum = 0.into();
        descriptor.bg_checksum = groups::descriptor_checksum(self.seed, number, &descriptor).into();
        Ok(Some((descriptor, bitmap)))
    }

    /// The resize inode, its doubly indirect block and that block's address, as the larger filesystem needs them.
    fn update_resize_inode(
        &self,
        image: &mut (impl Read + Seek),
        new: &Geometry,
    ) -> Result<Option<(Inode, Vec<u8>, u64)>, Error> {
        if self.superblock.s_feature_compat.get() & compat::RESIZE_INODE == 0 {
            return Ok(None);
        }
        let offset = self.geometry.inode_offset(EXT4_RESIZE_INO);
        let mut inode = Inode::new_zeroed();
        read_at(image, offset, inode.as_mut_bytes())?;
        let stored = (inode.l_i_checksum_lo.get(), inode.i_checksum_hi.get());
        if seal(&mut inode, self.seed) != stored {
            return Err(corrupt("resize inode", offset));
        }
        let pointer = inode.i_block.as_chunks::<4>().0[EXT4_DIND_BLOCK];
        let address = u64::from(u32::from_le_bytes(pointer));
        let fixed = self.geometry.group_start(0) + self.geometry.base_blocks(0);
        if !(fixed..self.geometry.blocks).contains(&address) {
            return Err(corrupt("resize inode", offset));
        }
        let mut doubly = vec![0; self.geometry.block_size as usize];
        let at = address * u64::from(self.geometry.block_size);
        read_at(image, at, &mut doubly)?;
        if doubly != resize_inode::doubly_indirect(&self.geometry) {
            return Err(corrupt("resize inode", at));
        }
        let sectors = resize_inode::blocks(new) * u64::from(new.block_size / 512);
        inode.i_blocks_lo = (sectors as u32).into();
        inode.l_i_blocks_high = ((sectors >> 32) as u16).into();
        seal(&mut inode, self.seed);
        Ok(Some((inode, resize_inode::doubly_indirect(new), address)))
    }
}

/// Sets the checksum of the resize inode, and gives it.
fn seal(inode: &mut Inode, seed: Checksum) -> (u16, u16) {
    inode.l_i_checksum_lo = 0.into();
    inode.i_checksum_hi = 0.into();
    let checksum = seed
        .add(&EXT4_RESIZE_INO.to_le_bytes())
        .add(inode.i_generation.as_bytes())
        .add(inode.as_bytes())
        .halves();
    inode.l_i_checksum_lo = checksum.0.into();
    inode.i_checksum_hi = checksum.1.into();
    checksum
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

fn check_state(superblock: &SuperBlock) -> Result<(), Error> {
    let not_clean = |reason| Err(Error::NotClean { reason });
    let state = superblock.s_state.get();
    if state & EXT4_ERROR_FS != 0 {
        return not_clean("it has errors");
    }
    if state & EXT4_VALID_FS == 0 {
        return not_clean("it was not unmounted");
    }
    if superblock.s_last_orphan.get() != 0 {
        return not_clean("there are deleted files to free");
    }
    Ok(())
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
    let reserved = match info.features.compat & compat::RESIZE_INODE {
        0 => 0,
        _ => info.reserved_gdt_blocks,
    };
    let mut geometry = Geometry {
        block_size,
        blocks: info.blocks,
        first_block,
        blocks_per_group,
        inodes_per_group,
        gdt_blocks: 0,
        reserved_gdt_blocks: reserved,
        journal_blocks: 0,
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
        && u32::from(reserved) <= block_size / 4;
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
    // The descriptors of all groups are read next: an image is as large as its filesystem, so their size is plausible.
    if geometry.base_blocks(0) >= blocks_per_group
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

/// Makes the superblock's counts of what is free those of all groups.
pub(crate) fn count_free(superblock: &mut SuperBlock, descriptors: &[GroupDesc]) {
    let free: u64 = descriptors.iter().map(free_blocks).sum();
    let free_inodes = |descriptor: &GroupDesc| {
        wide(
            descriptor.bg_free_inodes_count_lo.get(),
            descriptor.bg_free_inodes_count_hi.get(),
            16,
        )
    };
    let free_inodes: u64 = descriptors.iter().map(free_inodes).sum();
    superblock.s_free_blocks_count_lo = (free as u32).into();
    superblock.s_free_blocks_count_hi = ((free >> 32) as u32).into();
    superblock.s_free_inodes_count = (free_inodes as u32).into();
}

/// The larger filesystem's superblock.
fn describe(
    superblock: &SuperBlock,
    old: &Geometry,
    new: &Geometry,
    descriptors: &[GroupDesc],
) -> SuperBlock {
    let mut superblock = superblock.clone();
    let root_only = wide(
        superblock.s_r_blocks_count_lo.get(),
        superblock.s_r_blocks_count_hi.get(),
        32,
    );
    // The same share of the filesystem, and never more than all of it.
    let root_only = u128::from(root_only) * u128::from(new.blocks) / u128::from(old.blocks);
    let root_only = root_only.min(u128::from(new.blocks) / 2) as u64;
    let overhead = match superblock.s_overhead_clusters.get() {
        0 => 0,
        overhead => u64::from(overhead) + new.overhead() - old.overhead(),
    };
    superblock.s_blocks_count_lo = (new.blocks as u32).into();
    superblock.s_blocks_count_hi = ((new.blocks >> 32) as u32).into();
    superblock.s_r_blocks_count_lo = (root_only as u32).into();
    superblock.s_r_blocks_count_hi = ((root_only >> 32) as u32).into();
    count_free(&mut superblock, descriptors);
    superblock.s_inodes_count = new.inodes().into();
    superblock.s_overhead_clusters = (overhead as u32).into();
    superblock.s_reserved_gdt_blocks = new.reserved_gdt_blocks.into();
    superblock.s_checksum = crate::superblock::checksum(&superblock).into();
    superblock
}
