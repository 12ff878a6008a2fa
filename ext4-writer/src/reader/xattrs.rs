//! The extended attributes of an inode.

use std::io::{Read, Seek};

use zerocopy::{FromBytes, IntoBytes};

use super::{Inode, Reader};
use crate::format::{EXT4_EA_INODE_FL, EXT4_XATTR_MAGIC, XattrHeader};
use crate::info::read_at;
use crate::volume::corrupt;
use crate::xattr::{self, Stored, VALUE_MAX};
use crate::{Error, acl};

/// A full name and a value.
type Xattr = (Vec<u8>, Vec<u8>);

/// Where in an inode `i_extra_isize` begins to count (`EXT4_GOOD_OLD_INODE_SIZE`).
const GOOD_OLD_INODE_SIZE: usize = 128;

impl<R: Read + Seek> Reader<R> {
    /// The extended attributes, by full name, in the form of `getxattr(2)`.
    pub(super) fn xattrs(&self, inode: &Inode) -> Result<Vec<Xattr>, Error> {
        let wrong = || corrupt("ext4_xattr_ibody_header", inode.offset);
        let mut found = Vec::new();
        let first = GOOD_OLD_INODE_SIZE + usize::from(inode.raw.i_extra_isize.get());
        let body = inode.raw.as_bytes().get(first..).ok_or_else(wrong)?;
        if let Some(entries) = body.strip_prefix(&EXT4_XATTR_MAGIC.to_le_bytes()) {
            // Values are found relative to the first entry.
            for stored in xattr::decode(entries, 0).ok_or_else(wrong)? {
                found.push(self.xattr(stored).map_err(|e| e.unwrap_or_else(wrong))?);
            }
        }
        let block = inode.xattr_block();
        if block != 0 {
            let at = self.volume.offset(block.min(self.volume.geometry.blocks));
            let wrong = || corrupt("ext4_xattr_header", at);
            if block >= self.volume.geometry.blocks {
                return Err(wrong());
            }
            let mut bytes = vec![0; self.volume.geometry.block_size as usize];
            read_at(&mut *self.image.borrow_mut(), at, &mut bytes)?;
            let (header, _) = XattrHeader::read_from_prefix(&bytes).map_err(|_| wrong())?;
            let stored = bytes.clone();
            let references = header.h_refcount.get();
            xattr::seal(&mut bytes, block, references, self.volume.seed);
            if header.h_magic.get() != EXT4_XATTR_MAGIC || bytes != stored {
                return Err(wrong());
            }
            let entries = xattr::decode(&bytes, size_of::<XattrHeader>()).ok_or_else(wrong)?;
            for stored in entries {
                found.push(self.xattr(stored).map_err(|e| e.unwrap_or_else(wrong))?);
            }
        }
        Ok(found)
    }

    /// A name and a value as programs see them; an error without a reason where that is not
    /// possible.
    fn xattr(&self, stored: Stored<'_>) -> Result<Xattr, Option<Error>> {
        let value = match stored.value_inode {
            0 => stored.value.to_vec(),
            number => self.value(number, stored.size)?,
        };
        let prefix = xattr::prefix(stored.index).ok_or(None)?;
        let value = match xattr::is_acl(stored.index) {
            true => acl::from_disk(&value).ok_or(None)?,
            false => value,
        };
        Ok(([prefix, stored.name].concat(), value))
    }

    /// A value that lies in an inode of its own.
    fn value(&self, number: u32, size: usize) -> Result<Vec<u8>, Option<Error>> {
        let inode = self.inode(number)?;
        if !inode.is_file()
            || inode.raw.i_flags.get() & EXT4_EA_INODE_FL == 0
            || size > VALUE_MAX
            || inode.size() != size as u64
        {
            return Err(None);
        }
        let mut value = vec![0; size];
        let mut contents = self.file(&inode)?;
        contents.read_exact(&mut value).map_err(|_| None)?;
        Ok(value)
    }
}
