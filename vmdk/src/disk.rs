//! The bytes of a disk.

use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;
use std::sync::Arc;

use crate::files::{Folder, Open, OpenOptions, Opened, Opener};
use crate::sparse::{self, SparseExtent};
use crate::{
    Access, Descriptor, Error, Extent, ExtentKind, MAX_DESCRIPTOR, NO_PARENT, ReadAt, ReadAtError,
    SECTOR, SparseProblem,
};

/// The bytes of a disk: all its extents, one after the other.
///
/// [`read_at`](Self::read_at) needs no exclusive access, so threads can share a disk; [`Read`] and
/// [`Seek`] keep a position.
///
/// ```
/// use std::io::Read;
///
/// // Sources may be anything that implements `ReadAt`, here vectors.
/// let descriptor = vmdk::Descriptor::flat(&[("zeros", 512), ("ones", 512)])?;
/// let mut disk = vmdk::Disk::from_descriptor(descriptor, |name| {
///     Ok(if name == "ones" { vec![1_u8; 512] } else { vec![0; 512] })
/// })?;
/// let mut bytes = Vec::new();
/// disk.read_to_end(&mut bytes)?;
/// assert_eq!((bytes.len(), bytes[511], bytes[512]), (1024, 0, 1));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Disk {
    descriptor: Descriptor,
    segments: Vec<Segment>,
    size: u64,
    position: u64,
}

/// An extent in the disk: its bytes are `start..end`.
#[derive(Debug)]
struct Segment {
    start: u64,
    end: u64,
    source: Source,
}

#[derive(Debug)]
enum Source {
    Flat {
        file: Opened,
        /// Of the extent's first byte in `file`.
        offset: u64,
    },
    Sparse(SparseExtent),
    Zero,
    Forbidden,
}

impl Disk {
    /// Opens the disk that the descriptor or the sparse image at `path` describes.
    ///
    /// ```no_run
    /// let mut disk = vmdk::Disk::open("disk.vmdk")?;
    /// println!("{} bytes", disk.size());
    /// std::io::copy(&mut disk, &mut std::fs::File::create("disk.raw")?)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`open_with`](Self::open_with).
    pub fn open(path: impl AsRef<Path>) -> Result<Self, Error> {
        Self::open_with(path, &OpenOptions::default())
    }

    /// Opens the disk that the descriptor or the sparse image at `path` describes, following names
    /// as `options` allow.
    ///
    /// ```no_run
    /// use vmdk::{Disk, OpenOptions};
    ///
    /// // Extents may be anywhere in this folder, and nowhere else.
    /// let options = OpenOptions::default().root("/var/lib/images");
    /// let disk = Disk::open_with("/var/lib/images/vm/disk.vmdk", &options)?;
    /// println!("{} bytes", disk.size());
    /// # Ok::<(), vmdk::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// What [`Descriptor::parse`] refuses; [`Error::Name`] for a name that leads outside the
    /// allowed folder or to something that is not a regular file; [`Error::ShortFile`];
    /// [`Error::Sparse`]; [`Error::Unsupported`] for a differential disk or an extent type that
    /// cannot be read; [`Error::Io`].
    pub fn open_with(path: impl AsRef<Path>, options: &OpenOptions) -> Result<Self, Error> {
        let path = path.as_ref();
        let folder = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        Self::of(
            Opened::own(path)?,
            &mut Folder::new(folder, options.root.as_deref()),
        )
    }

    /// Opens the disk in `source` alone: a monolithicSparse or streamOptimized image.
    ///
    /// ```
    /// let raw = vec![7; 64 << 10];
    /// let mut image = Vec::new();
    /// vmdk::write_stream_optimized(&raw[..], 64 << 10, &mut image, &Default::default())?;
    /// let disk = vmdk::Disk::from_source(image)?;
    /// assert_eq!(disk.size(), 64 << 10);
    /// # Ok::<(), vmdk::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`open_with`](Self::open_with). A descriptor that names other files is
    /// [`Error::Unsupported`]: see [`from_descriptor`](Self::from_descriptor).
    pub fn from_source(source: impl ReadAt + Send + Sync + 'static) -> Result<Self, Error> {
        /// No sources at all.
        struct Nothing;
        impl Open for Nothing {
            fn open(&mut self, name: &str) -> Result<Opened, Error> {
                Err(Error::Unsupported {
                    what: format!("a disk in several files ({name:?} is another)"),
                })
            }
        }
        Self::of(Opened::new(None, Arc::new(source))?, &mut Nothing)
    }

    /// Opens the disk that `descriptor` describes; `open` opens each source that it names, once.
    ///
    /// ```
    /// use vmdk::{Descriptor, Disk};
    ///
    /// let descriptor = Descriptor::flat(&[("a.img", 512), ("b.img", 512)])?;
    /// let disk = Disk::from_descriptor(descriptor, |name| Ok(vec![name.as_bytes()[0]; 512]))?;
    /// let mut bytes = [0; 2];
    /// disk.read_at(&mut bytes, 511)?;
    /// assert_eq!(bytes, *b"ab");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`open_with`](Self::open_with); [`Error::Io`] with the name where `open` fails.
    pub fn from_descriptor<S: ReadAt + Send + Sync + 'static>(
        descriptor: Descriptor,
        open: impl FnMut(&str) -> Result<S, ReadAtError>,
    ) -> Result<Self, Error> {
        Self::over(descriptor, &mut Opener::new(open))
    }

    /// The disk whose descriptor `file` is, or has inside.
    fn of(file: Opened, files: &mut impl Open) -> Result<Self, Error> {
        let mut start = [0; 4];
        let known = start.len().min(usize::try_from(file.size()).unwrap_or(4));
        file.read(&mut start[..known], 0)?;
        if start == *b"COWD" {
            return Err(Error::Unsupported {
                what: "a VMFSSPARSE image (COWD)".to_owned(),
            });
        }
        if sparse::is_sparse(&start) {
            let descriptor = Descriptor::parse(&sparse::embedded_descriptor(&file)?)?;
            // An embedded descriptor is of the image it is in, whatever name it gives it.
            return match descriptor.extents() {
                [extent] if matches!(extent.kind(), ExtentKind::Sparse { .. }) => {
                    Self::over(descriptor, &mut Embedded(file))
                }
                _ => Err(file.damaged(0, SparseProblem::Descriptor)),
            };
        }
        let bytes = file.size();
        if bytes > MAX_DESCRIPTOR {
            return Err(Error::TooLong { bytes });
        }
        let mut text = vec![0; usize::try_from(bytes).unwrap_or(usize::MAX)];
        file.read(&mut text, 0)?;
        Self::over(Descriptor::parse(&text)?, files)
    }

    fn over(descriptor: Descriptor, files: &mut impl Open) -> Result<Self, Error> {
        if descriptor.parent_cid() != NO_PARENT || descriptor.parent_hint().is_some() {
            return Err(Error::Unsupported {
                what: "a differential disk (it has a parent)".to_owned(),
            });
        }
        let mut segments = Vec::with_capacity(descriptor.extents().len());
        let mut start = 0;
        for extent in descriptor.extents() {
            // A descriptor's sum fits.
            let bytes = extent.sectors() * SECTOR;
            let end = start + bytes;
            let source = source(extent, bytes, files)?;
            segments.push(Segment { start, end, source });
            start = end;
        }
        Ok(Self {
            descriptor,
            segments,
            size: start,
            position: 0,
        })
    }

    /// Returns the descriptor.
    pub fn descriptor(&self) -> &Descriptor {
        &self.descriptor
    }

    /// Returns the size of the disk in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Reads bytes at `offset` into `buffer` and returns their number. It is less than requested
    /// only at the end of the disk.
    ///
    /// ```no_run
    /// let disk = vmdk::Disk::open("disk.vmdk")?;
    /// let mut sector = [0; 512];
    /// assert_eq!(disk.read_at(&mut sector, 0)?, 512);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::PermissionDenied`] in a `NOACCESS` extent, [`io::ErrorKind::UnexpectedEof`]
    /// where a file has shrunk since it was opened, [`io::ErrorKind::InvalidData`] where a sparse
    /// image is damaged, and what the operating system reports. The error inside is an [`Error`]
    /// that names the file.
    pub fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut done = 0;
        let first = self
            .segments
            .partition_point(|segment| segment.end <= offset);
        for segment in self.segments.iter().skip(first) {
            let rest = &mut buffer[done..];
            if rest.is_empty() {
                break;
            }
            let at = offset + done as u64;
            let here = usize::try_from(segment.end - at)
                .unwrap_or(usize::MAX)
                .min(rest.len());
            segment.source.read(&mut rest[..here], at - segment.start)?;
            done += here;
        }
        Ok(done)
    }
}

/// The image that a descriptor is inside of.
struct Embedded(Opened);

impl Open for Embedded {
    fn open(&mut self, _: &str) -> Result<Opened, Error> {
        Ok(self.0.clone())
    }
}

impl ReadAt for Disk {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize, ReadAtError> {
        Ok(Self::read_at(self, buf, offset)?)
    }

    fn size(&self) -> Result<u64, ReadAtError> {
        Ok(self.size)
    }
}

impl Read for Disk {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = Self::read_at(self, buffer, self.position)?;
        self.position += n as u64;
        Ok(n)
    }
}

impl Seek for Disk {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let position = match to {
            SeekFrom::Start(position) => Some(position),
            SeekFrom::Current(by) => self.position.checked_add_signed(by),
            SeekFrom::End(by) => self.size.checked_add_signed(by),
        };
        self.position = position.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.position)
    }
}

impl Source {
    fn read(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        match self {
            Self::Flat { file, offset: base } => Ok(file.read(buffer, base + offset)?),
            Self::Sparse(extent) => extent.read(buffer, offset),
            Self::Zero => {
                buffer.fill(0);
                Ok(())
            }
            Self::Forbidden => Err(io::Error::new(
                io::ErrorKind::PermissionDenied,
                "a NOACCESS extent",
            )),
        }
    }
}

/// Where the bytes of `extent`, which has `bytes`, are.
fn source(extent: &Extent, bytes: u64, files: &mut impl Open) -> Result<Source, Error> {
    if extent.access() == Access::None {
        return Ok(Source::Forbidden);
    }
    let (name, offset) = match extent.kind() {
        ExtentKind::Zero => return Ok(Source::Zero),
        ExtentKind::Sparse { file } => {
            let extent = SparseExtent::open(files.open(file)?, extent.sectors())?;
            return Ok(Source::Sparse(extent));
        }
        ExtentKind::Other { name, .. } => {
            return Err(Error::Unsupported {
                what: format!("extent type {name}"),
            });
        }
        ExtentKind::Vmfs { file } => (file, 0),
        ExtentKind::Flat {
            file,
            offset_sectors,
        } => (
            file,
            offset_sectors.checked_mul(SECTOR).ok_or(Error::Overflow)?,
        ),
    };
    let needed = offset.checked_add(bytes).ok_or(Error::Overflow)?;
    let file = files.open(name)?;
    if file.size() < needed {
        return Err(Error::ShortFile {
            path: file.path(),
            needed,
            actual: file.size(),
        });
    }
    Ok(Source::Flat { file, offset })
}
