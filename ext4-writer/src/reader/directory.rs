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
    /// The blocks of directories that one reader reads are at most those of the filesystem.
    ///
    /// ```no_run
    /// use ext4_writer::Reader;
    ///
    /// let reader = Reader::open(std::fs::File::open("disk.ext4")?)?;
    /// for (name, _) in reader.read_dir(&reader.root()?)? {
    ///     println!("{name}");
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Corrupt`] where it is damaged, or not a directory; [`Error::Output`].
    pub fn read_dir(&self, inode: &Inode) -> Result<Vec<(BytePath, u32)>, Error> {
        if inode.kind() != Kind::Directory {
            return Err(corrupt("ext4_inode", inode.offset));
        }
        let block_size = self.volume.geometry.block_size as usize;
        let seed = self.seed(inode.number, &inode.raw);
        let mut names = Vec::new();
        let mut block = vec![0; block_size];
        for number in self
            .map(inode)?
            .runs()
            .iter()
            .flat_map(|(_, run)| run.clone())
        {
            let at = self.volume.offset(number);
            let left = self.directory_blocks.get().checked_sub(1);
            self.directory_blocks
                .set(left.ok_or_else(|| corrupt("directory", at))?);
            read_at(&mut *self.image.borrow_mut(), at, &mut block)?;
            let tail = parse(&block, &mut names).ok_or_else(|| corrupt("ext4_dir_entry_2", at))?;
            let covered = &block[..block_size - TAIL];
            if tail.is_some_and(|tail| seed.add(covered).value() != tail.det_checksum.get()) {
                return Err(corrupt("ext4_dir_entry_tail", at));
            }
        }
        Ok(names)
    }
}

/// Appends the entries of a block, and returns the tail with their checksum; `None` where they do
/// not fill the block. The nodes of a hash tree look like one unused entry that fills it, and have
/// their checksums elsewhere.
fn parse(mut rest: &[u8], names: &mut Vec<(BytePath, u32)>) -> Option<Option<DirEntryTail>> {
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
        names.push((name.into(), entry.inode.get()));
    }
    Some(None)
}
