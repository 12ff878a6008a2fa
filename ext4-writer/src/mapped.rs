//! Reading the block map of an inode.

use std::io::{Read, Seek};
use std::ops::Range;

use zerocopy::FromBytes;

use crate::Error;
use crate::checksum::Checksum;
use crate::format::{EXT_INIT_MAX_LEN, EXT4_EXT_MAGIC, Extent, ExtentHeader, ExtentIdx, Inode};
use crate::info::read_at;
use crate::volume::corrupt;

/// Levels of nodes below the root (`EXT4_MAX_EXTENT_DEPTH`).
pub(crate) const MAX_DEPTH: u16 = 5;
const ENTRY: usize = 12;

/// A file's blocks. [`Mapped::read`] accepts only files without holes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Mapped {
    /// The first block of each run in the file, and its blocks in the filesystem.
    runs: Vec<(u64, Range<u64>)>,
    len: u64,
}

impl Mapped {
    /// The number of blocks, up to the last one mapped.
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// Returns the block of the filesystem that holds the file's block `logical`.
    pub(crate) fn get(&self, logical: u64) -> Option<u64> {
        let behind = self.runs.partition_point(|(first, _)| *first <= logical);
        let (first, blocks) = self.runs.get(behind.checked_sub(1)?)?;
        let block = blocks.start + (logical - first);
        (block < blocks.end).then_some(block)
    }

    /// The first block of each run in the file, and its blocks in the filesystem, in the order of
    /// the file.
    pub(crate) fn runs(&self) -> &[(u64, Range<u64>)] {
        &self.runs
    }

    /// All runs' blocks in the filesystem, in ascending order.
    pub(crate) fn sorted(&self) -> Vec<Range<u64>> {
        let mut blocks: Vec<_> = self.runs.iter().map(|(_, blocks)| blocks.clone()).collect();
        blocks.sort_unstable_by_key(|blocks| blocks.start);
        blocks
    }

    /// Reads the extent tree of an inode whose blocks' checksums start from `seed`. `offset` is the
    /// position of the inode.
    pub(crate) fn read(
        image: &mut (impl Read + Seek),
        inode: &Inode,
        offset: u64,
        seed: Checksum,
        block_size: u32,
        blocks: u64,
    ) -> Result<Self, Error> {
        Self::read_tree(image, inode, offset, seed, (block_size, blocks), false)
    }

    /// As [`read`](Self::read), of a file that may have holes. Blocks that are allocated and not
    /// written are holes, too.
    pub(crate) fn read_sparse(
        image: &mut (impl Read + Seek),
        inode: &Inode,
        offset: u64,
        seed: Checksum,
        block_size: u32,
        blocks: u64,
    ) -> Result<Self, Error> {
        Self::read_tree(image, inode, offset, seed, (block_size, blocks), true)
    }

    fn read_tree(
        image: &mut (impl Read + Seek),
        inode: &Inode,
        offset: u64,
        seed: Checksum,
        (block_size, blocks): (u32, u64),
        sparse: bool,
    ) -> Result<Self, Error> {
        let mut reader = Reader {
            image,
            seed,
            block_size,
            blocks,
            sparse,
            stored: 0,
            mapped: Self::default(),
            nodes: 0,
        };
        let depth = header(&inode.i_block, 4)
            .map(|header| header.eh_depth.get())
            .filter(|depth| *depth <= MAX_DEPTH)
            .ok_or_else(|| corrupt("ext4_extent_header", offset))?;
        reader.node(&inode.i_block, offset, depth)?;
        Ok(reader.mapped)
    }
}

struct Reader<'a, I> {
    image: &'a mut I,
    seed: Checksum,
    block_size: u32,
    /// The filesystem's blocks.
    blocks: u64,
    /// Whether the file may have holes.
    sparse: bool,
    /// Blocks of all extents.
    stored: u64,
    mapped: Mapped,
    /// Nodes read below the root.
    nodes: u64,
}

/// Returns the header of a node with room for `capacity` entries, if it is valid.
pub(crate) fn header(node: &[u8], capacity: usize) -> Option<ExtentHeader> {
    let (header, _) = ExtentHeader::read_from_prefix(node).ok()?;
    let right = header.eh_magic.get() == EXT4_EXT_MAGIC
        && usize::from(header.eh_max.get()) <= capacity
        && header.eh_entries <= header.eh_max;
    right.then_some(header)
}

impl<I: Read + Seek> Reader<'_, I> {
    fn node(&mut self, node: &[u8], offset: u64, depth: u16) -> Result<(), Error> {
        let wrong = || corrupt("ext4_extent_header", offset);
        let header = header(node, node.len() / ENTRY - 1)
            .filter(|header| header.eh_depth.get() == depth)
            .ok_or_else(wrong)?;
        let entries = node[ENTRY..]
            .chunks_exact(ENTRY)
            .take(header.eh_entries.get().into());
        for entry in entries {
            if depth == 0 {
                let extent = Extent::read_from_bytes(entry).map_err(|_| wrong())?;
                self.extent(&extent).ok_or_else(wrong)?;
                continue;
            }
            let index = ExtentIdx::read_from_bytes(entry).map_err(|_| wrong())?;
            let block = u64::from(index.ei_leaf_lo.get()) | u64::from(index.ei_leaf_hi.get()) << 32;
            // Every node maps at least one block, so a file cannot have more nodes than blocks.
            self.nodes += 1;
            let first = u64::from(index.ei_block.get());
            if block >= self.blocks || self.nodes > self.blocks || !self.follows(first) {
                return Err(wrong());
            }
            let at = block * u64::from(self.block_size);
            let mut bytes = vec![0; self.block_size as usize];
            read_at(self.image, at, &mut bytes)?;
            let before = self.mapped.len;
            // The checksum is after the entries there is room for.
            let covered = (bytes.len() - 4) / ENTRY * ENTRY;
            let stored = bytes[covered..].first_chunk().copied();
            if stored != Some(self.seed.add(&bytes[..covered]).value().to_le_bytes()) {
                return Err(corrupt("ext4_extent_tail", at));
            }
            self.node(&bytes[..covered], at, depth - 1)?;
            if self.mapped.len == before {
                return Err(wrong());
            }
        }
        Ok(())
    }

    /// Whether an extent or a node that begins at block `first` of the file may come next.
    fn follows(&self, first: u64) -> bool {
        first == self.mapped.len || self.sparse && first > self.mapped.len
    }

    /// Appends an extent; `None` where it is outside of the filesystem or, in a file without holes,
    /// where there is a hole before it or it is not written.
    fn extent(&mut self, extent: &Extent) -> Option<()> {
        let mut count = u64::from(extent.ee_len.get());
        let unwritten = self.sparse && count > u64::from(EXT_INIT_MAX_LEN);
        if unwritten {
            count -= u64::from(EXT_INIT_MAX_LEN);
        }
        let start = u64::from(extent.ee_start_lo.get()) | u64::from(extent.ee_start_hi.get()) << 32;
        let first = u64::from(extent.ee_block.get());
        let right = (1..=u64::from(EXT_INIT_MAX_LEN)).contains(&count)
            && self.follows(first)
            && start > 0
            && start + count <= self.blocks
            // Their sum is bounded by the blocks of the filesystem, so that reading a file ends.
            && self.stored + count <= self.blocks;
        if right {
            if !unwritten {
                self.mapped.runs.push((first, start..start + count));
            }
            self.stored += count;
            self.mapped.len = first + count;
        }
        right.then_some(())
    }
}
