//! A file's contents on their way to the sink.

use crate::progress::Done;
use crate::tree::DataId;
use std::convert::Infallible;
use std::io::{self, BufRead, Read};

/// Receives the contents of files while a layer is read.
pub trait Sink {
    /// Why storing failed.
    type Error;

    /// Stores the contents of the file `path`, which are never empty, and returns an id for them.
    /// The path is normalised, without a leading `/`. Bytes that the sink does not read are
    /// skipped.
    ///
    /// Contents may turn out not to be needed, where a later entry of the archive replaces the
    /// file.
    ///
    /// # Errors
    ///
    /// Any error of storing. If the archive is damaged, reading `content` fails, and
    /// [`read_tar`](crate::read_tar()) reports the damage instead of the sink's error.
    fn file(&mut self, path: &[u8], content: Content<'_>) -> Result<DataId, Self::Error>;

    /// Receives how much was read since the last call, after every few entries and every few MiB
    /// of contents. Does nothing unless a sink implements it.
    fn progress(&mut self, new: Done) {
        let _ = new;
    }
}

/// Skips all contents: for reading names and attributes alone.
impl Sink for () {
    type Error = Infallible;

    fn file(&mut self, _: &[u8], _: Content<'_>) -> Result<DataId, Infallible> {
        Ok(DataId(0))
    }
}

/// A run of a file: what [`Content::next_segment`] says comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Segment {
    /// So many bytes to read.
    Data(u64),
    /// So many zeros that take no space in the file. The reader has passed them already.
    Hole(u64),
}

/// One file's contents. Reading gives every byte of the file, holes as zeros; [`BufRead`] gives
/// them without a copy where the layer's bytes are in memory. A sink that keeps holes asks for
/// segments:
///
/// ```
/// # use fsmerge::{Content, Segment};
/// # use std::io::{self, Read, Seek, SeekFrom, Write};
/// fn store(content: &mut Content<'_>, file: &mut std::fs::File) -> io::Result<()> {
///     while let Some(segment) = content.next_segment() {
///         match segment {
///             Segment::Data(len) => drop(io::copy(&mut content.take(len), file)?),
///             Segment::Hole(len) => drop(file.seek(SeekFrom::Current(len as i64))?),
///             _ => return Err(io::ErrorKind::Unsupported.into()),
///         }
///     }
///     file.set_len(content.size())
/// }
/// ```
pub struct Content<'a> {
    size: u64,
    position: u64,
    /// Ascending, not touching, inside the file: where its data is, as offset and length.
    ranges: &'a [(u64, u64)],
    /// The first of the ranges that is not read yet.
    at: usize,
    archive_offset: Option<u64>,
    data: &'a mut dyn BufRead,
}

/// The zeros that holes read as.
static ZEROS: [u8; 4096] = [0; 4096];

impl<'a> Content<'a> {
    pub(crate) fn new(size: u64, ranges: &'a [(u64, u64)], data: &'a mut dyn BufRead) -> Self {
        Self {
            size,
            position: 0,
            ranges,
            at: 0,
            archive_offset: None,
            data,
        }
    }

    /// Contents that begin at byte `offset` of an archive.
    pub(super) fn in_archive(self, offset: u64) -> Self {
        Self {
            archive_offset: Some(offset),
            ..self
        }
    }

    /// The file's length in bytes, holes included.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Where data is, as offsets and lengths in bytes, ascending. What lies between are holes. One
    /// range for a file without holes.
    pub fn ranges(&self) -> &'a [(u64, u64)] {
        self.ranges
    }

    /// Where in the archive the data begins, in bytes; the ranges lie there one after the other.
    /// None for contents that are not from an archive.
    pub fn archive_offset(&self) -> Option<u64> {
        self.archive_offset
    }

    /// What comes next: data to be read, or a hole, which this passes over. None at the end of the
    /// file.
    pub fn next_segment(&mut self) -> Option<Segment> {
        let (data, len) = self.run();
        if len == 0 {
            return None;
        }
        if data {
            return Some(Segment::Data(len));
        }
        self.position += len;
        Some(Segment::Hole(len))
    }

    /// Whether data or a hole is at the position, and how far it goes. Length 0 at the end.
    fn run(&mut self) -> (bool, u64) {
        while let Some(&(start, len)) = self.ranges.get(self.at) {
            if self.position < start {
                return (false, start - self.position);
            }
            let left = start + len - self.position;
            if left > 0 {
                return (true, left);
            }
            self.at += 1;
        }
        (false, self.size - self.position)
    }

    /// Returns the sink's result, and how many bytes of the file's data in the archive were not
    /// read.
    pub(super) fn pass_to<S: Sink>(
        self,
        sink: &mut S,
        path: &[u8],
    ) -> (Result<DataId, S::Error>, u64) {
        let stored: u64 = self.ranges.iter().map(|&(_, len)| len).sum();
        let Content { data, .. } = self;
        let mut counted = Counted { data, read: 0 };
        let result = sink.file(
            path,
            Content {
                data: &mut counted,
                ..self
            },
        );
        (result, stored.saturating_sub(counted.read))
    }
}

/// Counts what a sink reads of the archive: the sink owns its [`Content`], so it cannot be asked
/// afterwards.
struct Counted<'a> {
    data: &'a mut dyn BufRead,
    read: u64,
}

impl Read for Counted<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.data.read(buffer)?;
        self.read += n as u64;
        Ok(n)
    }
}

impl BufRead for Counted<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.data.fill_buf()
    }

    fn consume(&mut self, bytes: usize) {
        self.data.consume(bytes);
        self.read += bytes as u64;
    }
}

/// Bytes of the file where they are in memory: without a copy, for contents that go elsewhere as
/// they are.
impl BufRead for Content<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        let (data, len) = self.run();
        let bytes = match data {
            true => self.data.fill_buf()?,
            false => &ZEROS,
        };
        let n = usize::try_from(len).map_or(bytes.len(), |len| len.min(bytes.len()));
        Ok(&bytes[..n])
    }

    fn consume(&mut self, bytes: usize) {
        if self.run().0 {
            self.data.consume(bytes);
        }
        self.position += bytes as u64;
    }
}

impl Read for Content<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let (data, len) = self.run();
        let n = usize::try_from(len).map_or(buffer.len(), |len| len.min(buffer.len()));
        let buffer = &mut buffer[..n];
        let n = if data {
            self.data.read(buffer)?
        } else {
            buffer.fill(0);
            n
        };
        self.position += n as u64;
        Ok(n)
    }
}

impl std::fmt::Debug for Content<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Content")
            .field("size", &self.size)
            .field("position", &self.position)
            .field("ranges", &self.ranges.len())
            .finish_non_exhaustive()
    }
}
