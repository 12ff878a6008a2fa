//! The orphan file, in which the kernel lists inodes that were deleted while open
//! (`fs/ext4/orphan.c`).

use std::io::{Seek, Write};

use zerocopy::IntoBytes;

use crate::Error;
use crate::checksum::Checksum;
use crate::extents::Map;
use crate::format::{EXT4_ORPHAN_BLOCK_MAGIC, OrphanBlockTail};
use crate::image::Image;
use crate::node::Body;

/// The number of its blocks. mke2fs makes one for every 4,096 blocks of the filesystem, from 32 to
/// 512, to reduce contention between processors. All of them have to be written; a block of 4 KiB
/// lists 1,022 inodes, and further inodes go into the superblock's list.
const BLOCKS: u64 = 4;

/// Writes an empty orphan file with inode `ino`.
pub(crate) fn write<W: Write + Seek>(image: &mut Image<W>, ino: u32) -> Result<Body, Error> {
    let seed = image.seed.inode(ino);
    let mut map = Map::default();
    for run in image.extend(&mut map, 0, BLOCKS, BLOCKS)? {
        for block in run {
            let mut bytes = vec![0; image.block_size()];
            seal(&mut bytes, block, seed);
            image.write_block(block, &bytes)?;
        }
    }
    let size = BLOCKS * u64::from(image.geometry.block_size);
    image.map(ino, &map, size)
}

/// Sets the tail of a block that lies at `address` (`ext4_orphan_file_block_csum`).
pub(crate) fn seal(block: &mut [u8], address: u64, seed: Checksum) {
    let (entries, end) = block.split_at_mut(block.len() - size_of::<OrphanBlockTail>());
    let checksum = seed.add(&address.to_le_bytes()).add(entries).value();
    let tail = OrphanBlockTail {
        ob_magic: EXT4_ORPHAN_BLOCK_MAGIC.into(),
        ob_checksum: checksum.into(),
    };
    end.copy_from_slice(tail.as_bytes());
}
