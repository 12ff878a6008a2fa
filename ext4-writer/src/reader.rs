//! Reading the tree of a filesystem.

mod copy;
mod directory;
mod file;
mod inode;
mod path;
mod xattrs;

use std::cell::{Cell, RefCell};
use std::fmt;
use std::io::{Read, Seek};
use std::ops::Range;

use zerocopy::{FromZeros, IntoBytes};

use crate::checksum::Checksum;
use crate::format::{
    EXT4_INLINE_DATA_FL, EXT4_ROOT_INO, Inode as RawInode, SUPERBLOCK_OFFSET, incompat,
};
use crate::info::{read_at, read_superblock};
use crate::mapped::Mapped;
use crate::volume::{Volume, corrupt};
use crate::{Error, Info, Kind, Metadata, node};

pub use file::FileReader;
pub use inode::Inode;
pub use path::MAX_READ;

/// Reads the tree of an ext4 filesystem with the features that [`Builder`](crate::Builder) always
/// gives it, including later changes by Linux. A damaged or hostile filesystem is an [`Error`].
///
/// A filesystem that was not unmounted has changes in its journal alone:
/// [`recover`](crate::recover) writes them to where they belong first.
///
/// [`read`](Self::read), [`metadata`](Self::metadata) and the like read files by path, as
/// [`std::fs`] does. The other methods read what belongs to an [`Inode`].
///
/// ```
/// use std::io::Cursor;
/// use ext4_writer::{Builder, Metadata, Node, Options, Reader};
///
/// let mut builder = Builder::new(Cursor::new(Vec::new()), Options::new(4 << 20))?;
/// builder.add_path(b"greeting", Metadata::new(0o644), Node::file(&b"hello"[..]))?;
/// let (image, _) = builder.finish()?;
///
/// let reader = Reader::open(image)?;
/// assert_eq!(reader.read_to_string("/greeting")?, "hello");
/// # Ok::<(), ext4_writer::Error>(())
/// ```
pub struct Reader<R> {
    image: RefCell<R>,
    volume: Volume,
    info: Info,
    /// The number of directory blocks that may still be read, which bounds a filesystem that refers
    /// to one block repeatedly.
    directory_blocks: Cell<u64>,
}

impl<R> fmt::Debug for Reader<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader")
            .field("info", &self.info)
            .finish_non_exhaustive()
    }
}

impl<R: Read + Seek> Reader<R> {
    /// Reads the superblock and the group descriptors.
    ///
    /// ```
    /// # use std::io::Cursor;
    /// use ext4_writer::{Builder, Options, Reader};
    ///
    /// let builder = Builder::new(Cursor::new(Vec::new()), Options::new(4 << 20).label("rootfs"))?;
    /// let reader = Reader::open(builder.finish()?.0)?;
    /// assert_eq!(reader.info().label, "rootfs");
    /// # Ok::<(), ext4_writer::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::NotExt4`], [`Error::Corrupt`], [`Error::Output`]; [`Error::NotClean`] where the
    /// journal is to be replayed; [`Error::Features`], also for files that lie in their inodes
    /// (`inline_data`).
    pub fn open(mut image: R) -> Result<Self, Error> {
        let superblock = read_superblock(&mut image)?;
        let info = Info::of(&superblock)?;
        if info.features.incompat & incompat::RECOVER != 0 {
            return Err(Error::NotClean {
                reason: "its journal holds changes",
            });
        }
        if info.features.incompat & incompat::INLINE_DATA != 0 {
            return Err(Error::Features {
                features: "inline_data".to_owned(),
            });
        }
        let volume = Volume::read(&mut image, superblock)?;
        Ok(Self {
            directory_blocks: Cell::new(volume.geometry.blocks),
            image: RefCell::new(image),
            volume,
            info,
        })
    }

    /// The superblock.
    pub fn info(&self) -> &Info {
        &self.info
    }

    /// The root directory.
    ///
    /// ```
    /// # use std::io::Cursor;
    /// use ext4_writer::{Builder, Options, Reader};
    ///
    /// let builder = Builder::new(Cursor::new(Vec::new()), Options::new(4 << 20))?;
    /// let reader = Reader::open(builder.finish()?.0)?;
    /// let names = reader.read_dir(&reader.root()?)?;
    /// assert_eq!(names.len(), 1, "lost+found");
    /// # Ok::<(), ext4_writer::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Those of [`inode`](Self::inode); [`Error::Corrupt`] where it is not a directory.
    pub fn root(&self) -> Result<Inode, Error> {
        let root = self.inode(EXT4_ROOT_INO)?;
        match root.kind() {
            Kind::Directory => Ok(root),
            _ => Err(corrupt("ext4_inode", root.offset)),
        }
    }

    /// Reads an inode by its number, as [`read_dir`](Self::read_dir) returns it.
    ///
    /// ```
    /// # use std::io::Cursor;
    /// use ext4_writer::{Builder, Metadata, Node, Options, Reader};
    ///
    /// let mut builder = Builder::new(Cursor::new(Vec::new()), Options::new(4 << 20))?;
    /// builder.add_path(b"file", Metadata::new(0o644), Node::file(&b"hello"[..]))?;
    /// let reader = Reader::open(builder.finish()?.0)?;
    /// for (name, number) in reader.read_dir(&reader.root()?)? {
    ///     let inode = reader.inode(number)?;
    ///     println!("{name}: {} bytes", inode.size());
    /// }
    /// # Ok::<(), ext4_writer::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Corrupt`] where there is no such inode, it is not in use, or it is damaged;
    /// [`Error::Output`].
    pub fn inode(&self, number: u32) -> Result<Inode, Error> {
        let geometry = &self.volume.geometry;
        if !(1..=geometry.inodes()).contains(&number) {
            return Err(corrupt("ext4_dir_entry_2", SUPERBLOCK_OFFSET));
        }
        let offset = geometry.inode_offset(number);
        let mut raw = RawInode::new_zeroed();
        read_at(&mut *self.image.borrow_mut(), offset, raw.as_mut_bytes())?;
        let stored = (raw.l_i_checksum_lo.get(), raw.i_checksum_hi.get());
        let seed = self.seed(number, &raw);
        let mut sealed = raw.clone();
        if node::seal(&mut sealed, seed) != stored
            || raw.i_links_count.get() == 0
            || raw.i_flags.get() & EXT4_INLINE_DATA_FL != 0
        {
            return Err(corrupt("ext4_inode", offset));
        }
        Inode::new(number, raw, offset).ok_or_else(|| corrupt("ext4_inode", offset))
    }

    /// Mode, owner, modification time and extended attributes of an inode.
    ///
    /// ```
    /// # use std::io::Cursor;
    /// use ext4_writer::{Builder, Metadata, Node, Options, Reader};
    ///
    /// let mut builder = Builder::new(Cursor::new(Vec::new()), Options::new(4 << 20))?;
    /// let tagged = Metadata::new(0o644).xattr("user.origin", "example");
    /// builder.add_path(b"file", tagged.clone(), Node::file(&b"hello"[..]))?;
    /// let reader = Reader::open(builder.finish()?.0)?;
    /// assert_eq!(reader.attributes(&reader.metadata("file")?)?, tagged);
    /// # Ok::<(), ext4_writer::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Corrupt`] where the attributes are damaged; [`Error::Output`].
    pub fn attributes(&self, inode: &Inode) -> Result<Metadata, Error> {
        let xattrs = self.xattrs(inode)?;
        Ok(inode.attributes().xattrs(xattrs))
    }

    /// The target of a symbolic link.
    ///
    /// ```
    /// # use std::io::Cursor;
    /// use ext4_writer::{Builder, Metadata, Node, Options, Reader};
    ///
    /// let mut builder = Builder::new(Cursor::new(Vec::new()), Options::new(4 << 20))?;
    /// builder.add_path(b"bin", Metadata::new(0o777), Node::Symlink(b"usr/bin"))?;
    /// let reader = Reader::open(builder.finish()?.0)?;
    /// assert_eq!(reader.read_link(&reader.symlink_metadata("bin")?)?, b"usr/bin");
    /// # Ok::<(), ext4_writer::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::WrongType`] if `inode` is not a symbolic link; [`Error::Corrupt`],
    /// [`Error::Output`].
    pub fn read_link(&self, inode: &Inode) -> Result<Vec<u8>, Error> {
        inode.expect(Kind::Symlink)?;
        let wrong = || corrupt("symbolic link", inode.offset);
        let size = usize::try_from(inode.size()).unwrap_or(usize::MAX);
        let block_size = self.volume.geometry.block_size as usize;
        if size == 0 || size >= block_size {
            return Err(wrong());
        }
        let target = match inode.raw.i_block.get(..size) {
            // `ext4_inode_is_fast_symlink`: it has no block but that of attributes.
            Some(target) if !inode.has_extents() => target.to_vec(),
            _ => {
                let mut target = vec![0; size];
                let mut file = self.contents(inode)?;
                file.read_exact(&mut target).map_err(|_| wrong())?;
                target
            }
        };
        match target.contains(&0) {
            true => Err(wrong()),
            false => Ok(target),
        }
    }

    /// The parts of a regular file that have data, as byte ranges in ascending order; the rest are
    /// holes.
    ///
    /// ```
    /// # use std::io::Cursor;
    /// use ext4_writer::{Builder, Metadata, Options, Reader};
    ///
    /// let mut builder = Builder::new(Cursor::new(Vec::new()), Options::new(4 << 20))?;
    /// let (root, metadata) = (builder.root(), Metadata::new(0o644));
    /// let data = std::io::repeat(7);
    /// builder.add_sparse_file(root, b"file", metadata, 1 << 20, &[65536..131072], data)?;
    /// let reader = Reader::open(builder.finish()?.0)?;
    /// assert_eq!(reader.ranges(&reader.metadata("file")?)?, [65536..131072]);
    /// # Ok::<(), ext4_writer::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Corrupt`], [`Error::Output`].
    pub fn ranges(&self, inode: &Inode) -> Result<Vec<Range<u64>>, Error> {
        let block_size = u64::from(self.volume.geometry.block_size);
        let mut ranges: Vec<Range<u64>> = Vec::new();
        for (first, blocks) in self.map(inode)?.runs() {
            let start = first * block_size;
            let end = ((first + (blocks.end - blocks.start)) * block_size).min(inode.size());
            match ranges.last_mut() {
                _ if start >= end => {}
                Some(last) if last.end == start => last.end = end,
                _ => ranges.push(start..end),
            }
        }
        Ok(ranges)
    }

    /// Opens a regular file; holes read as zeros.
    ///
    /// ```
    /// use std::io::{Cursor, Read, Seek, SeekFrom};
    /// use ext4_writer::{Builder, Metadata, Node, Options, Reader};
    ///
    /// let mut builder = Builder::new(Cursor::new(Vec::new()), Options::new(4 << 20))?;
    /// builder.add_path(b"file", Metadata::new(0o644), Node::file(&b"hello"[..]))?;
    /// let reader = Reader::open(builder.finish()?.0)?;
    /// let mut file = reader.file(&reader.metadata("file")?)?;
    /// file.seek(SeekFrom::Start(3))?;
    /// let mut rest = String::new();
    /// file.read_to_string(&mut rest)?;
    /// assert_eq!(rest, "lo");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::WrongType`] if `inode` is not a regular file; [`Error::Corrupt`],
    /// [`Error::Output`].
    pub fn file(&self, inode: &Inode) -> Result<FileReader<'_, R>, Error> {
        inode.expect(Kind::File)?;
        self.contents(inode)
    }

    fn contents(&self, inode: &Inode) -> Result<FileReader<'_, R>, Error> {
        let block_size = self.volume.geometry.block_size;
        let map = self.map(inode)?;
        Ok(FileReader::new(&self.image, map, block_size, inode.size()))
    }

    fn map(&self, inode: &Inode) -> Result<Mapped, Error> {
        let geometry = &self.volume.geometry;
        if !inode.has_extents() {
            return Err(corrupt("i_flags", inode.offset));
        }
        Mapped::read_sparse(
            &mut *self.image.borrow_mut(),
            &inode.raw,
            inode.offset,
            self.seed(inode.number, &inode.raw),
            geometry.block_size,
            geometry.blocks,
        )
    }

    fn seed(&self, number: u32, raw: &RawInode) -> Checksum {
        let seed = self.volume.seed.add(&number.to_le_bytes());
        seed.add(raw.i_generation.as_bytes())
    }
}
