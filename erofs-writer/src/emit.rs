//! Writing the metadata area as planned.

use zerocopy::IntoBytes;

use crate::chunks::ChunkPlace;
use crate::compress::{self, Compressed};
use crate::file_data::Tail;
use crate::format::{
    BLOCK_MAP_ENTRY_SIZE, CHUNK_FORMAT_48BIT, CHUNK_FORMAT_INDEXES, ChunkIndex, I_DATALAYOUT_BIT,
    I_NLINK_1_BIT, INODE_CHUNK_BASED, INODE_COMPRESSED_COMPACT, INODE_COMPRESSED_FULL,
    INODE_FLAT_INLINE, INODE_FLAT_PLAIN, INODE_LAYOUT_COMPACT, INODE_LAYOUT_EXTENDED, ISLOT,
    InodeCompact, InodeExtended, S_IFBLK, S_IFCHR, S_IFDIR, S_IFLNK, S_IFREG, file_type,
};
use crate::plan::{Form, Plan, inode_size};
use crate::tree::{Inode, SortedTree};
use crate::xattr::{XattrPlan, icount};
use crate::{BlockSize, directory};

/// The inputs of the metadata area's bytes.
#[derive(Debug)]
pub(crate) struct Emitter<'a> {
    pub(crate) tree: &'a SortedTree,
    pub(crate) xattrs: &'a XattrPlan,
    pub(crate) plan: &'a Plan,
    pub(crate) form: &'a Form<'a>,
    /// The block with which the metadata area begins.
    pub(crate) meta_block: u64,
    /// What is added to the plan's inode numbers.
    pub(crate) nid_base: u64,
    /// The first block of each device in the unified address space, the image itself being the
    /// first.
    pub(crate) device_starts: &'a [u64],
    /// The places of all chunks of all files.
    pub(crate) chunks: &'a [ChunkPlace],
    /// The contents whose last, partial block stands after the inode.
    pub(crate) tails: &'a [Tail],
    /// The bytes of tails and clusters that stand after inodes.
    pub(crate) kept: &'a [u8],
}

impl Emitter<'_> {
    /// The whole metadata area.
    pub(crate) fn emit(&self) -> Vec<u8> {
        let mut area = vec![0; self.plan.length as usize];
        for (number, &index) in self.plan.order.iter().enumerate() {
            let inode = self.tree.inode(index);
            let start = (self.plan.nids[index as usize] * ISLOT) as usize;
            // Numbers begin with 1, since 0 is not a valid inode number.
            let compressed = self.form.compressed(inode);
            let compressed = compressed.as_ref();
            self.put_inode(&mut area[start..], index, compressed, number as u32 + 1);
            let body = self.xattrs.body(inode.xattrs);
            put(&mut area, start + inode_size(inode) as usize, body);
            let head = inode_size(inode) + body.len() as u64;
            let at = start + head as usize;
            if inode.is_dir() {
                self.put_directory(&mut area, index, at);
            } else if let Some(map) = self.form.chunk_map(inode, head) {
                self.put_chunks(
                    &mut area[start + map.start as usize..start + map.end as usize],
                    inode,
                );
            } else if let Some(contents) = compressed {
                let map = self.form.compressed_map(contents, start as u64, head);
                compress::put_map(
                    &mut area[start + map.start as usize..start + map.end as usize],
                    start as u64 + map.start,
                    contents,
                    self.block_size(),
                    self.form.full_indexes(contents),
                );
                if let compress::Tail::Inline { kept, length } = contents.tail {
                    let at = start + map.end as usize;
                    put(&mut area, at, self.kept(kept, length.into()));
                }
            } else if let Some(tail) = self.tail(inode) {
                let length = inode.size % u64::from(self.block_size().bytes());
                put(&mut area, at, self.kept(tail.kept, length));
            } else if inode.kind() == S_IFLNK {
                let at = if inode.flags.inline {
                    at
                } else {
                    self.own_blocks_at(index)
                };
                put(&mut area, at, self.tree.target(inode));
            }
        }
        put(&mut area, self.plan.shared_at as usize, &self.xattrs.area);
        area
    }

    fn block_size(&self) -> BlockSize {
        self.form.options.block_size
    }

    fn put_inode(&self, area: &mut [u8], index: u32, compressed: Option<&Compressed>, ino: u32) {
        let inode = self.tree.inode(index);
        let layout = match inode.chunk_size() {
            Some(_) => INODE_CHUNK_BASED,
            None => match compressed {
                Some(contents) if self.form.full_indexes(contents) => INODE_COMPRESSED_FULL,
                Some(_) => INODE_COMPRESSED_COMPACT,
                None if inode.flags.inline => INODE_FLAT_INLINE,
                None => INODE_FLAT_PLAIN,
            },
        };
        let format = |form: u16| form | layout << I_DATALAYOUT_BIT;
        let i_xattr_icount = icount(self.xattrs.body(inode.xattrs)).into();
        let target = self.target(index, inode, compressed);
        let (high, low) = ((target >> 32) as u16, target as u32);
        if inode.flags.compact {
            // Only inodes with one link can have a high address in this form.
            let (nlink_1, i_nb) = match high {
                0 => (0, inode.nlink as u16),
                _ => (1 << I_NLINK_1_BIT, high),
            };
            let compact = InodeCompact {
                i_format: (format(INODE_LAYOUT_COMPACT) | nlink_1).into(),
                i_xattr_icount,
                i_mode: inode.mode.into(),
                i_nb: i_nb.into(),
                i_size: (inode.size as u32).into(),
                i_mtime: self.form.compact_mtime(self.plan.epoch, inode).into(),
                i_u: low.into(),
                i_ino: ino.into(),
                i_uid: (inode.uid as u16).into(),
                i_gid: (inode.gid as u16).into(),
                i_reserved: 0.into(),
            };
            put(area, 0, compact.as_bytes());
        } else {
            let mtime = inode.mtime();
            let extended = InodeExtended {
                i_format: format(INODE_LAYOUT_EXTENDED).into(),
                i_xattr_icount,
                i_mode: inode.mode.into(),
                i_nb: high.into(),
                i_size: inode.size.into(),
                i_u: low.into(),
                i_ino: ino.into(),
                i_uid: inode.uid.into(),
                i_gid: inode.gid.into(),
                i_mtime: (mtime.secs as u64).into(),
                i_mtime_nsec: mtime.nanos.into(),
                i_nlink: inode.nlink.into(),
                i_reserved2: [0; 16],
            };
            put(area, 0, extended.as_bytes());
        }
    }

    /// What `i_u` says, and `i_nb` above it: a block address, a device's number, or the format of
    /// chunks.
    fn target(&self, index: u32, inode: &Inode, compressed: Option<&Compressed>) -> u64 {
        if let Some(size) = inode.chunk_size() {
            let indexes = if self.form.chunk_indexes {
                CHUNK_FORMAT_INDEXES
            } else {
                0
            };
            let wide = if self.form.far { CHUNK_FORMAT_48BIT } else { 0 };
            return u64::from(u16::from(size.block_bits()) | indexes | wide);
        }
        if let Some(tail) = self.tail(inode) {
            return tail.block;
        }
        if let Some(contents) = compressed {
            return contents.blocks();
        }
        match inode.kind() {
            S_IFREG if inode.size == 0 => 0,
            S_IFREG => self.device_starts[usize::from(inode.device)] + inode.payload,
            S_IFCHR | S_IFBLK => inode.payload,
            S_IFDIR | S_IFLNK => {
                self.meta_block + self.block_size().count(self.own_blocks_at(index) as u64)
            }
            _ => 0,
        }
    }

    /// Returns the `length` bytes that were kept at `at`.
    fn kept(&self, at: u64, length: u64) -> &[u8] {
        let bytes = self.kept.get(at as usize..).unwrap_or_default();
        bytes.get(..length as usize).unwrap_or_default()
    }

    fn tail(&self, inode: &Inode) -> Option<&Tail> {
        (inode.kind() == S_IFREG && inode.flags.inline).then(|| &self.tails[inode.payload as usize])
    }

    fn put_chunks(&self, map: &mut [u8], inode: &Inode) {
        let names_devices = self.form.options.chunk_indexes;
        let places = self.chunks[inode.payload as usize..]
            .iter()
            .map(|place| match place.get() {
                None => (0, u64::MAX),
                Some(place) if names_devices => place,
                Some((device, block)) => (0, self.device_starts[usize::from(device)] + block),
            });
        if self.form.chunk_indexes {
            for (entry, (device, block)) in
                map.chunks_exact_mut(size_of::<ChunkIndex>()).zip(places)
            {
                let index = ChunkIndex {
                    startblk_hi: if self.form.far {
                        (block >> 32) as u16
                    } else {
                        0
                    }
                    .into(),
                    device_id: device.into(),
                    startblk_lo: (block as u32).into(),
                };
                entry.copy_from_slice(index.as_bytes());
            }
        } else {
            for (entry, (_, block)) in map
                .chunks_exact_mut(BLOCK_MAP_ENTRY_SIZE as usize)
                .zip(places)
            {
                entry.copy_from_slice(&(block as u32).to_le_bytes());
            }
        }
    }

    fn own_blocks_at(&self, index: u32) -> usize {
        let inode = self.tree.inode(index);
        self.plan.own_blocks_at(index, inode, self.block_size()) as usize
    }

    fn put_directory(&self, area: &mut [u8], index: u32, inline_at: usize) {
        let inode = self.tree.inode(index);
        let block_size = self.block_size().bytes();
        let full = (inode.size / u64::from(block_size)) as usize;
        let own = self.own_blocks_at(index);
        let entries = self
            .tree
            .entries(index)
            .map(|(name, child)| directory::Entry {
                name,
                nid: self.nid_base + self.plan.nids[child as usize],
                file_type: file_type(self.tree.inode(child).mode),
            });
        let mut done = 0;
        directory::blocks(entries, block_size, |block| {
            let at = if done == full && inode.flags.inline {
                inline_at
            } else {
                own + done * block_size as usize
            };
            put(area, at, block);
            done += 1;
        });
    }
}

fn put(area: &mut [u8], at: usize, bytes: &[u8]) {
    area[at..at + bytes.len()].copy_from_slice(bytes);
}
