//! The resize inode: a block-mapped file that holds the blocks reserved for more group descriptors.
//!
//! Its doubly indirect block points to the reserved blocks behind the primary descriptors. Each of those serves as an indirect
//! block that points to its counterparts behind the other copies (`ext4_resize_fs`, e2fsprogs' `ext2fs_create_resize_inode`).

use std::io::{Seek, Write};

use crate::Error;
use crate::format::{EXT4_DIND_BLOCK, EXT4_NDIR_BLOCKS};
use crate::geometry::has_super;
use crate::image::Image;
use crate::node::Body;

/// Writes the pointers, if any blocks are reserved.
pub(crate) fn write<W: Write + Seek>(image: &mut Image<W>) -> Result<Option<Body>, Error> {
    let geometry = &image.geometry;
    let reserved = u64::from(geometry.reserved_gdt_blocks);
    if reserved == 0 {
        return Ok(None);
    }
    let pointers = u64::from(geometry.block_size / 4);
    let first = geometry.first_block + 1 + geometry.gdt_blocks;
    let distances: Vec<u64> = (1..geometry.groups())
        .filter(|&group| has_super(group))
        .map(|group| group * geometry.blocks_per_group)
        .collect();
    let mut doubly = vec![0_u8; geometry.block_size as usize];
    for i in 0..reserved {
        let slot = ((geometry.gdt_blocks + i) % pointers) as usize * 4;
        doubly[slot..slot + 4].copy_from_slice(&((first + i) as u32).to_le_bytes());
    }
    for block in first..first + reserved {
        let copies = distances.iter().map(|distance| (block + distance) as u32);
        let bytes: Vec<u8> = copies.flat_map(u32::to_le_bytes).collect();
        image.write_block(block, &bytes)?;
    }
    let address = image.allocate()?;
    image.write_block(address, &doubly)?;

    let mut block = [0; 60];
    block[EXT4_DIND_BLOCK * 4..][..4].copy_from_slice(&(address as u32).to_le_bytes());
    let mapped = EXT4_NDIR_BLOCKS + pointers + pointers * pointers;
    Ok(Some(Body {
        block,
        size: mapped * u64::from(image.geometry.block_size),
        blocks: 1 + reserved * (1 + distances.len() as u64),
        flags: 0,
    }))
}
