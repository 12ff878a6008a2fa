//! The bytes of the metadata area, as planned.

use zerocopy::IntoBytes;

use crate::format::{
    I_DATALAYOUT_BIT, INODE_FLAT_INLINE, INODE_FLAT_PLAIN, INODE_LAYOUT_COMPACT,
    INODE_LAYOUT_EXTENDED, ISLOT, InodeCompact, InodeExtended, S_IFBLK, S_IFCHR, S_IFLNK, S_IFREG,
    file_type,
};
use crate::plan::{Plan, inode_size};
use crate::tree::{Inode, SortedTree};
use crate::xattr::{XattrPlan, icount};
use crate::{BlockSize, directory};

/// What the bytes depend on.
#[derive(Debug)]
pub(crate) struct Emitter<'a> {
    pub(crate) tree: &'a SortedTree,
    pub(crate) xattrs: &'a XattrPlan,
    pub(crate) plan: &'a Plan,
    pub(crate) block_size: BlockSize,
    /// The block with which the metadata area begins.
    pub(crate) meta_block: u64,
    /// The first block of each device in the unified address space, the image itself being the first.
    pub(crate) device_starts: &'a [u64],
}

impl Emitter<'_> {
    /// The whole metadata area.
    pub(crate) fn emit(&self) -> Vec<u8> {
        let mut area = vec![0; self.plan.length as usize];
        for (number, &index) in self.plan.order.iter().enumerate() {
            let inode = self.tree.inode(index);
            let mut at = (self.plan.nids[index as usize] * ISLOT) as usize;
            // From 1, as 0 is no inode's number.
            self.put_inode(&mut area[at..], index, number as u32 + 1);
            at += inode_size(inode) as usize;
            let body = self.xattrs.body(inode.xattrs);
            put(&mut area, at, body);
            at += body.len();
            if inode.is_dir() {
                self.put_directory(&mut area, index, at);
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

    fn put_inode(&self, area: &mut [u8], index: u32, ino: u32) {
        let inode = self.tree.inode(index);
        let layout = if inode.flags.inline {
            INODE_FLAT_INLINE
        } else {
            INODE_FLAT_PLAIN
        };
        let format = |form: u16| form | layout << I_DATALAYOUT_BIT;
        let i_xattr_icount = icount(self.xattrs.body(inode.xattrs)).into();
        let i_u = self.address(index, inode).into();
        if inode.flags.compact {
            let compact = InodeCompact {
                i_format: format(INODE_LAYOUT_COMPACT).into(),
                i_xattr_icount,
                i_mode: inode.mode.into(),
                i_nlink: (inode.nlink as u16).into(),
                i_size: (inode.size as u32).into(),
                i_u,
                i_ino: ino.into(),
                i_uid: (inode.uid as u16).into(),
                i_gid: (inode.gid as u16).into(),
                ..InodeCompact::default()
            };
            put(area, 0, compact.as_bytes());
        } else {
            let mtime = inode.mtime();
            let extended = InodeExtended {
                i_format: format(INODE_LAYOUT_EXTENDED).into(),
                i_xattr_icount,
                i_mode: inode.mode.into(),
                i_size: inode.size.into(),
                i_u,
                i_ino: ino.into(),
                i_uid: inode.uid.into(),
                i_gid: inode.gid.into(),
                i_mtime: (mtime.secs as u64).into(),
                i_mtime_nsec: mtime.nanos.into(),
                i_nlink: inode.nlink.into(),
                ..InodeExtended::default()
            };
            put(area, 0, extended.as_bytes());
        }
    }

    /// `i_u`: a block address or a device's number.
    fn address(&self, index: u32, inode: &Inode) -> u32 {
        let address = match inode.kind() {
            S_IFREG if inode.size == 0 => 0,
            S_IFREG => self.device_starts[usize::from(inode.device)] + inode.payload,
            S_IFCHR | S_IFBLK => inode.payload,
            _ if inode.is_dir() || inode.kind() == S_IFLNK => {
                self.meta_block + self.block_size.count(self.own_blocks_at(index) as u64)
            }
            _ => 0,
        };
        // Checked against the limit before anything is emitted.
        address as u32
    }

    fn own_blocks_at(&self, index: u32) -> usize {
        let inode = self.tree.inode(index);
        self.plan.own_blocks_at(index, inode, self.block_size) as usize
    }

    fn put_directory(&self, area: &mut [u8], index: u32, inline_at: usize) {
        let inode = self.tree.inode(index);
        let block_size = self.block_size.bytes();
        let full = (inode.size / u64::from(block_size)) as usize;
        let own = self.own_blocks_at(index);
        let entries = self
            .tree
            .entries(index)
            .map(|(name, child)| directory::Entry {
                name,
                nid: self.plan.nids[child as usize],
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
