//! Growing a filesystem in place while it is not mounted.

use std::io::{Read, Seek, Write};

use zerocopy::{FromZeros, IntoBytes};

use crate::checksum::Checksum;
use crate::format::{
    EXT4_DIND_BLOCK, EXT4_ERROR_FS, EXT4_RESIZE_INO, EXT4_VALID_FS, Inode, SuperBlock, compat,
    incompat,
};
use crate::geometry::Geometry;
use crate::groups::{Copies, Filled, Group, UsedInodes};
use crate::image::Image;
use crate::info::{read_at, read_superblock};
use crate::progress::Metered;
use crate::recover::recover_image;
use crate::volume::{Volume, corrupt, count_free};
use crate::{Error, InPlaceOptions, Info, resize_inode};

/// Grows the filesystem in `image` to `size` bytes, extends `image` if it is shorter, and returns
/// the new superblock.
///
/// Nothing moves. The blocks reserved for group descriptors
/// ([`reserved_gdt_blocks`](crate::Options::reserved_gdt_blocks)) are used first. Where there are
/// too few, later groups hold their own descriptors from then on (`meta_bg`, as the kernel does it
/// when it resizes), and the blocks of `resize_inode` are given up. `image` must read as zeros
/// after the filesystem, as a file that is extended does. What
/// [`Options::size`](crate::Options::size) says about leftovers holds here too.
///
/// A filesystem that was not unmounted is recovered first, as [`recover`](crate::recover) does. *It
/// must not be mounted*: the image does not show whether it is.
///
/// Everything is checked before the first byte is written. The superblock is written last, but a
/// crash amid the writes may leave a filesystem that e2fsck has to repair.
///
/// ```
/// use std::io::Cursor;
/// use ext4_writer::{Builder, Options};
///
/// // A file that can be read and written will do as well.
/// let disk = Builder::new(Cursor::new(Vec::new()), Options::new(4 << 20))?.finish()?.0;
/// let info = ext4_writer::grow(disk, 64 << 20)?;
/// assert_eq!(info.blocks, (64 << 20) / u64::from(info.block_size));
/// # Ok::<(), ext4_writer::Error>(())
/// ```
///
/// # Errors
///
/// [`Error::NotExt4`], [`Error::Corrupt`], [`Error::Features`], [`Error::NotClean`] and
/// [`Error::GrowSize`], with the image as it was, but for being recovered; [`Error::Output`].
pub fn grow(image: impl Read + Write + Seek, size: u64) -> Result<Info, Error> {
    grow_with(image, size, &InPlaceOptions::default())
}

/// As [`grow`], with options.
///
/// ```
/// use std::io::Cursor;
/// use ext4_writer::{Builder, InPlaceOptions, Options, Progress, grow_with};
///
/// let builder = Builder::new(Cursor::new(Vec::new()), Options::new(4 << 20))?;
/// let (image, _) = builder.finish()?;
/// let progress = Progress::new(|done| eprint!("\r{} bytes", done.bytes));
/// let options = InPlaceOptions::default().progress(progress);
/// let info = grow_with(image, 64 << 20, &options)?;
/// assert_eq!(info.blocks, (64 << 20) / u64::from(info.block_size));
/// # Ok::<(), ext4_writer::Error>(())
/// ```
///
/// # Errors
///
/// As [`grow`].
pub fn grow_with(
    image: impl Read + Write + Seek,
    size: u64,
    options: &InPlaceOptions,
) -> Result<Info, Error> {
    let mut image = Metered::new(image, options.progress.as_ref());
    let info = grow_image(&mut image, size)?;
    image.report();
    Ok(info)
}

fn grow_image(image: &mut (impl Read + Write + Seek), size: u64) -> Result<Info, Error> {
    recover_image(image)?;
    let superblock = read_superblock(image)?;
    check_state(&superblock)?;
    let mut volume = Volume::read(image, superblock)?;
    let old = volume.geometry.clone();
    let geometry = enlarge(&old, size)?;
    if geometry.blocks == old.blocks {
        return Info::of(&volume.superblock);
    }
    extend_last_group(&mut volume, image, &geometry)?;
    let resize = update_resize_inode(&mut volume, image, &geometry)?;

    volume.write_bitmaps(image)?;
    let mut descriptors = volume.descriptors;
    let mut out = Image::over(image, geometry, volume.seed);
    let geometry = out.geometry.clone();
    let used = geometry.reserved();
    let mut from = 0;
    let mut filled = Filled::default();
    for group in old.groups()..geometry.groups() {
        let start = geometry.group_start(group);
        while used.get(from).is_some_and(|range| range.end <= start) {
            from += 1;
        }
        let group = Group::new(&geometry, group, &used[from..], UsedInodes::default());
        descriptors.push(group.write(&mut out, &mut filled)?);
    }
    if let Some(resize) = resize {
        if let Some((doubly, address)) = resize.pointers {
            resize_inode::write_pointers(&mut out)?;
            out.write_block(address, &doubly)?;
        }
        let offset = geometry.inode_offset(EXT4_RESIZE_INO);
        out.out.write_at(offset, resize.inode.as_bytes())?;
    }

    let mut superblock = describe(&volume.superblock, &old, &geometry);
    count_free(&mut superblock, &descriptors);
    superblock.s_checksum = crate::superblock::checksum(&superblock).into();
    let mut copies = Copies::new(&geometry);
    for descriptor in &descriptors {
        copies.push(descriptor);
    }
    copies.write(&mut out, superblock.clone())?;
    let end = geometry.blocks * u64::from(geometry.block_size);
    out.out.finish(end.max(size))?;
    Info::of(&superblock)
}

/// Plans the larger filesystem.
fn enlarge(old: &Geometry, size: u64) -> Result<Geometry, Error> {
    let block_size = u64::from(old.block_size);
    let error = || {
        let groups = u64::from(u32::MAX / old.inodes_per_group);
        let blocks = old.first_block + groups * old.blocks_per_group;
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
    // Dropping a last group that is too short leaves a full one, so this runs at most twice.
    loop {
        new.gdt_blocks = new.descriptor_blocks();
        let more = new.gdt_blocks - old.gdt_blocks;
        let reserved = u64::from(old.reserved_gdt_blocks);
        // The resize inode's pointers have 32 bits.
        let narrow = reserved > 0 && new.blocks > u32::MAX.into();
        (new.first_meta_bg, new.reserved_gdt_blocks) = match old.first_meta_bg {
            Some(first) => (Some(first), 0),
            None if more <= reserved && !narrow => (None, (reserved - more) as u16),
            None if more >= reserved => (Some(old.gdt_blocks + reserved), 0),
            // More blocks are reserved than 32-bit pointers can use.
            None => return Err(error()),
        };
        if new.blocks <= old.blocks || !new.drop_short_group() {
            break;
        }
        new.blocks = new.blocks.max(old.blocks);
    }
    let inodes = new.groups() * u64::from(new.inodes_per_group);
    if inodes > u32::MAX.into() {
        return Err(error());
    }
    new.place_tables(old.groups())?;
    Ok(new)
}

/// Gives the last group the blocks it gains.
fn extend_last_group(
    volume: &mut Volume,
    image: &mut (impl Read + Seek),
    new: &Geometry,
) -> Result<(), Error> {
    let number = volume.geometry.groups() - 1;
    let before = volume.geometry.group_blocks(number);
    let after = new.group_blocks(number);
    let gained = after.end - before.end;
    if gained == 0 {
        return Ok(());
    }
    let offset = volume.offset(volume.geometry.tables[number as usize].block_bitmap);
    let bitmap = volume.block_bitmap(image, number)?;
    let behind = before.end - before.start..after.end - before.start;
    if bitmap.count(behind.clone()) != gained {
        return Err(corrupt("block bitmap", offset));
    }
    bitmap.clear(behind);
    volume.add_free_blocks(number, gained);
    Ok(())
}

/// The resize inode as the larger filesystem needs it.
struct Resize {
    inode: Inode,
    /// Its doubly indirect block and the address of that block, if it keeps the block.
    pointers: Option<(Vec<u8>, u64)>,
}

fn update_resize_inode(
    volume: &mut Volume,
    image: &mut (impl Read + Seek),
    new: &Geometry,
) -> Result<Option<Resize>, Error> {
    if volume.superblock.s_feature_compat.get() & compat::RESIZE_INODE == 0 {
        return Ok(None);
    }
    let old = &volume.geometry;
    let offset = old.inode_offset(EXT4_RESIZE_INO);
    let mut inode = Inode::new_zeroed();
    read_at(image, offset, inode.as_mut_bytes())?;
    let stored = (inode.l_i_checksum_lo.get(), inode.i_checksum_hi.get());
    if seal(&mut inode, volume.seed) != stored {
        return Err(corrupt("resize inode", offset));
    }
    let pointer = inode.i_block.as_chunks::<4>().0[EXT4_DIND_BLOCK];
    let address = u64::from(u32::from_le_bytes(pointer));
    let fixed = old.group_start(0) + old.base_blocks(0);
    if !(fixed..old.blocks).contains(&address) {
        return Err(corrupt("resize inode", offset));
    }
    let mut doubly = vec![0; old.block_size as usize];
    let at = volume.offset(address);
    read_at(image, at, &mut doubly)?;
    if doubly != resize_inode::doubly_indirect(old) {
        return Err(corrupt("resize inode", at));
    }
    if new.first_meta_bg.is_some() {
        // The reserved blocks now hold descriptors, which belong to no inode.
        volume.free_blocks(image, address..address + 1)?;
        return Ok(Some(Resize {
            inode: Inode::new_zeroed(),
            pointers: None,
        }));
    }
    let sectors = resize_inode::blocks(new) * u64::from(new.block_size / 512);
    inode.i_blocks_lo = (sectors as u32).into();
    inode.l_i_blocks_high = ((sectors >> 32) as u16).into();
    seal(&mut inode, volume.seed);
    Ok(Some(Resize {
        inode,
        pointers: Some((resize_inode::doubly_indirect(new), address)),
    }))
}

/// Sets the checksum of the resize inode, and returns the inode.
fn seal(inode: &mut Inode, seed: Checksum) -> (u16, u16) {
    let seed = seed
        .add(&EXT4_RESIZE_INO.to_le_bytes())
        .add(inode.i_generation.as_bytes());
    crate::node::seal(inode, seed)
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
    Ok(())
}

/// The larger filesystem's superblock, without counts of free blocks and inodes.
fn describe(superblock: &SuperBlock, old: &Geometry, new: &Geometry) -> SuperBlock {
    let mut superblock = superblock.clone();
    let root_only = u64::from(superblock.s_r_blocks_count_lo.get())
        | u64::from(superblock.s_r_blocks_count_hi.get()) << 32;
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
    superblock.s_inodes_count = new.inodes().into();
    superblock.s_overhead_clusters = (overhead as u32).into();
    superblock.s_reserved_gdt_blocks = new.reserved_gdt_blocks.into();
    if let Some(first) = new.first_meta_bg {
        superblock.s_feature_incompat |= incompat::META_BG;
        superblock.s_feature_compat &= !compat::RESIZE_INODE;
        superblock.s_first_meta_bg = (first as u32).into();
    }
    superblock
}
