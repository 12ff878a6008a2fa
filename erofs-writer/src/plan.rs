//! The layout of the metadata area. Planning reads the tree and writes nothing.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::ops::Range;

use crate::compress::{self, Compressed, Contents};
use crate::format::{
    BLOCK_MAP_ENTRY_SIZE, ChunkIndex, ISLOT, InodeCompact, InodeExtended, S_IFDIR, S_IFLNK, S_IFREG,
};
use crate::tree::{Inode, ROOT, SortedTree};
use crate::xattr::XattrPlan;
use crate::{Addresses, BlockSize, InodeLayout, Options, Timestamp, directory};

/// The layout options that planning and emitting share.
#[derive(Debug)]
pub(crate) struct Form<'a> {
    pub(crate) options: &'a Options,
    /// Blocks may have addresses of more than 32 bits.
    pub(crate) far: bool,
    /// Chunks have indexes of eight bytes, not addresses of four.
    pub(crate) chunk_indexes: bool,
    /// Contents that were submitted to the compressing threads.
    contents: &'a Contents,
}

impl<'a> Form<'a> {
    pub(crate) fn new(options: &'a Options, contents: &'a Contents, beyond_32_bits: bool) -> Self {
        let far = beyond_32_bits && options.addresses == Addresses::Bits48;
        Self {
            options,
            far,
            chunk_indexes: options.chunk_indexes || far,
            contents,
        }
    }

    /// The number of blocks that can be addressed.
    pub(crate) fn limit(&self) -> u64 {
        match self.far {
            true => self.options.addresses.limit(),
            false => Addresses::Bits32.limit(),
        }
    }

    /// The offset of the chunks' addresses from the start of an inode with `head` bytes of inode
    /// and xattrs.
    pub(crate) fn chunk_map(&self, inode: &Inode, head: u64) -> Option<Range<u64>> {
        let size = inode.chunk_size()?.bytes(self.options.block_size);
        let entry = match self.chunk_indexes {
            true => size_of::<ChunkIndex>() as u64,
            false => BLOCK_MAP_ENTRY_SIZE,
        };
        let start = head.next_multiple_of(entry);
        Some(start..start + inode.size.div_ceil(size) * entry)
    }

    /// The inode's contents, if they are compressed.
    pub(crate) fn compressed(&self, inode: &Inode) -> Option<Compressed> {
        match inode.flags.compressed {
            true => self.contents.compressed(inode.payload),
            false => None,
        }
    }

    /// The offset of the indexes of compressed contents from the start of an inode at `at` of the
    /// metadata area with `head` bytes of inode and xattrs.
    pub(crate) fn compressed_map(&self, contents: &Compressed, at: u64, head: u64) -> Range<u64> {
        let start = head.next_multiple_of(8);
        let block_size = self.options.block_size;
        let full = self.full_indexes(contents);
        start..start + compress::map_length(contents, at + start, block_size, full)
    }

    /// Whether compressed contents have indexes that are not packed: kernels pack only those of
    /// small blocks.
    pub(crate) fn full_indexes(&self, contents: &Compressed) -> bool {
        self.options.full_indexes
            || self.options.block_size > BlockSize::B4096
            || contents.needs_full_indexes()
    }

    /// Whether the inode's compact form loses nothing.
    fn is_compact(&self, inode: &Inode, epoch: Timestamp) -> bool {
        match self.options.inodes {
            InodeLayout::Extended => false,
            InodeLayout::Auto => self.fits_compact(inode) && self.mtime_fits(inode, epoch),
            InodeLayout::Compact => self.fits_compact(inode),
        }
    }

    /// Whether a compact inode loses nothing but the modification time.
    fn fits_compact(&self, inode: &Inode) -> bool {
        let id = u32::from(u16::MAX);
        inode.uid <= id
            && inode.gid <= id
            && inode.nlink <= id
            && inode.size <= u32::MAX.into()
            // The upper bits of an address take the place of the number of links.
            && !(self.far && has_address(inode) && (inode.is_dir() || inode.nlink > 1))
    }

    fn mtime_fits(&self, inode: &Inode, epoch: Timestamp) -> bool {
        let mtime = inode.mtime();
        mtime == epoch || self.offset_from(epoch, mtime).is_some()
    }

    /// A compact inode's `i_mtime`, which only those kernels read that read 48-bit addresses.
    fn offset_from(&self, epoch: Timestamp, mtime: Timestamp) -> Option<u32> {
        let offset = mtime.secs.checked_sub(epoch.secs)?;
        let known = self.options.addresses == Addresses::Bits48 && mtime.nanos == epoch.nanos;
        known.then(|| offset.try_into().ok())?
    }

    /// A compact inode's `i_mtime`.
    pub(crate) fn compact_mtime(&self, epoch: Timestamp, inode: &Inode) -> u32 {
        self.offset_from(epoch, inode.mtime()).unwrap_or(0)
    }

    /// The time that makes most inodes compact: the commonest time, the earliest of several. If
    /// later times can be represented too, it is the earliest of the last 68 years before it.
    fn epoch(&self, tree: &SortedTree) -> Timestamp {
        let mut counts = HashMap::new();
        let candidates = || {
            tree.inodes()
                .iter()
                .filter(|inode| self.fits_compact(inode))
        };
        for inode in candidates() {
            *counts.entry(inode.mtime()).or_insert(0_u32) += 1;
        }
        let commonest = counts
            .into_iter()
            .max_by_key(|&(mtime, count)| (count, Reverse(mtime)))
            .map_or_else(Timestamp::default, |(mtime, _)| mtime);
        if self.options.addresses != Addresses::Bits48 {
            return commonest;
        }
        let before = commonest.secs.saturating_sub(i32::MAX.into())..=commonest.secs;
        candidates()
            .map(Inode::mtime)
            .filter(|mtime| mtime.nanos == commonest.nanos && before.contains(&mtime.secs))
            .min()
            .unwrap_or(commonest)
    }
}

/// Whether the inode may name a block.
fn has_address(inode: &Inode) -> bool {
    matches!(inode.kind(), S_IFREG | S_IFDIR | S_IFLNK)
        && inode.size > 0
        && inode.chunk_size().is_none()
}

/// The layout of the metadata area. Positions are bytes from its start, a block border.
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
    /// Plans the area, and sets in the tree's inodes: their forms, directories' sizes, and first
    /// blocks after `blocks_at`.
    pub(crate) fn new(tree: &mut SortedTree, xattrs: &XattrPlan, form: &Form<'_>) -> Self {
        // Inode number 0 means "no entry" to those who read directories.
        Self::from_start(ISLOT, tree, xattrs, form)
    }

    /// A plan of an area that begins with the image's first block, after the superblock and its
    /// tables, which end at `end`, if it ends in that block or, where the image is to be `empty` of
    /// contents, anywhere: that saves a block.
    pub(crate) fn beside_superblock(
        end: u64,
        empty: bool,
        tree: &mut SortedTree,
        xattrs: &XattrPlan,
        form: &Form<'_>,
    ) -> Option<Self> {
        let block = u64::from(form.options.block_size.bytes());
        let least = tree.inodes().len() as u64 * size_of::<InodeCompact>() as u64;
        if end >= block || !(empty || end + least <= block) {
            return None;
        }
        let plan = Self::from_start(end.next_multiple_of(ISLOT), tree, xattrs, form);
        (empty || plan.length == block).then_some(plan)
    }

    /// Plans inodes from `start` of the area on.
    fn from_start(start: u64, tree: &mut SortedTree, xattrs: &XattrPlan, form: &Form<'_>) -> Self {
        let block_size = form.options.block_size;
        let order = scan_order(tree);
        for &i in &order {
            if tree.inode(i).is_dir() {
                let lengths = tree.entries(i).map(|(name, _)| name.len());
                tree.inode_mut(i).size = directory::size(lengths, block_size.bytes());
            }
        }
        let epoch = form.options.epoch.unwrap_or_else(|| form.epoch(tree));
        let mut packer = Packer::new(block_size, start);
        let mut nids = vec![0; order.len()];
        let mut blocks = 0;
        let mut symlink_blocks = HashMap::new();
        for &i in &order {
            let inode = tree.inode_mut(i);
            inode.flags.compact = form.is_compact(inode, epoch);
            let head = inode_size(inode) + xattrs.body(inode.xattrs).len() as u64;
            let tail = inline_tail(inode, head, block_size);
            inode.flags.inline = tail > 0;
            let at = if let Some(contents) = form.compressed(inode) {
                // Its length only depends on the position within a slot, and inodes begin at slots.
                let map = form.compressed_map(&contents, 0, head);
                match contents.inline_length() {
                    0 => packer.place(map.end),
                    cluster => packer.place_with_tail(map.end, cluster),
                }
            } else if let Some(map) = form.chunk_map(inode, head) {
                packer.place(map.end)
            } else if tail > 0 {
                packer.place_with_tail(head, tail)
            } else {
                packer.place(head)
            };
            nids[i as usize] = at / ISLOT;
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

/// The bytes of the inode itself.
pub(crate) fn inode_size(inode: &Inode) -> u64 {
    if inode.flags.compact {
        size_of::<InodeCompact>() as u64
    } else {
        size_of::<InodeExtended>() as u64
    }
}

/// How many blocks after the inodes are this inode's; `None` for those whose blocks are not
/// metadata.
fn own_blocks(inode: &Inode, block_size: BlockSize) -> Option<u64> {
    match (inode.kind(), inode.flags.inline) {
        (S_IFDIR | S_IFLNK, false) => Some(block_size.count(inode.size)),
        (S_IFDIR | S_IFLNK, true) => Some(inode.size >> block_size.bits()),
        _ => None,
    }
}

/// The bytes of a partial last block that follow the `head` bytes of inode and xattrs; 0 where none
/// do.
///
/// A tail must not cross a block border. Of a symbolic link, kernels before 6.14 also want inode,
/// xattrs and target in one block, and the target shorter than a block: so only what fits is
/// inlined. A directory may as well have a block. But the tail of a regular file has no other
/// place.
fn inline_tail(inode: &Inode, head: u64, block_size: BlockSize) -> u64 {
    let block = u64::from(block_size.bytes());
    let fits = |tail| if head + tail <= block { tail } else { 0 };
    match inode.kind() {
        S_IFREG if inode.flags.inline => inode.size % block,
        S_IFDIR => fits(inode.size % block),
        S_IFLNK => fits(inode.size),
        _ => 0,
    }
}

/// The root, then directory by directory the inodes of its entries, each where it is met first. A
/// scan that lists a directory, asks for the attributes of everything in it and then descends goes
/// straight through the inodes.
pub(crate) fn scan_order(tree: &SortedTree) -> Vec<u32> {
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
    // Inodes without a name.
    order.extend(
        (0..)
            .zip(&placed)
            .skip(1)
            .filter(|(_, placed)| !**placed)
            .map(|(i, _)| i),
    );
    order
}

/// Packs inodes one after the other, and small ones into the gaps that a block border forced.
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
    /// The number of gaps kept open: enough to waste almost nothing, few enough that an inode stays
    /// near its neighbours.
    const GAPS: usize = 16;

    fn new(block_size: BlockSize, start: u64) -> Self {
        Self {
            block: u64::from(block_size.bytes()),
            end: start,
            gaps: Vec::with_capacity(Self::GAPS),
        }
    }

    /// The place of `size` bytes that can cross block borders.
    fn place(&mut self, size: u64) -> u64 {
        let size = size.next_multiple_of(ISLOT);
        self.fill_gap(size).unwrap_or_else(|| self.append(size))
    }

    /// The place of `head` bytes and a tail after them that does not cross a block border: all in
    /// one block where they fit.
    fn place_with_tail(&mut self, head: u64, tail: u64) -> u64 {
        let size = (head + tail).next_multiple_of(ISLOT);
        if head + tail <= self.block {
            return self.fill_gap(size).unwrap_or_else(|| {
                let border = (self.end + 1).next_multiple_of(self.block);
                if self.end + size > border {
                    self.skip_to(border);
                }
                self.append(size)
            });
        }
        let tail_at = self.end + head;
        if tail_at % self.block + tail > self.block {
            // The head ends at the next border, or less than a slot after it.
            let at = tail_at.next_multiple_of(self.block) - head;
            self.skip_to(at.next_multiple_of(ISLOT));
        }
        self.append(size)
    }

    fn append(&mut self, size: u64) -> u64 {
        let at = self.end;
        self.end += size;
        at
    }

    /// Leaves a gap, or one in each block where there is a border in between.
    fn skip_to(&mut self, to: u64) {
        while self.end < to {
            let border = (self.end + 1).next_multiple_of(self.block);
            if self.gaps.len() == Self::GAPS {
                self.gaps.remove(0);
            }
            self.gaps.push(Gap {
                start: self.end,
                end: border.min(to),
            });
            self.end = border.min(to);
        }
    }

    /// The place of `size` bytes in a gap, which is within one block.
    fn fill_gap(&mut self, size: u64) -> Option<u64> {
        let i = self
            .gaps
            .iter()
            .position(|gap| gap.end - gap.start >= size)?;
        let gap = &mut self.gaps[i];
        let at = gap.start;
        gap.start += size;
        if gap.start == gap.end {
            self.gaps.remove(i);
        }
        Some(at)
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn places_do_not_overlap_and_tails_cross_no_border(
            bits in 9..=12_u32,
            records in vec((prop_oneof![Just(32_u64), Just(64), (8..300_u64).prop_map(|n| n * 4)], 0..4096_u64), 1..200),
        ) {
            let block_size = BlockSize::new(1 << bits).unwrap();
            let block = u64::from(block_size.bytes());
            let mut packer = Packer::new(block_size, ISLOT);
            let mut taken = Vec::new();
            for (head, tail) in records {
                let tail = tail.min(block_size.tail_max());
                let at = if tail > 0 { packer.place_with_tail(head, tail) } else { packer.place(head) };
                prop_assert_eq!(at % ISLOT, 0);
                let tail_at = at + head;
                prop_assert!(tail == 0 || tail_at / block == (tail_at + tail - 1) / block);
                if tail > 0 && head + tail <= block {
                    prop_assert_eq!(at / block, (tail_at + tail - 1) / block);
                }
                taken.push((at, at + head + tail));
            }
            taken.sort_unstable();
            prop_assert!(taken[0].0 >= ISLOT);
            prop_assert!(taken.windows(2).all(|pair| pair[0].1 <= pair[1].0));
            prop_assert!(taken.iter().all(|&(_, end)| end <= packer.end));
        }
    }

    #[test]
    fn small_inodes_fill_the_gaps_that_tails_leave() {
        let mut packer = Packer::new(BlockSize::B512, ISLOT);
        for _ in 0..1000 {
            packer.place_with_tail(32, 330);
            packer.place(64);
            packer.place(64);
        }
        // All but the last block and the first slot.
        assert!(packer.end <= 1000 * 512 + 512, "{}", packer.end);
    }
}
