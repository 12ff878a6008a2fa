//! Extent trees: the maps of files to blocks.

use std::ops::Range;

use zerocopy::IntoBytes;

use crate::checksum::Checksum;
use crate::format::{EXT_INIT_MAX_LEN, EXT4_EXT_MAGIC, Extent, ExtentHeader, ExtentIdx};

/// Entries of 12 bytes, and the header of the same size before them.
const ENTRY: usize = 12;
/// The entries that fit in an inode's `i_block`.
const ROOT_ENTRIES: usize = 4;

/// Adjacent blocks of a file that are adjacent in the filesystem.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    /// The first block in the file.
    pub(crate) logical: u32,
    /// The blocks in the filesystem.
    pub(crate) physical: Range<u64>,
}

/// A file's runs in ascending order of their logical blocks.
#[derive(Clone, Debug, Default)]
pub(crate) struct Map {
    runs: Vec<Run>,
}

impl Map {
    /// Appends blocks; `logical` must be after all blocks that are mapped.
    pub(crate) fn push(&mut self, logical: u32, physical: Range<u64>) {
        if let Some(last) = self.runs.last_mut() {
            let count = last.physical.end - last.physical.start;
            if u64::from(last.logical) + count == u64::from(logical)
                && last.physical.end == physical.start
            {
                last.physical.end = physical.end;
                return;
            }
        }
        self.runs.push(Run { logical, physical });
    }

    /// The blocks mapped, in the order of the file.
    pub(crate) fn physical(&self) -> impl Iterator<Item = Range<u64>> {
        self.runs.iter().map(|run| run.physical.clone())
    }

    /// The block after the last one.
    pub(crate) fn end(&self) -> Option<u64> {
        self.runs.last().map(|run| run.physical.end)
    }

    fn extents(&self) -> Vec<Entry> {
        let mut extents = Vec::new();
        for run in &self.runs {
            let mut logical = run.logical;
            let mut start = run.physical.start;
            while start < run.physical.end {
                let count = (run.physical.end - start).min(EXT_INIT_MAX_LEN.into());
                extents.push(Entry {
                    logical,
                    physical: start,
                    count: count as u16,
                });
                start += count;
                logical = logical.wrapping_add(count as u32);
            }
        }
        extents
    }

    /// Plans the tree. `allocate` gives a block for each node below the root.
    pub(crate) fn tree<E>(
        &self,
        block_size: u32,
        seed: Checksum,
        mut allocate: impl FnMut() -> Result<u64, E>,
    ) -> Result<Tree, E> {
        let capacity = (block_size as usize - ENTRY) / ENTRY;
        let mut level = self.extents();
        let mut depth = 0;
        let mut nodes = Vec::new();
        while level.len() > ROOT_ENTRIES {
            let mut above = Vec::with_capacity(level.len().div_ceil(capacity));
            for entries in level.chunks(capacity) {
                let block = allocate()?;
                let mut bytes = encode(entries, capacity, depth);
                bytes.resize(ENTRY + capacity * ENTRY, 0);
                let checksum = seed.add(&bytes).value();
                bytes.extend_from_slice(&checksum.to_le_bytes());
                bytes.resize(block_size as usize, 0);
                above.push(Entry {
                    logical: entries[0].logical,
                    physical: block,
                    count: 0,
                });
                nodes.push((block, bytes));
            }
            level = above;
            depth += 1;
        }
        let mut root = [0; 60];
        let bytes = encode(&level, ROOT_ENTRIES, depth);
        root[..bytes.len()].copy_from_slice(&bytes);
        Ok(Tree { root, nodes })
    }
}

/// An encoded extent tree.
#[derive(Clone, Debug)]
pub(crate) struct Tree {
    /// The inode's `i_block`.
    pub(crate) root: [u8; 60],
    /// The blocks below it, and their contents.
    pub(crate) nodes: Vec<(u64, Vec<u8>)>,
}

/// An extent, or, above the leaves, the index of one node.
#[derive(Clone, Copy, Debug)]
struct Entry {
    logical: u32,
    physical: u64,
    count: u16,
}

fn encode(entries: &[Entry], capacity: usize, depth: u16) -> Vec<u8> {
    let header = ExtentHeader {
        eh_magic: EXT4_EXT_MAGIC.into(),
        eh_entries: (entries.len() as u16).into(),
        eh_max: (capacity as u16).into(),
        eh_depth: depth.into(),
        eh_generation: 0.into(),
    };
    let mut bytes = header.as_bytes().to_vec();
    for entry in entries {
        let (low, high) = (entry.physical as u32, (entry.physical >> 32) as u16);
        if depth == 0 {
            let extent = Extent {
                ee_block: entry.logical.into(),
                ee_len: entry.count.into(),
                ee_start_hi: high.into(),
                ee_start_lo: low.into(),
            };
            bytes.extend_from_slice(extent.as_bytes());
        } else {
            let index = ExtentIdx {
                ei_block: entry.logical.into(),
                ei_leaf_lo: low.into(),
                ei_leaf_hi: high.into(),
                ei_unused: 0.into(),
            };
            bytes.extend_from_slice(index.as_bytes());
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    fn tree(map: &Map) -> Tree {
        let mut next = 1000;
        map.tree(1024, Checksum::START, || {
            next += 1;
            Ok::<_, Infallible>(next)
        })
        .unwrap()
    }

    #[test]
    fn adjacent_pieces_become_one_extent_of_at_most_32768_blocks() {
        let mut map = Map::default();
        map.push(0, 100..200);
        map.push(100, 200..40_000);
        assert_eq!(map.runs.len(), 1);
        assert!(map.physical().eq(std::iter::once(100..40_000)));
        assert_eq!(map.extents().len(), 2);
    }

    #[test]
    fn more_than_four_extents_grow_the_tree_level_by_level() {
        for (extents, nodes, depth) in [(4, 0, 0), (5, 1, 1), (4 * 84, 4, 1), (4 * 84 + 1, 6, 2)] {
            let mut map = Map::default();
            for i in 0..extents {
                map.push(i * 2, u64::from(i) * 3 + 10..u64::from(i) * 3 + 11);
            }
            let tree = tree(&map);
            assert_eq!(
                (tree.nodes.len(), tree.root[6]),
                (nodes, depth),
                "{extents}"
            );
        }
    }
}
