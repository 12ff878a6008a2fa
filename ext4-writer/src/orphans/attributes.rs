//! The extended attributes of deleted files.

use std::io::{Read, Seek, Write};

use zerocopy::{FromBytes, FromZeros, IntoBytes};

use super::Release;
use crate::format::{EXT4_EA_INODE_FL, EXT4_EXTENTS_FL, EXT4_XATTR_MAGIC, Inode, XattrHeader};
use crate::volume::corrupt;
use crate::{Error, truncate, xattr};

/// Where in an inode `i_extra_isize` begins to count (`EXT4_GOOD_OLD_INODE_SIZE`).
const GOOD_OLD_INODE_SIZE: usize = 128;

impl<I: Read + Write + Seek> Release<'_, I> {
    /// Frees the attributes of a file that is deleted: those in its inode, which lies at `offset`,
    /// and those in the block `block`, if there is one. Returns the number of values in their own
    /// inodes that were accounted to the file.
    pub(super) fn release_xattrs(
        &mut self,
        inode: &Inode,
        offset: u64,
        block: u64,
    ) -> Result<u64, Error> {
        let wrong = || corrupt("ext4_xattr_ibody_header", offset);
        let first = GOOD_OLD_INODE_SIZE + usize::from(inode.i_extra_isize.get());
        let body = inode.as_bytes().get(first..).ok_or_else(wrong)?;
        let mut values = Vec::new();
        if body.first_chunk() == Some(&EXT4_XATTR_MAGIC.to_le_bytes()) {
            values = xattr::value_inodes(body, size_of::<u32>()).ok_or_else(wrong)?;
        }
        for &ino in &values {
            self.release_value(ino)?;
        }
        let in_block = match block {
            0 => 0,
            _ => self.release_block(block)?,
        };
        Ok(values.len() as u64 + in_block)
    }

    /// Drops one reference to an attribute block, and frees the block with the last one. Returns
    /// the number of values it refers to.
    fn release_block(&mut self, block: u64) -> Result<u64, Error> {
        let at = self.volume.offset(block.min(self.volume.geometry.blocks));
        let wrong = || corrupt("ext4_xattr_header", at);
        if block >= self.volume.geometry.blocks {
            return Err(wrong());
        }
        let mut bytes = self.block(block)?;
        let (header, _) = XattrHeader::read_from_prefix(&bytes).map_err(|_| wrong())?;
        let references = header.h_refcount.get();
        let stored = bytes.clone();
        xattr::seal(&mut bytes, block, references, self.volume.seed);
        if header.h_magic.get() != EXT4_XATTR_MAGIC || bytes != stored || references == 0 {
            return Err(wrong());
        }
        let values = xattr::value_inodes(&bytes, size_of::<XattrHeader>()).ok_or_else(wrong)?;
        if references == 1 {
            self.changed.remove(&block);
            self.free(block..block + 1, at)?;
            for &ino in &values {
                self.release_value(ino)?;
            }
        } else {
            xattr::seal(&mut bytes, block, references - 1, self.volume.seed);
            self.changed.insert(block, bytes);
        }
        Ok(values.len() as u64)
    }

    /// Drops one reference to an inode that holds a value, and frees the inode with the last one
    /// (`ext4_xattr_inode_dec_ref`).
    fn release_value(&mut self, ino: u32) -> Result<(), Error> {
        let (mut inode, offset) = self.inode(ino)?;
        let references = u64::from(inode.l_i_version.get()) | u64::from(inode.i_ctime.get()) << 32;
        let left = references
            .checked_sub(1)
            .filter(|_| inode.i_flags.get() & EXT4_EA_INODE_FL != 0)
            .ok_or_else(|| corrupt("attribute value", offset))?;
        if left > 0 {
            inode.l_i_version = (left as u32).into();
            inode.i_ctime = ((left >> 32) as u32).into();
            self.put_inode(ino, inode);
            return Ok(());
        }
        if inode.i_flags.get() & EXT4_EXTENTS_FL == 0 {
            return Err(corrupt("attribute value", offset));
        }
        let extent = (self.volume.geometry.block_size, self.volume.geometry.blocks);
        let seed = self.seed(ino, &inode);
        let cut = truncate::cut(self.image, &inode.i_block, offset, seed, extent, 0)?;
        for run in cut.freed {
            self.free(run, offset)?;
        }
        self.volume.free_inode(self.image, ino, false)?;
        self.inodes.insert(ino, Inode::new_zeroed());
        Ok(())
    }
}
