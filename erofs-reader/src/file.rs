//! Reading the contents of files.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
#[cfg(feature = "std")]
use std::io::{self, Read, Seek, SeekFrom};

use crate::corruption::Detail;
use crate::error::Error;
use crate::extent::{Extent, Mapper, Source};
use crate::file_type::FileType;
use crate::image::Image;
use crate::inode::Inode;
use crate::num::{clamp_len, narrow, wide};
use crate::read_at::ReadAt;

/// The data of an inode of any type: a directory's and a symbolic link's as well as a file's.
#[derive(Debug)]
pub(crate) struct Data<'a, R> {
    image: &'a Image<R>,
    inode: Inode,
    mapper: Mapper,
    /// The extent that was read from last.
    current: Option<Extent>,
    /// Its bytes, if they had to be decoded.
    decoded: Option<Arc<Vec<u8>>>,
    /// Room for compressed bytes.
    input: Vec<u8>,
    /// The data of the packed inode, once it was needed.
    packed: Option<Box<Data<'a, R>>>,
}

impl<'a, R: ReadAt> Data<'a, R> {
    /// Reads at most `buf.len()` bytes at `offset`; fewer where an extent or the data ends.
    pub(crate) fn read_at(&mut self, buf: &mut [u8], offset: u64) -> Result<usize, Error> {
        if offset >= self.inode.size || buf.is_empty() {
            return Ok(0);
        }
        let extent = match self.current {
            Some(extent) if (extent.logical..extent.end()).contains(&offset) => extent,
            _ => self.mapper.at(self.image, offset)?,
        };
        if self.current != Some(extent) {
            self.current = Some(extent);
            self.decoded = None;
        }
        let within = offset.saturating_sub(extent.logical);
        let n = clamp_len(buf.len(), extent.length.saturating_sub(within));
        let buf = buf.get_mut(..n).unwrap_or_default();
        let nid = self.inode.nid;
        match extent.source {
            Source::Hole => buf.fill(0),
            Source::Data { device, offset } => {
                let at = offset.saturating_add(within);
                self.image.read_device(device, Some(nid), buf, at)?;
            }
            Source::Inline { offset } => {
                let at = offset.saturating_add(within);
                self.image.read_area(self.inode.area(), nid, buf, at)?;
            }
            Source::Compressed { .. } | Source::CompressedInline { .. } => {
                if let Some(decoded) = self.decoded(&extent) {
                    let from = decoded.get(narrow(within)..).unwrap_or_default();
                    if let Some(from) = from.get(..n) {
                        buf.copy_from_slice(from);
                    }
                } else if wide(n) == extent.length {
                    // All of it: whoever reads so will hardly ask for it again.
                    self.decode(&extent, buf)?;
                } else {
                    let mut decoded = vec![0; narrow(extent.length)];
                    self.decode(&extent, &mut decoded)?;
                    let decoded = Arc::new(decoded);
                    self.image.pclusters.put(nid, extent.logical, &decoded);
                    let from = decoded.get(narrow(within)..).unwrap_or_default();
                    if let Some(from) = from.get(..n) {
                        buf.copy_from_slice(from);
                    }
                    self.decoded = Some(decoded);
                }
            }
            Source::Fragment { offset } => {
                let at = offset.saturating_add(within);
                let packed = match &mut self.packed {
                    Some(packed) => packed,
                    None => {
                        let packed = self.image.packed(&self.inode)?;
                        let data = self.image.data(&packed)?;
                        self.packed.insert(Box::new(data))
                    }
                };
                if packed.read_full_at(buf, at)? < n {
                    let what = Detail::Fragment {
                        start: offset,
                        length: extent.length,
                        size: packed.inode.size,
                    };
                    return Err(self.inode.corrupt(self.inode.position, what));
                }
            }
        }
        Ok(n)
    }

    /// The bytes of a compressed extent, where they were decoded already.
    fn decoded(&mut self, extent: &Extent) -> Option<&[u8]> {
        if self.decoded.is_none() {
            self.decoded = self.image.pclusters.get(self.inode.nid, extent.logical);
        }
        self.decoded.as_ref().map(|bytes| &bytes[..])
    }

    /// Decodes a compressed extent into `output`, which has its length.
    fn decode(&mut self, extent: &Extent, output: &mut [u8]) -> Result<(), Error> {
        let nid = self.inode.nid;
        let (length, algorithm) = match extent.source {
            Source::Compressed {
                length, algorithm, ..
            }
            | Source::CompressedInline {
                length, algorithm, ..
            } => (narrow(length), algorithm),
            _ => return Ok(()),
        };
        match extent.source {
            Source::Compressed { device, offset, .. } => {
                self.image
                    .check_range(device, Some(nid), offset, wide(length))?;
                self.input.resize(length, 0);
                self.image
                    .read_device(device, Some(nid), &mut self.input, offset)?;
            }
            Source::CompressedInline { offset, .. } => {
                self.input.resize(length, 0);
                let area = self.inode.area();
                self.image.read_area(area, nid, &mut self.input, offset)?;
            }
            _ => {}
        }
        let padded = self.image.is_padded();
        self.image
            .decoders
            .with(|decoders| decoders.decode(&self.inode, algorithm, padded, &self.input, output))
    }

    /// Fills `buf` from `offset`, or says how many bytes there were.
    pub(crate) fn read_full_at(&mut self, buf: &mut [u8], offset: u64) -> Result<usize, Error> {
        let mut done = 0;
        while let Some(rest) = buf.get_mut(done..).filter(|rest| !rest.is_empty()) {
            let n = self.read_at(rest, offset.saturating_add(wide(done)))?;
            if n == 0 {
                break;
            }
            done = done.saturating_add(n);
        }
        Ok(done)
    }
}

impl<R: ReadAt> Image<R> {
    pub(crate) fn data(&self, inode: &Inode) -> Result<Data<'_, R>, Error> {
        Ok(Data {
            image: self,
            inode: *inode,
            mapper: self.mapper(inode)?,
            current: None,
            decoded: None,
            input: Vec::new(),
            packed: None,
        })
    }

    /// The contents of the regular file `inode`.
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
    /// Where it is not a regular file, or its block map is damaged.
    pub fn file(&self, inode: &Inode) -> Result<FileReader<'_, R>, Error> {
        inode.expect(FileType::Regular)?;
        Ok(FileReader {
            data: self.data(inode)?,
            #[cfg(feature = "std")]
            position: 0,
        })
    }

    /// The target of the symbolic link `inode`.
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
    /// Where it is not a symbolic link, or its target is longer than 4095 bytes, empty or has a NUL.
    pub fn read_link(&self, inode: &Inode) -> Result<Vec<u8>, Error> {
        /// The kernel's `PATH_MAX`, which counts a NUL behind the path.
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
/// Reads go to the image directly: put a [`BufReader`](std::io::BufReader) in front for small ones.
#[derive(Debug)]
pub struct FileReader<'a, R> {
    data: Data<'a, R>,
    #[cfg(feature = "std")]
    position: u64,
}

impl<R: ReadAt> FileReader<'_, R> {
    /// The file's size in bytes.
    pub fn size(&self) -> u64 {
        self.data.inode.size
    }

    /// Reads at most `buf.len()` bytes at `offset`, without regard to the position of `Read` and `Seek`; 0 means that
    /// the file ends at or before `offset`.
    ///
    /// # Errors
    ///
    /// Where the image is damaged, or its source fails.
    pub fn read_at(&mut self, buf: &mut [u8], offset: u64) -> Result<usize, Error> {
        self.data.read_at(buf, offset)
    }
}

#[cfg(feature = "std")]
impl<R: ReadAt> Read for FileReader<'_, R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.data.read_at(buf, self.position)?;
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
