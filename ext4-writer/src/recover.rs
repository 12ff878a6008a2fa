//! Recovering a filesystem that was not unmounted.

use std::io::{Read, Seek, Write};

use zerocopy::{FromZeros, IntoBytes};

use crate::checksum::Checksum;
use crate::format::{
    EXT4_ERROR_FS, EXT4_EXTENTS_FL, EXT4_JOURNAL_INO, GroupDesc, INODE_SIZE, Inode,
    SUPERBLOCK_OFFSET, SuperBlock, compat, incompat,
};
use crate::geometry::Geometry;
use crate::info::{read_at, read_superblock, write_at};
use crate::mapped::Mapped;
use crate::progress::Metered;
use crate::replay::Log;
use crate::volume::{Volume, check_features, checksum_seed, corrupt, count_free, geometry, tables};
use crate::{Error, InPlaceOptions, Info, orphans};

/// Replays the journal of a filesystem that was not unmounted, and returns its superblock. A clean
/// filesystem is not changed. *The filesystem must not be mounted*: the image does not show whether
/// it is.
///
/// All committed transactions are written to their places, except for blocks that were revoked
/// later, and the counts of free blocks and inodes are updated, as the kernel does at the next
/// mount and `e2fsck -E journal_only` at once. Then the files that were deleted while open are
/// freed, and truncations completed, as both do it: with their attributes' values in inodes of
/// their own, and taken from quotas.
///
/// Everything in the journal is checked before the first byte is written, and the journal is
/// emptied last: an interrupted replay can be repeated. Freeing files is not journaled: if that is
/// interrupted, e2fsck reports the incomplete changes. The filesystem needs the features that
/// filesystems of [`Builder`](crate::Builder) always have.
///
/// ```no_run
/// let disk = std::fs::File::options().read(true).write(true).open("disk.ext4")?;
/// let info = ext4_writer::recover(disk)?;
/// assert!(info.clean);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
///
/// [`Error::NotExt4`], [`Error::Corrupt`] and [`Error::Features`] with the image as it was, except
/// where the damage only shows in what the journal makes of the filesystem; [`Error::Output`].
pub fn recover(image: impl Read + Write + Seek) -> Result<Info, Error> {
    recover_with(image, &InPlaceOptions::default())
}

/// As [`recover`], with options.
///
/// ```
/// use std::io::Cursor;
/// use ext4_writer::{Builder, InPlaceOptions, Options, Progress, recover_with};
///
/// let builder = Builder::new(Cursor::new(Vec::new()), Options::new(4 << 20))?;
/// let (image, _) = builder.finish()?;
/// let progress = Progress::new(|done| eprint!("\r{} bytes", done.bytes));
/// let info = recover_with(image, &InPlaceOptions::default().progress(progress))?;
/// assert!(info.clean);
/// # Ok::<(), ext4_writer::Error>(())
/// ```
///
/// # Errors
///
/// As [`recover`].
pub fn recover_with(
    image: impl Read + Write + Seek,
    options: &InPlaceOptions,
) -> Result<Info, Error> {
    let mut image = Metered::new(image, options.progress.as_ref());
    let info = recover_image(&mut image)?;
    image.report();
    Ok(info)
}

pub(crate) fn recover_image(image: &mut (impl Read + Write + Seek)) -> Result<Info, Error> {
    let superblock = read_superblock(image)?;
    let replay = superblock.s_feature_incompat.get() & incompat::RECOVER != 0;
    if !replay && !orphans::are_noted(&superblock) {
        return Info::of(&superblock);
    }
    check_features(&superblock)?;
    let log = match replay {
        true => {
            let geometry = geometry(image, &superblock)?;
            let journal = find_journal(image, &superblock, &geometry)?;
            let mut log = Log::open(image, journal, geometry.block_size)?;
            log.replay(image)?;
            Some(log)
        }
        false => None,
    };
    let failed = log.as_ref().is_some_and(Log::failed);

    let superblock = read_superblock(image)?;
    let mut volume = Volume::read(image, superblock)?;
    // The orphans of a filesystem with errors cannot be relied on.
    if !failed
        && volume.superblock.s_state.get() & EXT4_ERROR_FS == 0
        && orphans::are_noted(&volume.superblock)
    {
        orphans::release(image, &mut volume)?;
    }
    let superblock = &mut volume.superblock;
    count_free(superblock, &volume.descriptors);
    superblock.s_feature_incompat &= !incompat::RECOVER;
    if failed {
        superblock.s_state |= EXT4_ERROR_FS;
    }
    superblock.s_checksum = crate::superblock::checksum(superblock).into();
    // If this is interrupted, the next recovery finds an empty journal, which is harmless.
    if let Some(mut log) = log {
        log.empty(image)?;
    }
    write_at(image, SUPERBLOCK_OFFSET, superblock.as_bytes())?;
    image.flush().map_err(|source| Error::Output {
        offset: SUPERBLOCK_OFFSET,
        source,
    })?;
    Info::of(superblock)
}

/// Where the journal's blocks lie.
fn find_journal(
    image: &mut (impl Read + Seek),
    superblock: &SuperBlock,
    geometry: &Geometry,
) -> Result<Mapped, Error> {
    let block_size = u64::from(geometry.block_size);
    if superblock.s_feature_compat.get() & compat::HAS_JOURNAL == 0
        || superblock.s_journal_inum.get() != EXT4_JOURNAL_INO
    {
        return Err(corrupt("s_journal_inum", SUPERBLOCK_OFFSET));
    }
    // The descriptor's other fields may have newer values in the journal; the table does not move.
    let mut descriptor = GroupDesc::new_zeroed();
    let at = (geometry.first_block + 1) * block_size;
    read_at(image, at, descriptor.as_mut_bytes())?;
    let table = tables(&descriptor).inode_table;
    if table >= geometry.blocks {
        return Err(corrupt("ext4_group_desc", at));
    }
    let offset = table * block_size + u64::from(EXT4_JOURNAL_INO - 1) * INODE_SIZE as u64;
    let mut inode = Inode::new_zeroed();
    read_at(image, offset, inode.as_mut_bytes())?;
    let seed = checksum_seed(superblock)
        .add(&EXT4_JOURNAL_INO.to_le_bytes())
        .add(inode.i_generation.as_bytes());
    if inode.i_flags.get() & EXT4_EXTENTS_FL == 0 || !is_sealed(&inode, seed) {
        return Err(corrupt("journal inode", offset));
    }
    let blocks = geometry.blocks;
    Mapped::read(image, &inode, offset, seed, geometry.block_size, blocks)
}

fn is_sealed(inode: &Inode, seed: Checksum) -> bool {
    let mut unsigned = inode.clone();
    unsigned.l_i_checksum_lo = 0.into();
    unsigned.i_checksum_hi = 0.into();
    let stored = (inode.l_i_checksum_lo.get(), inode.i_checksum_hi.get());
    seed.add(unsigned.as_bytes()).halves() == stored
}
