//! A store of file contents.

use crate::error::{Error, ReadError};
use crate::layer::LayerTree;
use crate::limits::Limits;
use crate::progress::{Done, Meter, Progress};
use crate::tar::{Content, Segment, Sink, Stats, read_tar, read_tar_seek};
use crate::tree::DataId;
use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::ops::Range;

/// Returns contents of files by the ids that a [`Sink`] gave them: a [`ContentStore`], for example.
pub trait Contents {
    /// Opens the contents of a file.
    ///
    /// # Errors
    ///
    /// Errors of the file or source that holds the contents; [`io::ErrorKind::NotFound`] for an
    /// unknown id.
    fn open(&mut self, data: DataId) -> io::Result<StoredContent<'_>>;
}

/// Contents of one file.
#[non_exhaustive]
pub struct StoredContent<'a> {
    /// The parts of the file that have data, as byte ranges in ascending order; the rest are holes.
    pub ranges: Vec<Range<u64>>,
    /// The bytes of all ranges, one after the other.
    pub data: Box<dyn Read + 'a>,
}

impl<'a> StoredContent<'a> {
    /// Returns contents for an implementation of [`Contents`]: the ranges of the file that have
    /// data, in ascending order, and the bytes of all of them.
    pub fn new(ranges: Vec<Range<u64>>, data: impl Read + 'a) -> Self {
        Self {
            ranges,
            data: Box::new(data),
        }
    }
}

impl fmt::Debug for StoredContent<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoredContent")
            .field("ranges", &self.ranges)
            .finish_non_exhaustive()
    }
}

/// Keeps the contents of files of any number of layers: in memory, in a file, or in the archives
/// and folders that they come from.
///
/// ```
/// use fsmerge::{ContentStore, Contents, Kind, Limits, Merge};
/// use std::io::Read;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let (lower, upper) = (&[0_u8; 1024][..], &[0_u8; 1024][..]);
/// let limits = Limits::default();
/// let mut contents = ContentStore::in_memory();
/// let mut merge = Merge::new(&limits);
/// for tar in [lower, upper] {
///     let (layer, _) = contents.read_tar(tar, &limits)?;
///     merge.push(&layer)?;
/// }
/// let merged = merge.finish();
/// for (path, id) in merged.walk() {
///     if let Kind::File { data: Some(data), .. } = merged.kind(id) {
///         let mut bytes = Vec::new();
///         contents.open(data)?.data.read_to_end(&mut bytes)?;
///     }
/// }
/// # Ok(())
/// # }
/// ```
pub struct ContentStore<'a> {
    copies: Copies,
    archives: Vec<Box<dyn ReadSeek + 'a>>,
    #[cfg(all(feature = "dir", unix))]
    folders: Vec<std::path::PathBuf>,
    stored: Vec<Stored<'a>>,
    progress: Option<Progress>,
    /// Bytes of contents that were reported while they were copied.
    ahead: u64,
}

/// The copy of contents that can be read only once.
enum Copies {
    Memory(Vec<u8>),
    File { file: File, end: u64 },
}

/// Where the contents of one file are.
struct Stored<'a> {
    place: Place<'a>,
    ranges: Vec<Range<u64>>,
}

enum Place<'a> {
    /// Among the copies, from this byte on.
    Copied(u64),
    /// In an archive, from this byte on.
    Archive { archive: usize, start: u64 },
    /// In a file of a folder.
    #[cfg(all(feature = "dir", unix))]
    Folder { folder: usize, path: Vec<u8> },
    /// At a place that this function opens.
    Elsewhere(Open<'a>),
}

type Open<'a> = Box<dyn Fn() -> io::Result<Box<dyn Read + 'a>> + 'a>;

trait ReadSeek: Read + Seek {}

impl<T: Read + Seek> ReadSeek for T {}

impl<'a> ContentStore<'a> {
    /// Returns a store that copies contents to memory.
    pub fn in_memory() -> Self {
        Self::new(Copies::Memory(Vec::new()))
    }

    /// Returns a store that appends contents to `file`, which can be read and written: a temporary
    /// file, for example.
    ///
    /// ```no_run
    /// use fsmerge::{ContentStore, Limits};
    ///
    /// let spool = std::fs::File::options().read(true).write(true).create_new(true).open("spool")?;
    /// let mut contents = ContentStore::in_file(spool)?;
    /// let (layer, _) = contents.read_tar(std::io::stdin().lock(), &Limits::default())?;
    /// # let _ = layer;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Those of seeking to the file's end.
    pub fn in_file(mut file: File) -> io::Result<Self> {
        let end = file.seek(SeekFrom::End(0))?;
        Ok(Self::new(Copies::File { file, end }))
    }

    fn new(copies: Copies) -> Self {
        Self {
            copies,
            archives: Vec::new(),
            #[cfg(all(feature = "dir", unix))]
            folders: Vec::new(),
            stored: Vec::new(),
            progress: None,
            ahead: 0,
        }
    }

    /// Sets the callback that receives the progress of reading: entries and contents of all layers
    /// so far.
    ///
    /// ```
    /// use fsmerge::{ContentStore, Progress};
    ///
    /// let progress = Progress::new(|done| eprint!("\r{} entries", done.entries));
    /// let contents = ContentStore::in_memory().progress(progress);
    /// ```
    #[must_use]
    pub fn progress(mut self, progress: impl Into<Option<Progress>>) -> Self {
        self.progress = progress.into();
        self
    }

    /// Reads the archive of a layer from a stream, and copies the contents of its files.
    ///
    /// ```no_run
    /// use std::io::BufReader;
    /// use fsmerge::{ContentStore, Limits};
    ///
    /// let tar = BufReader::new(std::fs::File::open("layer.tar")?);
    /// let (layer, stats) = ContentStore::in_memory().read_tar(tar, &Limits::default())?;
    /// for warning in &stats.warnings {
    ///     eprintln!("{warning}");
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Those of [`read_tar`](crate::read_tar()); [`ReadError::Sink`] where copying failed.
    pub fn read_tar(
        &mut self,
        tar: impl BufRead,
        limits: &Limits,
    ) -> Result<(LayerTree, Stats), ReadError<io::Error>> {
        read_tar(tar, self, limits)
    }

    /// Reads the archive of a layer, and leaves the contents of its files where they are: in `tar`,
    /// which the store keeps, from its first byte on.
    ///
    /// ```no_run
    /// use fsmerge::{ContentStore, Limits};
    ///
    /// let mut contents = ContentStore::in_memory();
    /// let tar = std::fs::File::open("layer.tar")?;
    /// let (layer, _) = contents.read_archive(tar, &Limits::default())?;
    /// # let _ = layer;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Those of [`read_tar_seek`].
    pub fn read_archive(
        &mut self,
        mut tar: impl Read + Seek + 'a,
        limits: &Limits,
    ) -> Result<(LayerTree, Stats), ReadError<io::Error>> {
        tar.rewind()
            .map_err(|source| Error::Io { offset: 0, source })?;
        let mut notes = Notes {
            place: |_: &[u8], content: &Content<'_>| Place::Archive {
                archive: self.archives.len(),
                start: content.archive_offset().unwrap_or(0),
            },
            stored: &mut self.stored,
            progress: self.progress.as_ref(),
        };
        let read = read_tar_seek(BufReader::new(&mut tar), &mut notes, limits)?;
        self.archives.push(Box::new(tar));
        Ok(read)
    }

    /// Adds the contents of a file that are stored elsewhere. `ranges` are the parts of it that
    /// have data, in ascending order; `open` is called whenever they are wanted, and returns the
    /// bytes of all ranges, one after the other.
    ///
    /// ```
    /// use std::io::Read;
    /// use fsmerge::{ContentStore, Contents};
    ///
    /// let mut contents = ContentStore::in_memory();
    /// let id = contents.add(vec![0..5], || Ok(Box::new(&b"hello"[..])));
    /// let mut text = String::new();
    /// contents.open(id)?.data.read_to_string(&mut text)?;
    /// assert_eq!(text, "hello");
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn add(
        &mut self,
        ranges: Vec<Range<u64>>,
        open: impl Fn() -> io::Result<Box<dyn Read + 'a>> + 'a,
    ) -> DataId {
        keep(&mut self.stored, Place::Elsewhere(Box::new(open)), ranges)
    }

    /// Reads the tree under a directory of this host, and leaves the contents of its files where
    /// they are. A file that becomes shorter before it is opened is an error of
    /// [`open`](Contents::open), or of reading.
    ///
    /// ```no_run
    /// use fsmerge::{ContentStore, Limits};
    ///
    /// let mut contents = ContentStore::in_memory();
    /// let (layer, _) = contents.read_dir("rootfs".as_ref(), &Limits::default())?;
    /// println!("{} names", layer.names());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Those of [`read_dir`](crate::read_dir()).
    #[cfg(all(feature = "dir", unix))]
    pub fn read_dir(
        &mut self,
        root: &std::path::Path,
        limits: &Limits,
    ) -> Result<(LayerTree, Stats), ReadError<io::Error>> {
        let mut notes = Notes {
            place: |path: &[u8], _: &Content<'_>| Place::Folder {
                folder: self.folders.len(),
                path: path.to_vec(),
            },
            stored: &mut self.stored,
            progress: self.progress.as_ref(),
        };
        let read = crate::dir::read_dir(root, &mut notes, limits)?;
        self.folders.push(root.to_owned());
        Ok(read)
    }
}

impl fmt::Debug for ContentStore<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ContentStore")
            .field("files", &self.stored.len())
            .field("archives", &self.archives.len())
            .finish_non_exhaustive()
    }
}

fn keep<'a>(stored: &mut Vec<Stored<'a>>, place: Place<'a>, ranges: Vec<Range<u64>>) -> DataId {
    stored.push(Stored { place, ranges });
    DataId(stored.len() as u64 - 1)
}

/// Records where contents are stored, without reading them.
struct Notes<'s, 'a, P> {
    place: P,
    stored: &'s mut Vec<Stored<'a>>,
    progress: Option<&'s Progress>,
}

impl<'a, P: FnMut(&[u8], &Content<'_>) -> Place<'a>> Sink for Notes<'_, 'a, P> {
    type Error = io::Error;

    fn file(&mut self, path: &[u8], content: Content<'_>) -> io::Result<DataId> {
        let place = (self.place)(path, &content);
        let ranges = content.ranges().iter();
        let ranges = ranges.map(|&(start, length)| start..start + length);
        Ok(keep(self.stored, place, ranges.collect()))
    }

    fn progress(&mut self, new: Done) {
        if let Some(progress) = self.progress {
            progress.add(new);
        }
    }
}

/// Copies contents to memory or to the store's file.
impl Sink for ContentStore<'_> {
    type Error = io::Error;

    fn file(&mut self, _: &[u8], mut content: Content<'_>) -> io::Result<DataId> {
        let (mut at, mut ranges) = (0, Vec::new());
        let start = match &mut self.copies {
            Copies::Memory(bytes) => bytes.len() as u64,
            // Opened contents have moved the file's position.
            Copies::File { file, end } => file.seek(SeekFrom::Start(*end))?,
        };
        while let Some(segment) = content.next_segment() {
            match segment {
                Segment::Hole(length) => at += length,
                Segment::Data(length) => {
                    ranges.push(at..at + length);
                    at += length;
                    self.copy(&mut content, length)?;
                }
            }
        }
        Ok(keep(&mut self.stored, Place::Copied(start), ranges))
    }

    fn progress(&mut self, mut new: Done) {
        new.bytes = new.bytes.saturating_sub(std::mem::take(&mut self.ahead));
        if let Some(progress) = &self.progress {
            progress.add(new);
        }
    }
}

impl ContentStore<'_> {
    /// Copies `length` bytes of contents. Large ones are reported on the way.
    fn copy(&mut self, content: &mut Content<'_>, mut length: u64) -> io::Result<()> {
        while length > 0 {
            let bytes = length.min(Meter::BYTES);
            self.copies.append(content, bytes)?;
            length -= bytes;
            if let Some(progress) = self.progress.as_ref().filter(|_| bytes == Meter::BYTES) {
                progress.add(Done { entries: 0, bytes });
                self.ahead += bytes;
            }
        }
        Ok(())
    }
}

impl Copies {
    fn append(&mut self, content: &mut Content<'_>, mut length: u64) -> io::Result<()> {
        while length > 0 {
            let there = content.fill_buf()?;
            if there.is_empty() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let n = usize::try_from(length).map_or(there.len(), |length| length.min(there.len()));
            match self {
                Self::Memory(bytes) => bytes.extend_from_slice(&there[..n]),
                Self::File { file, end } => {
                    file.write_all(&there[..n])?;
                    *end += n as u64;
                }
            }
            content.consume(n);
            length -= n as u64;
        }
        Ok(())
    }
}

impl Contents for ContentStore<'_> {
    fn open(&mut self, data: DataId) -> io::Result<StoredContent<'_>> {
        let stored = usize::try_from(data.0)
            .ok()
            .and_then(|index| self.stored.get(index))
            .ok_or(io::ErrorKind::NotFound)?;
        let ranges = stored.ranges.clone();
        let length: u64 = ranges.iter().map(|range| range.end - range.start).sum();
        let data: Box<dyn Read + '_> = match &stored.place {
            Place::Copied(start) => match &mut self.copies {
                Copies::Memory(bytes) => {
                    let bytes = usize::try_from(*start)
                        .ok()
                        .and_then(|start| bytes.get(start..))
                        .unwrap_or_default();
                    Box::new(bytes.take(length))
                }
                Copies::File { file, .. } => {
                    file.seek(SeekFrom::Start(*start))?;
                    Box::new((&*file).take(length))
                }
            },
            Place::Elsewhere(open) => open()?,
            Place::Archive { archive, start } => {
                let archive = &mut self.archives[*archive];
                archive.seek(SeekFrom::Start(*start))?;
                Box::new(archive.take(length))
            }
            #[cfg(all(feature = "dir", unix))]
            Place::Folder { folder, path } => {
                let file = crate::dir::open(&self.folders[*folder], path)?;
                Box::new(Pieces {
                    file,
                    ranges: ranges.clone().into_iter(),
                    current: 0..0,
                })
            }
        };
        Ok(StoredContent { ranges, data })
    }
}

/// The bytes of a file's ranges, one after the other.
#[cfg(all(feature = "dir", unix))]
struct Pieces {
    file: File,
    ranges: std::vec::IntoIter<Range<u64>>,
    current: Range<u64>,
}

#[cfg(all(feature = "dir", unix))]
impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        use std::os::unix::fs::FileExt;
        while self.current.is_empty() {
            match self.ranges.next() {
                Some(next) => self.current = next,
                None => return Ok(0),
            }
        }
        let left = self.current.end - self.current.start;
        let n = usize::try_from(left).map_or(buffer.len(), |left| left.min(buffer.len()));
        let n = self.file.read_at(&mut buffer[..n], self.current.start)?;
        self.current.start += n as u64;
        Ok(n)
    }
}
