//! The names in a directory.

use std::io::{Read, Seek};

use blockbox_path::BytePath;
use zerocopy::FromBytes;

use super::{Inode, Reader};
use crate::format::{DirEntry, DirEntryTail, EXT4_FT_DIR_CSUM};
use crate::info::read_at;
use crate::volume::corrupt;
use crate::{Error, Kind};

const HEADER: usize = size_of::<DirEntry>();
const TAIL: usize = size_of::<DirEntryTail>();

impl<R: Read + Seek> Reader<R> {
    /// The names in a directory and the numbers of their inodes, without `.` and `..`, in the order
    /// in which they lie there.
    ///
    /// All blocks that one reader reads for this method are at most those of the filesystem, so
    /// that a walk over a hostile one ends. Lookups by name and by path do not count.
    ///
    /// ```
    /// # use std::io::Cursor;
    /// use ext4_writer::{Builder, Metadata, Node, Options, Reader};
    ///
    /// let mut builder = Builder::new(Cursor::new(Vec::new()), Options::new(4 << 20))?;
    /// builder.add_path(b"etc/motd", Metadata::new(0o644), Node::file(&b""[..]))?;
    /// let reader = Reader::open(builder.finish()?.0)?;
    /// let names = reader.read_dir(&reader.metadata("etc")?)?;
    /// assert_eq!(names.len(), 1);
    /// assert_eq!(names[0].0, "motd");
    /// # Ok::<(), ext4_writer::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::WrongType`] if `inode` is not a directory; [`Error::Corrupt`], [`Error::Output`].
    pub fn read_dir(&self, inode: &Inode) -> Result<Vec<(BytePath, u32)>, Error> {
        let mut names = Vec::new();
        let mut block = self.block();
        for number in self.directory_blocks(inode)? {
            let left = self.directory_blocks.get().checked_sub(1);
            let left = left.ok_or_else(|| corrupt("directory", self.volume.offset(number)))?;
            self.directory_blocks.set(left);
            self.directory_block(inode, number, &mut block, |name, number| {
                names.push((name.into(), number));
            })?;
        }
        Ok(names)
    }

    /// Returns the inode called `name` in a directory, if there is one. `.` and `..` are not names.
    ///
    /// ```
    /// # use std::io::Cursor;
    /// use ext4_writer::{Builder, Options, Reader};
    ///
    /// let builder = Builder::new(Cursor::new(Vec::new()), Options::new(4 << 20))?;
    /// let reader = Reader::open(builder.finish()?.0)?;
    /// let child = reader.child(&reader.root()?, b"lost+found")?;
    /// assert_eq!(child.map(|inode| inode.mode()), Some(0o700));
    /// # Ok::<(), ext4_writer::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::WrongType`] if `parent` is not a directory; [`Error::Corrupt`], [`Error::Output`].
    pub fn child(&self, parent: &Inode, name: &[u8]) -> Result<Option<Inode>, Error> {
        let mut block = self.block();
        for number in self.directory_blocks(parent)? {
            let mut found = None;
            self.directory_block(parent, number, &mut block, |entry, number| {
                if entry == name {
                    found = Some(number);
                }
            })?;
            if let Some(number) = found {
                return self.inode(number).map(Some);
            }
        }
        Ok(None)
    }

    /// Returns a buffer for one block.
    fn block(&self) -> Vec<u8> {
        vec![0; self.volume.geometry.block_size as usize]
    }

    /// Returns the numbers of a directory's blocks.
    fn directory_blocks(&self, inode: &Inode) -> Result<impl Iterator<Item = u64>, Error> {
        inode.expect(Kind::Directory)?;
        let map = self.map(inode)?;
        let runs = map.runs().iter().map(|(_, run)| run.clone());
        Ok(runs.collect::<Vec<_>>().into_iter().flatten())
    }

    /// Reads the block `number` of a directory into `block`, checks it, and passes its names and
    /// the numbers of their inodes to `found`.
    fn directory_block(
        &self,
        inode: &Inode,
        number: u64,
        block: &mut [u8],
        found: impl FnMut(&[u8], u32),
    ) -> Result<(), Error> {
        let at = self.volume.offset(number);
        read_at(&mut *self.image.borrow_mut(), at, block)?;
        let tail = parse(block, found).ok_or_else(|| corrupt("ext4_dir_entry_2", at))?;
        let covered = &block[..block.len() - TAIL];
        let seed = self.seed(inode.number, &inode.raw);
        if tail.is_some_and(|tail| seed.add(covered).value() != tail.det_checksum.get()) {
            return Err(corrupt("ext4_dir_entry_tail", at));
        }
        Ok(())
    }
}

/// Passes the entries of a block to `found`, and returns the tail with their checksum; `None` where
/// they do not fill the block. The nodes of a hash tree look like one unused entry that fills it,
/// and have their checksums elsewhere.
fn parse(mut rest: &[u8], mut found: impl FnMut(&[u8], u32)) -> Option<Option<DirEntryTail>> {
    while !rest.is_empty() {
        if let Ok(tail) = DirEntryTail::read_from_bytes(rest)
            && tail.det_reserved_zero1.get() == 0
            && usize::from(tail.det_rec_len.get()) == TAIL
            && tail.det_reserved_ft == EXT4_FT_DIR_CSUM
        {
            return Some(Some(tail));
        }
        let (entry, body) = DirEntry::read_from_prefix(rest).ok()?;
        let length = usize::from(entry.rec_len.get());
        let name = body.get(..usize::from(entry.name_len))?;
        if length < HEADER + name.len() || !length.is_multiple_of(4) {
            return None;
        }
        rest = rest.get(length..)?;
        if entry.inode.get() == 0 || matches!(name, b"." | b"..") {
            continue;
        }
        if name.is_empty() || name.contains(&0) || name.contains(&b'/') {
            return None;
        }
        found(name, entry.inode.get());
    }
    Some(None)
}
