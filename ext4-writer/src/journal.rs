//! The journal: an inode whose first block says that there is nothing to replay.

use std::io::{Seek, Write};

use zerocopy::{FromZeros, IntoBytes};

use crate::Error;
use crate::checksum::Checksum;
use crate::extents::Map;
use crate::format::{
    EXT4_JOURNAL_INO, JBD2_CRC32C_CHKSUM, JBD2_FEATURE_INCOMPAT_64BIT,
    JBD2_FEATURE_INCOMPAT_CSUM_V3, JBD2_FEATURE_INCOMPAT_REVOKE, JBD2_MAGIC_NUMBER,
    JBD2_SUPERBLOCK_V2, JournalSuperBlock,
};
use crate::image::Image;
use crate::node::Body;

/// Allocates the journal, if the options have one, and writes its superblock. All other blocks stay
/// unwritten: a journal whose `s_start` is 0 is empty, whatever they hold.
pub(crate) fn write<W: Write + Seek>(
    image: &mut Image<W>,
    uuid: [u8; 16],
) -> Result<Option<Body>, Error> {
    let blocks = image.geometry.journal_blocks;
    if blocks == 0 {
        return Ok(None);
    }
    let free = image.space.available();
    if blocks > free {
        return Err(Error::NoSpace {
            wanted: blocks,
            free,
        });
    }
    let mut map = Map::default();
    let runs = image.extend(&mut map, 0, blocks, blocks)?;
    let superblock = superblock(image.geometry.block_size, blocks as u32, uuid);
    image.write_block(runs[0].start, superblock.as_bytes())?;
    let size = blocks * u64::from(image.geometry.block_size);
    image.map(EXT4_JOURNAL_INO, &map, size).map(Some)
}

fn superblock(block_size: u32, blocks: u32, uuid: [u8; 16]) -> JournalSuperBlock {
    let mut superblock = JournalSuperBlock::new_zeroed();
    superblock.h_magic = JBD2_MAGIC_NUMBER.into();
    superblock.h_blocktype = JBD2_SUPERBLOCK_V2.into();
    superblock.s_blocksize = block_size.into();
    superblock.s_maxlen = blocks.into();
    superblock.s_first = 1.into();
    superblock.s_sequence = 1.into();
    superblock.s_feature_incompat = (JBD2_FEATURE_INCOMPAT_REVOKE
        | JBD2_FEATURE_INCOMPAT_64BIT
        | JBD2_FEATURE_INCOMPAT_CSUM_V3)
        .into();
    superblock.s_uuid = uuid;
    superblock.s_nr_users = 1.into();
    superblock.s_checksum_type = JBD2_CRC32C_CHKSUM;
    superblock.s_checksum = Checksum::START.add(superblock.as_bytes()).value().into();
    superblock
}
