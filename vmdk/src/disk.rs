use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::sparse::{self, SparseExtent};
use crate::{
    Access, Descriptor, Error, Extent, ExtentKind, MAX_DESCRIPTOR, NO_PARENT, NameProblem, SECTOR,
    SparseProblem, file, name,
};

/// How [`Disk::open_with`] follows the names in a descriptor.
#[derive(Clone, Debug, Default)]
pub struct OpenOptions {
    /// The folder that every extent's file must lie in, after `..` and symlinks are resolved. `None`: the descriptor's own
    /// folder, and no `..` at all.
    pub root: Option<PathBuf>,
}

/// The bytes of a disk: all its extents, one after the other.
///
/// [`read_at`](Self::read_at) needs no exclusive access, so threads can share a disk; [`Read`] and [`Seek`] keep a position.
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
        path: Arc<Path>,
        file: Arc<File>,
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
    /// # Errors
    ///
    /// As [`open_with`](Self::open_with).
    pub fn open(path: impl AsRef<Path>) -> Result<Self, Error> {
        Self::open_with(path, &OpenOptions::default())
    }

    /// Opens the disk that the descriptor at `path` describes, following names as `options` allow.
    ///
    /// # Errors
    ///
    /// What [`Descriptor::parse`] refuses; [`Error::Name`] for a name that leads outside the allowed folder or to something
    /// that is no regular file; [`Error::ShortFile`]; [`Error::Unsupported`] for a differential disk or an extent type
    /// that cannot be read; [`Error::Io`].
    pub fn open_with(path: impl AsRef<Path>, options: &OpenOptions) -> Result<Self, Error> {
        let path = path.as_ref();
        let (descriptor, image) = read_descriptor(path)?;
        let folder = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        if descriptor.parent_cid != NO_PARENT || descriptor.parent_hint.is_some() {
            return Err(Error::Unsupported {
                what: "a differential disk (it has a parent)".to_owned(),
            });
        }
        let mut files = Files {
            folder,
            root: options.root.as_deref(),
            open: HashMap::new(),
        };
        let mut segments = Vec::with_capacity(descriptor.extents.len());
        let mut start = 0;
        for extent in &descriptor.extents {
            // `parse` checked that all of them fit.
            let bytes = extent.sectors * SECTOR;
            let end = start + bytes;
            let source = match &image {
                None => files.source(extent, bytes)?,
                // An embedded descriptor is of the image it is in, whatever name it gives it.
                Some((file, len)) => match (&extent.kind, descriptor.extents.len()) {
                    (ExtentKind::Sparse { .. }, 1) => {
                        let file = file.clone();
                        Source::Sparse(SparseExtent::open(file, *len, extent.sectors, path)?)
                    }
                    _ => {
                        let problem = SparseProblem::Descriptor;
                        return Err(Error::Sparse { sector: 0, problem });
                    }
                },
            };
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

    /// The descriptor.
    pub fn descriptor(&self) -> &Descriptor {
        &self.descriptor
    }

    /// The disk's size in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Reads bytes from `offset` on into `buffer` and says how many: fewer than asked for at the end of the disk only.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::PermissionDenied`] in a `NOACCESS` extent, [`io::ErrorKind::UnexpectedEof`] where a file has shrunk
    /// since it was opened, and what the operating system says.
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

impl Read for Disk {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.read_at(buffer, self.position)?;
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
            Self::Flat {
                path,
                file,
                offset: base,
            } => file::read_exact_at(file, buffer, base + offset).map_err(|error| {
                io::Error::new(error.kind(), format!("{}: {error}", path.display()))
            }),
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

/// The files of a disk, each opened once however many extents lie in it.
struct Files<'a> {
    folder: &'a Path,
    root: Option<&'a Path>,
    open: HashMap<Arc<Path>, (Arc<File>, u64)>,
}

impl Files<'_> {
    fn source(&mut self, extent: &Extent, bytes: u64) -> Result<Source, Error> {
        if extent.access == Access::None {
            return Ok(Source::Forbidden);
        }
        match &extent.kind {
            ExtentKind::Zero => Ok(Source::Zero),
            ExtentKind::Flat {
                file,
                offset_sectors,
            } => {
                let offset = offset_sectors.checked_mul(SECTOR).ok_or(Error::Overflow)?;
                let needed = offset.checked_add(bytes).ok_or(Error::Overflow)?;
                let (path, file, actual) = self.file(file)?;
                if actual < needed {
                    return Err(Error::ShortFile {
                        path: path.to_path_buf(),
                        needed,
                        actual,
                    });
                }
                Ok(Source::Flat { path, file, offset })
            }
            ExtentKind::Sparse { file } => {
                let (path, file, len) = self.file(file)?;
                SparseExtent::open(file, len, extent.sectors, &path).map(Source::Sparse)
            }
            ExtentKind::Other { name, .. } => Err(Error::Unsupported {
                what: format!("extent type {name}"),
            }),
        }
    }

    fn file(&mut self, name: &str) -> Result<(Arc<Path>, Arc<File>, u64), Error> {
        let path: Arc<Path> = name::resolve(self.folder, self.root, name)?.into();
        if let Some((file, size)) = self.open.get(&path) {
            return Ok((path, file.clone(), *size));
        }
        let failed = |source| Error::Io {
            path: path.to_path_buf(),
            source,
        };
        let file = File::open(&path).map_err(failed)?;
        let size = file.metadata().map_err(failed)?.len();
        let file = Arc::new(file);
        self.open.insert(path.clone(), (file.clone(), size));
        Ok((path, file, size))
    }
}

/// A sparse image with its descriptor inside, and its size in bytes.
type Image = (Arc<File>, u64);

/// The descriptor that the file at `path` is, or has inside; then the file is given, too.
fn read_descriptor(path: &Path) -> Result<(Descriptor, Option<Image>), Error> {
    let failed = |source| Error::Io {
        path: path.to_owned(),
        source,
    };
    let meta = path.metadata().map_err(failed)?;
    if !meta.is_file() {
        let name = path.display().to_string();
        return Err(Error::Name {
            name,
            problem: NameProblem::NotAFile,
        });
    }
    let mut file = File::open(path).map_err(failed)?;
    let mut bytes = Vec::new();
    file.by_ref()
        .take(4)
        .read_to_end(&mut bytes)
        .map_err(failed)?;
    if sparse::is_sparse(&bytes) {
        let len = file.metadata().map_err(failed)?.len();
        let descriptor = Descriptor::parse(&sparse::embedded_descriptor(&file, len, path)?)?;
        return Ok((descriptor, Some((Arc::new(file), len))));
    }
    file.take(MAX_DESCRIPTOR)
        .read_to_end(&mut bytes)
        .map_err(failed)?;
    Ok((Descriptor::parse(&bytes)?, None))
}
