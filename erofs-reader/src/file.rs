//! Reading the contents of files.

use alloc::vec;
use alloc::vec::Vec;
#[cfg(feature = "std")]
use std::io::{self, Read, Seek, SeekFrom};

use crate::corruption::Detail;
use crate::data::Data;
use crate::error::Error;
use crate::file_type::FileType;
use crate::image::Image;
use crate::inode::Inode;
use crate::num::narrow;
#[cfg(feature = "std")]
use crate::num::wide;
use crate::read_at::{ReadAt, ReadAtError};
use crate::sync::Lock;

impl<R: ReadAt> Image<R> {
    /// Returns a reader of the contents of the regular file `inode`.
    ///
    /// ```no_run
    /// use erofs_reader::{Buffered, Image};
    ///
    /// let image = Image::open(Buffered::new(std::fs::File::open("image.erofs")?))?;
    /// let inode = image.metadata("/etc/passwd")?;
    /// std::io::copy(&mut image.file(&inode)?, &mut std::io::stdout())?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Fails if the inode is not a regular file or its block map is damaged.
    pub fn file(&self, inode: &Inode) -> Result<FileReader<'_, R>, Error> {
        inode.expect(FileType::Regular)?;
        let file = FileReader {
            image: self,
            inode: *inode,
            spare: Lock::default(),
            #[cfg(feature = "std")]
            own: None,
            #[cfg(feature = "std")]
            position: 0,
        };
        file.put_back(self.data(inode)?);
        Ok(file)
    }

    /// Returns the target of the symbolic link `inode`.
    ///
    /// ```no_run
    /// use erofs_reader::{Buffered, Image};
    ///
    /// let image = Image::open(Buffered::new(std::fs::File::open("image.erofs")?))?;
    /// let inode = image.symlink_metadata("/bin")?;
    /// println!("{}", image.read_link(&inode)?.escape_ascii());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Fails if the inode is not a symbolic link, or its target is empty, longer than 4095 bytes,
    /// or contains a NUL.
    pub fn read_link(&self, inode: &Inode) -> Result<Vec<u8>, Error> {
        /// The kernel's `PATH_MAX`, which counts a NUL after the path.
        const PATH_MAX: u64 = 4096;
        inode.expect(FileType::Symlink)?;
        if !(1..PATH_MAX).contains(&inode.size) {
            return Err(inode.corrupt(inode.position, Detail::SymlinkLength(inode.size)));
        }
        let mut target = vec![0; narrow(inode.size)];
        self.data(inode)?.read_full_at(&mut target, 0)?;
        if target.contains(&0) {
            return Err(inode.corrupt(inode.position, Detail::SymlinkNul));
        }
        Ok(target)
    }
}

/// The contents of a regular file.
///
/// [`read_at`](Self::read_at) needs no exclusive access: threads share a reader, and none waits for
/// another. As a [`ReadAt`], a file is a source itself, of an image in an image for example.
///
/// Reads are not buffered: wrap it in a [`BufReader`](std::io::BufReader) for small ones.
#[derive(Debug)]
pub struct FileReader<'a, R> {
    image: &'a Image<R>,
    inode: Inode,
    /// Block maps and decoded data of earlier reads, one for each that was under way at a time.
    spare: Lock<Vec<Data<'a, Image<R>>>>,
    /// What `Read` uses, once it was needed.
    #[cfg(feature = "std")]
    own: Option<Data<'a, Image<R>>>,
    #[cfg(feature = "std")]
    position: u64,
}

/// The most that [`FileReader::spare`] keeps: about as many as threads read at once.
const SPARE: usize = 16;

impl<'a, R: ReadAt> FileReader<'a, R> {
    /// Returns the size of the file in bytes.
    pub fn size(&self) -> u64 {
        self.inode.size()
    }

    /// Reads at most `buf.len()` bytes at `offset` and returns how many; 0 means that the file ends
    /// at or before `offset`. The position of `Read` and `Seek` is neither used nor changed.
    ///
    /// ```no_run
    /// use erofs_reader::{Buffered, Image};
    ///
    /// let image = Image::open(Buffered::new(std::fs::File::open("image.erofs")?))?;
    /// let file = image.file(&image.metadata("/bin/sh")?)?;
    /// let mut magic = [0; 4];
    /// let read = file.read_at(&mut magic, 0)?;
    /// println!("ELF: {}", magic[..read] == *b"\x7fELF");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Fails if the image is damaged or its source fails.
    pub fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize, Error> {
        let mut data = self.spare_data()?;
        let read = data.read_at(buf, offset);
        self.put_back(data);
        read
    }

    fn spare_data(&self) -> Result<Data<'a, Image<R>>, Error> {
        match self.spare.with(Vec::pop) {
            Some(data) => Ok(data),
            None => self.image.data(&self.inode),
        }
    }

    fn put_back(&self, data: Data<'a, Image<R>>) {
        self.spare.with(|spare| {
            if spare.len() < SPARE {
                spare.push(data);
            }
        });
    }
}

impl<R: ReadAt> ReadAt for FileReader<'_, R> {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize, ReadAtError> {
        Ok(Self::read_at(self, buf, offset)?)
    }

    fn size(&self) -> Result<u64, ReadAtError> {
        Ok(Self::size(self))
    }
}

#[cfg(feature = "std")]
impl<R: ReadAt> Read for FileReader<'_, R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let own = match &mut self.own {
            Some(own) => own,
            None => {
                let data = self.spare_data()?;
                self.own.insert(data)
            }
        };
        let n = own.read_at(buf, self.position)?;
        self.position = self.position.saturating_add(wide(n));
        Ok(n)
    }
}

#[cfg(feature = "std")]
impl<R: ReadAt> Seek for FileReader<'_, R> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let (base, by) = match to {
            SeekFrom::Start(position) => (position, 0),
            SeekFrom::End(by) => (self.size(), by),
            SeekFrom::Current(by) => (self.position, by),
        };
        self.position = base.checked_add_signed(by).ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidInput, "seek before the beginning")
        })?;
        Ok(self.position)
    }
}
