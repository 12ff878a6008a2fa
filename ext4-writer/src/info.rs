//! Reading the superblock of a filesystem.

use std::io::{Read, Seek, SeekFrom, Write};

use blockbox_path::BytePath;
use zerocopy::{FromBytes, FromZeros, IntoBytes};

use crate::format::{
    EXT4_ERROR_FS, EXT4_SUPER_MAGIC, EXT4_VALID_FS, SUPERBLOCK_OFFSET, SuperBlock, incompat,
    ro_compat,
};
use crate::{Error, Features, Timestamp, superblock};

/// The superblock of an ext2, ext3 or ext4 filesystem.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Info {
    /// The UUID (`s_uuid`).
    pub uuid: [u8; 16],
    /// The label, without the zeros after it (`s_volume_name`).
    pub label: BytePath,
    /// The features.
    pub features: Features,
    /// Bytes per block.
    pub block_size: u32,
    /// All blocks (`s_blocks_count`).
    pub blocks: u64,
    /// Blocks that are not in use. Only right while the filesystem is not mounted.
    pub free_blocks: u64,
    /// Blocks that only root may use (`s_r_blocks_count`).
    pub reserved_blocks: u64,
    /// All inodes (`s_inodes_count`).
    pub inodes: u32,
    /// Inodes that are not in use. Only right while the filesystem is not mounted.
    pub free_inodes: u32,
    /// Bytes per inode.
    pub inode_size: u16,
    /// Block groups.
    pub groups: u64,
    /// Blocks per group.
    pub blocks_per_group: u32,
    /// Inodes per group.
    pub inodes_per_group: u32,
    /// Blocks reserved for more group descriptors.
    pub reserved_gdt_blocks: u16,
    /// The time of creation, in whole seconds.
    pub created: Timestamp,
    /// How often it has been mounted since it was checked.
    pub mounts: u16,
    /// Whether it was unmounted in order and no errors are known.
    pub clean: bool,
}

impl Info {
    /// Reads the superblock of the filesystem in `image`.
    ///
    /// ```
    /// # use std::io::Cursor;
    /// use ext4_writer::{Builder, Info, Options};
    ///
    /// let builder = Builder::new(Cursor::new(Vec::new()), Options::new(4 << 20))?;
    /// let info = Info::read(builder.finish()?.0)?;
    /// assert!(info.free_blocks < info.blocks);
    /// # Ok::<(), ext4_writer::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::NotExt4`]; [`Error::Corrupt`] where the checksum is wrong or the geometry
    /// impossible; [`Error::Output`].
    pub fn read(mut image: impl Read + Seek) -> Result<Self, Error> {
        let superblock = read_superblock(&mut image)?;
        Self::of(&superblock)
    }

    pub(crate) fn of(superblock: &SuperBlock) -> Result<Self, Error> {
        let corrupt = || Error::Corrupt {
            structure: "ext4_super_block",
            offset: SUPERBLOCK_OFFSET,
        };
        let features = Features::of(superblock);
        let log = superblock.s_log_block_size.get();
        if log > 6 {
            return Err(corrupt());
        }
        let wide = features.incompat & incompat::BIT64 != 0;
        let count = |low: zerocopy::little_endian::U32, high: zerocopy::little_endian::U32| {
            u64::from(low.get()) | if wide { u64::from(high.get()) << 32 } else { 0 }
        };
        let blocks = count(superblock.s_blocks_count_lo, superblock.s_blocks_count_hi);
        let blocks_per_group = superblock.s_blocks_per_group.get();
        let first = u64::from(superblock.s_first_data_block.get());
        if blocks <= first || blocks >> 48 != 0 || blocks_per_group == 0 {
            return Err(corrupt());
        }
        let state = superblock.s_state.get();
        let label = &superblock.s_volume_name[..];
        let end = label.iter().position(|&byte| byte == 0);
        Ok(Self {
            uuid: superblock.s_uuid,
            label: label[..end.unwrap_or(label.len())].into(),
            features,
            block_size: 1024 << log,
            blocks,
            free_blocks: count(
                superblock.s_free_blocks_count_lo,
                superblock.s_free_blocks_count_hi,
            ),
            reserved_blocks: count(
                superblock.s_r_blocks_count_lo,
                superblock.s_r_blocks_count_hi,
            ),
            inodes: superblock.s_inodes_count.get(),
            free_inodes: superblock.s_free_inodes_count.get(),
            inode_size: superblock.s_inode_size.get(),
            groups: (blocks - first).div_ceil(blocks_per_group.into()),
            blocks_per_group,
            inodes_per_group: superblock.s_inodes_per_group.get(),
            reserved_gdt_blocks: superblock.s_reserved_gdt_blocks.get(),
            created: Timestamp {
                secs: i64::from(superblock.s_mkfs_time.get())
                    | i64::from(superblock.s_mkfs_time_hi) << 32,
                nanos: 0,
            },
            mounts: superblock.s_mnt_count.get(),
            clean: state & EXT4_VALID_FS != 0
                && state & EXT4_ERROR_FS == 0
                && features.incompat & incompat::RECOVER == 0,
        })
    }
}

/// Reads the primary superblock, and checks its magic and, where it has one, its checksum.
pub(crate) fn read_superblock(image: &mut (impl Read + Seek)) -> Result<SuperBlock, Error> {
    let mut superblock = SuperBlock::new_zeroed();
    match read_at(image, SUPERBLOCK_OFFSET, superblock.as_mut_bytes()) {
        Err(Error::Output { source, .. }) if source.kind() == std::io::ErrorKind::UnexpectedEof => {
            return Err(Error::NotExt4);
        }
        read => read?,
    }
    if superblock.s_magic.get() != EXT4_SUPER_MAGIC {
        return Err(Error::NotExt4);
    }
    let checked = superblock.s_feature_ro_compat.get() & ro_compat::METADATA_CSUM != 0;
    if checked && superblock.s_checksum.get() != superblock::checksum(&superblock) {
        return Err(Error::Corrupt {
            structure: "ext4_super_block",
            offset: SUPERBLOCK_OFFSET,
        });
    }
    Ok(superblock)
}

pub(crate) fn read_at(
    image: &mut (impl Read + Seek),
    offset: u64,
    bytes: &mut [u8],
) -> Result<(), Error> {
    image
        .seek(SeekFrom::Start(offset))
        .and_then(|_| image.read_exact(bytes))
        .map_err(|source| Error::Output { offset, source })
}

pub(crate) fn write_at(
    image: &mut (impl Write + Seek),
    offset: u64,
    bytes: &[u8],
) -> Result<(), Error> {
    image
        .seek(SeekFrom::Start(offset))
        .and_then(|_| image.write_all(bytes))
        .map_err(|source| Error::Output { offset, source })
}

/// Reads `count` structures.
pub(crate) fn read_all<T: FromBytes + IntoBytes + Clone>(
    image: &mut (impl Read + Seek),
    offset: u64,
    count: usize,
) -> Result<Vec<T>, Error>
where
    [T]: IntoBytes + FromBytes,
{
    let mut all = vec![T::new_zeroed(); count];
    read_at(image, offset, all.as_mut_slice().as_mut_bytes())?;
    Ok(all)
}
