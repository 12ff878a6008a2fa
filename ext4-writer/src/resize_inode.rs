//! The resize inode: a block-mapped file that holds the blocks reserved for more group descriptors.
//!
//! Its doubly indirect block points to the reserved blocks after the primary descriptors. Each of
//! those serves as an indirect block that points to its counterparts after the other copies
//! (`ext4_resize_fs`, e2fsprogs' `ext2fs_create_resize_inode`).

use std::io::{Seek, Write};
use std::ops::Range;

use crate::Error;
use crate::format::{EXT4_DIND_BLOCK, EXT4_NDIR_BLOCKS};
use crate::geometry::{Geometry, super_groups};
use crate::image::Image;
use crate::node::Body;

/// Writes the inode's blocks, if any are reserved.
pub(crate) fn write<W: Write + Seek>(image: &mut Image<W>) -> Result<Option<Body>, Error> {
    if image.geometry.reserved_gdt_blocks == 0 {
        return Ok(None);
    }
    write_pointers(image)?;
    let address = image.allocate()?;
    image.write_block(address, &doubly_indirect(&image.geometry))?;

    let mut block = [0; 60];
    block[EXT4_DIND_BLOCK * 4..][..4].copy_from_slice(&(address as u32).to_le_bytes());
    let pointers = pointers(&image.geometry);
    let mapped = EXT4_NDIR_BLOCKS + pointers + pointers * pointers;
    Ok(Some(Body {
        used: Vec::new(),
        blocks: blocks(&image.geometry),
        ..Body::inline(block, mapped * u64::from(image.geometry.block_size))
    }))
}

/// The reserved blocks after the primary descriptors.
fn primary(geometry: &Geometry) -> Range<u64> {
    let first = geometry.first_block + 1 + geometry.gdt_blocks;
    first..first + u64::from(geometry.reserved_gdt_blocks)
}

/// How far each copy lies after the primary one, in blocks.
fn distances(geometry: &Geometry) -> impl Iterator<Item = u64> {
    let copies = super_groups(geometry.groups()).into_iter().skip(1);
    copies.map(|group| group * geometry.blocks_per_group)
}

/// The pointers in an indirect block.
fn pointers(geometry: &Geometry) -> u64 {
    u64::from(geometry.block_size / 4)
}

/// The contents of the doubly indirect block.
pub(crate) fn doubly_indirect(geometry: &Geometry) -> Vec<u8> {
    let mut bytes = vec![0; geometry.block_size as usize];
    for (block, number) in primary(geometry).zip(geometry.gdt_blocks..) {
        let slot = (number % pointers(geometry)) as usize * 4;
        bytes[slot..slot + 4].copy_from_slice(&(block as u32).to_le_bytes());
    }
    bytes
}

/// All blocks of the inode.
pub(crate) fn blocks(geometry: &Geometry) -> u64 {
    1 + u64::from(geometry.reserved_gdt_blocks) * (1 + distances(geometry).count() as u64)
}

/// Writes the indirect blocks.
pub(crate) fn write_pointers<W: Write + Seek>(image: &mut Image<W>) -> Result<(), Error> {
    let distances: Vec<u64> = distances(&image.geometry).collect();
    for block in primary(&image.geometry) {
        let copies = distances.iter().map(|distance| (block + distance) as u32);
        let mut bytes: Vec<u8> = copies.flat_map(u32::to_le_bytes).collect();
        // Whole blocks are adjacent, and so are written at once.
        bytes.resize(image.block_size(), 0);
        image.write_block(block, &bytes)?;
    }
    Ok(())
}
