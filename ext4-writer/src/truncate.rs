//! Truncating a file's extent tree.

use std::io::{Read, Seek};
use std::ops::Range;

use zerocopy::{FromBytes, IntoBytes};

use crate::Error;
use crate::checksum::Checksum;
use crate::format::{EXT_INIT_MAX_LEN, Extent, ExtentHeader, ExtentIdx};
use crate::info::read_at;
use crate::mapped::{MAX_DEPTH, header};
use crate::volume::corrupt;

const ENTRY: usize = 12;
/// Entries of the root, in `i_block`.
const ROOT_ENTRIES: usize = 4;

/// The result of truncating a file.
#[derive(Debug)]
pub(crate) struct Cut {
    /// The new `i_block`.
    pub(crate) root: [u8; 60],
    /// The nodes that change: their blocks and new contents.
    pub(crate) nodes: Vec<(u64, Vec<u8>)>,
    /// Blocks that become free.
    pub(crate) freed: Vec<Range<u64>>,
    /// The place of the last block that is kept, if it was written.
    pub(crate) last: Option<u64>,
}

/// Plans the truncation of a file to its first `keep` blocks, in a filesystem of `blocks` blocks.
/// The checksums of its nodes start from `seed`, and `offset` is the position of its inode.
pub(crate) fn cut(
    image: &mut (impl Read + Seek),
    i_block: &[u8; 60],
    offset: u64,
    seed: Checksum,
    (block_size, blocks): (u32, u64),
    keep: u64,
) -> Result<Cut, Error> {
    let depth = header(i_block, ROOT_ENTRIES)
        .map(|header| header.eh_depth.get())
        .filter(|depth| *depth <= MAX_DEPTH)
        .ok_or_else(|| corrupt("ext4_extent_header", offset))?;
    let mut cutter = Cutter {
        image,
        seed,
        block_size,
        blocks,
        keep,
        left: blocks,
        cut: Cut {
            root: *i_block,
            nodes: Vec::new(),
            freed: Vec::new(),
            last: None,
        },
    };
    let mut root = *i_block;
    if cutter.node(&mut root, offset, depth)? == 0 {
        // An empty tree has no levels.
        let empty = ExtentHeader {
            eh_depth: 0.into(),
            ..header(&root, ROOT_ENTRIES).ok_or_else(|| corrupt("ext4_extent_header", offset))?
        };
        root[..ENTRY].copy_from_slice(empty.as_bytes());
    }
    cutter.cut.root = root;
    Ok(cutter.cut)
}

struct Cutter<'a, I> {
    image: &'a mut I,
    seed: Checksum,
    block_size: u32,
    blocks: u64,
    keep: u64,
    /// How many blocks the file may still have: no more than the filesystem.
    left: u64,
    cut: Cut,
}

impl<I: Read + Seek> Cutter<'_, I> {
    /// Removes truncated entries from a node, and returns the number of entries left.
    fn node(&mut self, node: &mut [u8], offset: u64, depth: u16) -> Result<u16, Error> {
        let wrong = || corrupt("ext4_extent_header", offset);
        let mut header = header(node, node.len() / ENTRY - 1)
            .filter(|header| header.eh_depth.get() == depth)
            .ok_or_else(wrong)?;
        let mut left = 0;
        for entry in node[ENTRY..]
            .chunks_exact_mut(ENTRY)
            .take(header.eh_entries.get().into())
        {
            let kept = match depth {
                0 => self.extent(entry).ok_or_else(wrong)?,
                _ => self
                    .child(entry, depth - 1)
                    .and_then(|kept| kept.ok_or_else(wrong))?,
            };
            // Entries are in ascending order, so the kept ones come first.
            left += u16::from(kept);
        }
        header.eh_entries = left.into();
        node[..ENTRY].copy_from_slice(header.as_bytes());
        Ok(left)
    }

    /// Counts blocks of the file; `None` where they cannot be.
    fn take(&mut self, blocks: &Range<u64>) -> Option<()> {
        self.left = self.left.checked_sub(blocks.end - blocks.start)?;
        (blocks.start > 0 && blocks.end <= self.blocks).then_some(())
    }

    /// Whether anything of an extent is kept; `None` where it cannot be.
    fn extent(&mut self, entry: &mut [u8]) -> Option<bool> {
        let mut extent = Extent::read_from_bytes(entry).ok()?;
        let start = u64::from(extent.ee_start_lo.get()) | u64::from(extent.ee_start_hi.get()) << 32;
        let stored = u32::from(extent.ee_len.get());
        // A larger length is that of an extent which is not written yet.
        let unwritten = stored > EXT_INIT_MAX_LEN;
        let flag = if unwritten { EXT_INIT_MAX_LEN } else { 0 };
        let count = u64::from(stored - flag);
        let first = u64::from(extent.ee_block.get());
        let blocks = start..start + count;
        self.take(&blocks)?;
        if count == 0 {
            return None;
        }
        let kept = self.keep.saturating_sub(first).min(count);
        if kept < count {
            self.cut.freed.push(start + kept..blocks.end);
            extent.ee_len = ((kept as u32 + flag) as u16).into();
            entry.copy_from_slice(extent.as_bytes());
        }
        if first + kept == self.keep && kept > 0 && !unwritten {
            self.cut.last = Some(start + kept - 1);
        }
        Some(kept > 0)
    }

    /// Whether anything below an index entry is kept; `None` where its node cannot be.
    fn child(&mut self, entry: &[u8], depth: u16) -> Result<Option<bool>, Error> {
        let Ok(index) = ExtentIdx::read_from_bytes(entry) else {
            return Ok(None);
        };
        let block = u64::from(index.ei_leaf_lo.get()) | u64::from(index.ei_leaf_hi.get()) << 32;
        let Some(end) = block.checked_add(1) else {
            return Ok(None);
        };
        if self.take(&(block..end)).is_none() {
            return Ok(None);
        }
        let at = block * u64::from(self.block_size);
        let mut bytes = vec![0; self.block_size as usize];
        read_at(self.image, at, &mut bytes)?;
        // The checksum is after the entries there is room for.
        let covered = (bytes.len() - 4) / ENTRY * ENTRY;
        let sum = |bytes: &[u8]| self.seed.add(bytes).value().to_le_bytes();
        if bytes[covered..].first_chunk() != Some(&sum(&bytes[..covered])) {
            return Err(corrupt("ext4_extent_tail", at));
        }
        let before = bytes.clone();
        if self.node(&mut bytes[..covered], at, depth)? == 0 {
            self.cut.freed.push(block..end);
            return Ok(Some(false));
        }
        if bytes != before {
            let sum = self.seed.add(&bytes[..covered]).value().to_le_bytes();
            bytes[covered..covered + 4].copy_from_slice(&sum);
            self.cut.nodes.push((block, bytes));
        }
        Ok(Some(true))
    }
}
