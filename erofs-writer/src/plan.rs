//! What goes where in the metadata area. Pure: reads the tree, writes nothing.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::ops::Range;

use crate::format::{
    BLOCK_MAP_ENTRY_SIZE, ChunkIndex, ISLOT, InodeCompact, InodeExtended, S_IFDIR, S_IFLNK,
};
use crate::tree::{Inode, ROOT, SortedTree};
use crate::xattr::XattrPlan;
use crate::{BlockSize, InodeLayout, Options, Timestamp, directory};

/// Where everything in the metadata area goes. Positions are bytes from its start, a block border.
#[derive(Debug)]
pub(crate) struct Plan {
    /// The time that compact inodes have.
    pub(crate) epoch: Timestamp,
    /// Inodes in the order of the disk, roughly: that of a scan.
    pub(crate) order: Vec<u32>,
    /// Each inode's number.
    pub(crate) nids: Vec<u64>,
    /// Where the blocks of directories and long symbolic links begin.
    pub(crate) blocks_at: u64,
    /// The first block after `blocks_at` of each long symbolic link.
    pub(crate) symlink_blocks: HashMap<u32, u64>,
    /// Where the shared xattrs begin.
    pub(crate) shared_at: u64,
    /// The area's length, whole blocks.
    pub(crate) length: u64,
}

impl Plan {
    /// Plans, and notes in the tree's inodes: their forms, directories' sizes, and first blocks after `blocks_at`.
    pub(crate) fn new(tree: &mut SortedTree, xattrs: &XattrPlan, options: &Options) -> Self {
        let block_size = options.block_size;
        let order = scan_order(tree);
        for &i in &order {
            if tree.inode(i).is_dir() {
                let lengths = tree.entries(i).map(|(name, _)| name.len());
                tree.inode_mut(i).size = directory::size(lengths, block_size.bytes());
            }
        }
        let epoch = options.epoch.unwrap_or_else(|| commonest_mtime(tree));
        let mut packer = Packer::new(block_size);
        let mut nids = vec![0; order.len()];
        let mut blocks = 0;
        let mut symlink_blocks = HashMap::new();
        for &i in &order {
            let inode = tree.inode_mut(i);
            inode.flags.compact = match options.inodes {
                InodeLayout::Extended => false,
                InodeLayout::Auto => fits_compact(inode) && inode.mtime() == epoch,
                InodeLayout::Compact => fits_compact(inode),
            };
            let head = inode_size(inode) + xattrs.body(inode.xattrs).len() as u64;
            let tail = inline_tail(inode, head, block_size);
            inode.flags.inline = tail > 0;
            let size = match chunk_map(inode, head, options) {
                Some(map) => map.end,
                None => head + tail,
            };
            nids[i as usize] = packer.place(size, tail > 0) / ISLOT;
            if let Some(count) = own_blocks(inode, block_size) {
                if inode.is_dir() {
                    inode.payload = blocks;
                } else if count > 0 {
                    symlink_blocks.insert(i, blocks);
                }
                blocks += count;
            }
        }
        let blocks_at = block_size.align(packer.end);
        let shared_at = blocks_at + block_size.position(blocks);
        Self {
            epoch,
            order,
            nids,
            blocks_at,
            symlink_blocks,
            shared_at,
            length: block_size.align(shared_at + xattrs.area.len() as u64),
        }
    }

    /// Where the whole blocks of a directory or symbolic link begin, if it has any.
    pub(crate) fn own_blocks_at(&self, index: u32, inode: &Inode, block_size: BlockSize) -> u64 {
        let block = match inode.kind() {
            S_IFDIR => inode.payload,
            _ => self.symlink_blocks.get(&index).copied().unwrap_or_default(),
        };
        self.blocks_at + block_size.position(block)
    }
}

/// Where the chunks' addresses stand, from the start of an inode with `head` bytes of inode and xattrs.
pub(crate) fn chunk_map(inode: &Inode, head: u64, options: &Options) -> Option<Range<u64>> {
    let size = inode.chunk_size()?.bytes(options.block_size);
    let entry = chunk_entry(options);
    let start = head.next_multiple_of(entry);
    Some(start..start + inode.size.div_ceil(size) * entry)
}

/// The bytes of a chunk's address.
fn chunk_entry(options: &Options) -> u64 {
    if options.chunk_indexes {
        size_of::<ChunkIndex>() as u64
    } else {
        BLOCK_MAP_ENTRY_SIZE
    }
}

/// The bytes of the inode itself.
pub(crate) fn inode_size(inode: &Inode) -> u64 {
    if inode.flags.compact {
        size_of::<InodeCompact>() as u64
    } else {
        size_of::<InodeExtended>() as u64
    }
}

/// How many blocks behind the inodes are this inode's; `None` for those whose blocks are not metadata.
fn own_blocks(inode: &Inode, block_size: BlockSize) -> Option<u64> {
    match (inode.kind(), inode.flags.inline) {
        (S_IFDIR | S_IFLNK, false) => Some(block_size.count(inode.size)),
        (S_IFDIR | S_IFLNK, true) => Some(inode.size >> block_size.bits()),
        _ => None,
    }
}

/// The bytes of a partial last block that follow the `head` bytes of inode and xattrs; 0 where none do.
///
/// A tail must not cross a block border. Of a symbolic link, kernels before 6.14 also want inode, xattrs and target in one
/// block, and the target shorter than a block. So inlined is what fits into one block with all that goes before.
fn inline_tail(inode: &Inode, head: u64, block_size: BlockSize) -> u64 {
    let block = u64::from(block_size.bytes());
    let tail = match inode.kind() {
        S_IFDIR => inode.size % block,
        S_IFLNK => inode.size,
        _ => 0,
    };
    if head + tail <= block { tail } else { 0 }
}

/// Whether a compact inode loses nothing but the modification time.
fn fits_compact(inode: &Inode) -> bool {
    inode.uid <= u32::from(u16::MAX)
        && inode.gid <= u32::from(u16::MAX)
        && inode.nlink <= u32::from(u16::MAX)
        && inode.size <= u64::from(u32::MAX)
}

/// The commonest modification time of those inodes that can be compact; the earliest of several.
fn commonest_mtime(tree: &SortedTree) -> Timestamp {
    let mut counts = HashMap::new();
    for inode in tree.inodes().iter().filter(|inode| fits_compact(inode)) {
        *counts.entry(inode.mtime()).or_insert(0_u32) += 1;
    }
    counts
        .into_iter()
        .max_by_key(|&(mtime, count)| (count, Reverse(mtime)))
        .map_or_else(Timestamp::default, |(mtime, _)| mtime)
}

/// The root, then directory by directory the inodes of its entries, each where it is met first. A scan that lists a
/// directory, asks for the attributes of everything in it and then descends goes straight through the inodes.
fn scan_order(tree: &SortedTree) -> Vec<u32> {
    let mut order = Vec::with_capacity(tree.inodes().len());
    let mut placed = vec![false; tree.inodes().len()];
    order.push(ROOT);
    let mut pending = vec![ROOT];
    while let Some(directory) = pending.pop() {
        let first = order.len();
        let new = |&i: &u32| !std::mem::replace(&mut placed[i as usize], true);
        order.extend(tree.children(directory).filter(new));
        let directories = order[first..].iter().rev();
        pending.extend(directories.filter(|&&i| tree.inode(i).is_dir()));
    }
    order
}

/// Packs inodes one behind the other, and small ones into the gaps that a block border forced.
#[derive(Debug)]
struct Packer {
    block: u64,
    end: u64,
    gaps: Vec<Gap>,
}

#[derive(Clone, Copy, Debug)]
struct Gap {
    start: u64,
    end: u64,
}

impl Packer {
    /// Gaps kept open. Enough to waste next to nothing, few enough that an inode stays near its neighbours.
    const GAPS: usize = 16;

    fn new(block_size: BlockSize) -> Self {
        Self {
            block: u64::from(block_size.bytes()),
            // Inode number 0 means "no entry" to those who read directories.
            end: ISLOT,
            gaps: Vec::with_capacity(Self::GAPS),
        }
    }

    /// The place of `size` bytes, in one block where `whole`.
    fn place(&mut self, size: u64, whole: bool) -> u64 {
        let size = size.next_multiple_of(ISLOT);
        if let Some(i) = self.gaps.iter().position(|gap| gap.end - gap.start >= size) {
            let gap = &mut self.gaps[i];
            let at = gap.start;
            gap.start += size;
            if gap.start == gap.end {
                self.gaps.remove(i);
            }
            return at;
        }
        let border = (self.end + 1).next_multiple_of(self.block);
        if whole && self.end + size > border {
            if self.gaps.len() == Self::GAPS {
                self.gaps.remove(0);
            }
            self.gaps.push(Gap {
                start: self.end,
                end: border,
            });
            self.end = border;
        }
        let at = self.end;
        self.end += size;
        at
    }
}
