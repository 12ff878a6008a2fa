//! Directories: blocks of sorted entries.

use alloc::vec::Vec;

use blockbox_path::BytePath;
use zerocopy::FromBytes;

use crate::corruption::Detail;
use crate::data::Data;
use crate::error::Error;
use crate::file_type::FileType;
use crate::format::{self, Dirent};
use crate::image::Image;
use crate::inode::Inode;
use crate::nid::Nid;
use crate::num::{clamp_len, wide};
use crate::read_at::ReadAt;

/// A name in a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct DirEntry {
    /// The name: 1 to 255 bytes, without a slash or a NUL.
    pub name: BytePath,
    /// The inode it points to.
    pub nid: Nid,
    /// The type of the inode by the entry; `None` if the entry has none. The inode's own type
    /// decides.
    pub file_type: Option<FileType>,
    /// The entry's `file_type` byte.
    #[cfg_attr(feature = "serde", serde(skip))]
    pub(crate) raw_type: u8,
    /// Where the entry is in the directory's data, in bytes.
    #[cfg_attr(feature = "serde", serde(skip))]
    pub(crate) position: u64,
}

/// A block of a directory.
#[derive(Debug, Default)]
struct Block {
    bytes: Vec<u8>,
    /// Where it begins in the directory's data.
    position: u64,
    /// How many entries it has: 1 at least, once loaded.
    count: usize,
}

impl Block {
    fn load<R: ReadAt>(
        &mut self,
        data: &mut Data<'_, Image<R>>,
        dir: &Inode,
        number: u64,
        block_len: usize,
    ) -> Result<(), Error> {
        self.count = 0;
        self.position = number.saturating_mul(wide(block_len));
        let length = clamp_len(block_len, dir.size.saturating_sub(self.position));
        self.bytes.clear();
        self.bytes.resize(length, 0);
        data.read_full_at(&mut self.bytes, self.position)?;
        let nameoff = Dirent::read_from_prefix(&self.bytes)
            .map(|(first, _)| first.nameoff.get())
            .unwrap_or_default();
        let entry = size_of::<Dirent>();
        let table = usize::from(nameoff);
        if table < entry || !table.is_multiple_of(entry) || table >= length {
            return Err(self.corrupt(
                dir,
                Detail::DirentCount {
                    nameoff,
                    length: wide(length),
                },
            ));
        }
        self.count = table.checked_div(entry).unwrap_or(0);
        Ok(())
    }

    /// Entry `index`, which must be less than the count.
    fn entry(&self, dir: &Inode, index: usize) -> Result<(Dirent, &[u8]), Error> {
        let length = self.bytes.len();
        let dirent = |index: usize| {
            let at = index.saturating_mul(size_of::<Dirent>());
            let rest = self.bytes.get(at..).unwrap_or_default();
            Dirent::read_from_prefix(rest)
                .map(|(dirent, _)| dirent)
                .ok()
        };
        let bad = |start: usize, end: usize| {
            self.corrupt(
                dir,
                Detail::NameRange {
                    start: wide(start),
                    end: wide(end),
                    length: wide(length),
                },
            )
        };
        let found = dirent(index).ok_or_else(|| bad(0, 0))?;
        let start = usize::from(found.nameoff.get());
        let next = index.saturating_add(1);
        let last = next >= self.count;
        let end = if last {
            // NULs fill up the block after the last name.
            let rest = self.bytes.get(start..).unwrap_or_default();
            let name = rest.iter().position(|&b| b == 0).unwrap_or(rest.len());
            start.saturating_add(name)
        } else {
            dirent(next).map_or(0, |next| usize::from(next.nameoff.get()))
        };
        let name = self
            .bytes
            .get(start..end)
            .filter(|name| name.len() <= format::EROFS_NAME_LEN)
            .filter(|_| start >= self.count.saturating_mul(size_of::<Dirent>()))
            .ok_or_else(|| bad(start, end))?;
        if name.is_empty() || name.contains(&b'/') || name.contains(&0) {
            return Err(self.corrupt(dir, Detail::Name(name.into())));
        }
        Ok((found, name))
    }

    fn corrupt(&self, dir: &Inode, what: Detail) -> Error {
        dir.corrupt(self.position, what)
    }
}

/// Iterates over a directory; made by [`Image::read_dir`].
///
/// After an error there are no more entries.
#[derive(Debug)]
pub struct ReadDir<'a, R> {
    dir: Inode,
    data: Data<'a, Image<R>>,
    block_len: usize,
    block: Block,
    /// The number of the block to load next.
    next_block: u64,
    /// The entry of the block that comes next.
    index: usize,
    previous: Vec<u8>,
    with_dots: bool,
    lenient: bool,
    failed: bool,
}

impl<R: ReadAt> ReadDir<'_, R> {
    /// Also gives `.` and `..`, where the directory has them.
    ///
    /// ```no_run
    /// use erofs_reader::{Buffered, Image};
    ///
    /// let image = Image::open(Buffered::new(std::fs::File::open("image.erofs")?))?;
    /// let names = image.read_dir(&image.root()?)?.with_dots();
    /// for entry in names {
    ///     println!("{}", entry?.name);
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn with_dots(mut self) -> Self {
        self.with_dots = true;
        self
    }

    /// Returns a lenient iterator, which continues after an error with the next entry or block and
    /// reports each name out of order once.
    pub(crate) fn lenient(mut self) -> Self {
        self.lenient = true;
        self
    }

    /// The directory.
    pub fn inode(&self) -> &Inode {
        &self.dir
    }

    fn advance(&mut self) -> Result<Option<DirEntry>, Error> {
        loop {
            if self.index >= self.block.count {
                let start = self.next_block.saturating_mul(wide(self.block_len));
                if start >= self.dir.size {
                    return Ok(None);
                }
                let number = self.next_block;
                // Counted before anything can fail, so that the lenient iterator always moves on.
                self.next_block = number.saturating_add(1);
                self.index = 0;
                self.block
                    .load(&mut self.data, &self.dir, number, self.block_len)?;
            }
            let index = self.index;
            self.index = index.saturating_add(1);
            let (dirent, name) = self.block.entry(&self.dir, index)?;
            let ordered = *name > *self.previous;
            self.previous.clear();
            self.previous.extend_from_slice(name);
            // Names in strictly ascending order, across blocks too, are what the binary search
            // needs. It also means that no two blocks of a directory are the same one, so its size
            // is bounded by the image's.
            if !ordered {
                let name = name.into();
                return Err(self.block.corrupt(&self.dir, Detail::NameOrder(name)));
            }
            let within = index.saturating_mul(size_of::<Dirent>());
            let position = self.block.position.saturating_add(wide(within));
            if !self.with_dots && (name == b"." || name == b"..") {
                continue;
            }
            return Ok(Some(DirEntry {
                name: name.into(),
                nid: Nid::new(dirent.nid.get()),
                file_type: FileType::from_dirent(dirent.file_type),
                raw_type: dirent.file_type,
                position,
            }));
        }
    }
}

impl<R: ReadAt> Iterator for ReadDir<'_, R> {
    type Item = Result<DirEntry, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let next = self.advance().transpose();
        self.failed = !self.lenient && matches!(next, Some(Err(_)));
        next
    }
}

impl<R: ReadAt> Image<R> {
    /// The entries of the directory `dir` without `.` and `..`, in byte order of their names.
    ///
    /// ```no_run
    /// use erofs_reader::{Buffered, Image};
    ///
    /// let image = Image::open(Buffered::new(std::fs::File::open("image.erofs")?))?;
    /// let inode = image.metadata("/etc")?;
    /// for entry in image.read_dir(&inode)? {
    ///     println!("{}", entry?.name);
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Where `dir` is not a directory. The iterator fails where a block of it is damaged or a name
    /// is out of order.
    pub fn read_dir(&self, dir: &Inode) -> Result<ReadDir<'_, R>, Error> {
        dir.expect(FileType::Directory)?;
        Ok(ReadDir {
            dir: *dir,
            data: self.data(dir)?,
            block_len: self.superblock().block_size.len(),
            block: Block::default(),
            next_block: 0,
            index: 0,
            previous: Vec::new(),
            with_dots: false,
            lenient: false,
            failed: false,
        })
    }

    /// The entry `name` of the directory `dir`, found by binary search as the kernel does: first
    /// for the block, by the blocks' first names, then in the block.
    ///
    /// ```no_run
    /// use erofs_reader::{Buffered, Image};
    ///
    /// let image = Image::open(Buffered::new(std::fs::File::open("image.erofs")?))?;
    /// let etc = image.metadata("/etc")?;
    /// if let Some(entry) = image.child(&etc, b"passwd")? {
    ///     println!("nid {}", entry.nid);
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Where `dir` is not a directory, or a block that was looked at is damaged.
    pub fn child(&self, dir: &Inode, name: &[u8]) -> Result<Option<DirEntry>, Error> {
        dir.expect(FileType::Directory)?;
        let mut data = self.data(dir)?;
        let block_len = self.superblock().block_size.len();
        let mut block = Block::default();
        // The wanted block is the last one whose first name is not greater: low - 1.
        let (mut low, mut high) = (0, self.superblock().block_size.count(dir.size));
        while low < high {
            let middle = low.midpoint(high);
            block.load(&mut data, dir, middle, block_len)?;
            if block.entry(dir, 0)?.1 <= name {
                low = middle.saturating_add(1);
            } else {
                high = middle;
            }
        }
        let Some(number) = low.checked_sub(1) else {
            return Ok(None);
        };
        block.load(&mut data, dir, number, block_len)?;
        let (mut low, mut high) = (0, block.count);
        while low < high {
            let middle = low.midpoint(high);
            let (dirent, found) = block.entry(dir, middle)?;
            match found.cmp(name) {
                core::cmp::Ordering::Less => low = middle.saturating_add(1),
                core::cmp::Ordering::Greater => high = middle,
                core::cmp::Ordering::Equal => {
                    let within = middle.saturating_mul(size_of::<Dirent>());
                    return Ok(Some(DirEntry {
                        name: name.into(),
                        nid: Nid::new(dirent.nid.get()),
                        file_type: FileType::from_dirent(dirent.file_type),
                        raw_type: dirent.file_type,
                        position: block.position.saturating_add(wide(within)),
                    }));
                }
            }
        }
        Ok(None)
    }
}
