//! Copies files' contents into an image.

use std::fs::File;
use std::io::{self, BufRead, Read, Seek, Write};

use erofs_writer::{BlockSize, Builder, ChunkSize, Error, FileData};
use fsmerge::{Content, DataId, Segment, Sink};

use super::{BuildOptions, Output};

/// How many bytes of a file are in memory at a time.
const PIECE: usize = 256 << 10;

/// Adds files' contents to an image as they arrive.
pub(crate) struct Contents<W: Write + Seek> {
    pub(crate) image: Builder<W>,
    /// The contents of each [`DataId`].
    pub(crate) files: Vec<FileData>,
    block_size: BlockSize,
    chunk_size: Option<ChunkSize>,
    buffer: Vec<u8>,
}

impl<'a> Contents<Output<'a>> {
    /// Returns the contents of a new image in `out`.
    pub(crate) fn new(out: &'a File, options: &BuildOptions) -> Result<Self, Error> {
        Self::of(Output::new(out), options)
    }

    /// As [`new`](Self::new), for any output.
    pub(crate) fn of(out: Output<'a>, options: &BuildOptions) -> Result<Self, Error> {
        let image = Builder::with_dedupe(out.metered(&options.meter), options.image.clone())?;
        Ok(Self {
            image,
            files: Vec::new(),
            block_size: options.image.block_size,
            chunk_size: options.chunk_size,
            buffer: vec![0; PIECE],
        })
    }
}

impl<W: Write + Seek> Contents<W> {
    /// Copies the contents of one file into the image.
    pub(crate) fn store(&mut self, contents: &mut impl Segments) -> Result<FileData, Error> {
        let size = contents.size();
        let chunk_size = match self.chunk_size {
            None if contents.is_dense() => {
                let mut data = self.image.data();
                contents.copy(size, &mut data, &mut self.buffer)?;
                return data.finish();
            }
            None => ChunkSize::for_length(size, self.block_size),
            Some(chunk_size) => chunk_size,
        };
        let mut data = self.image.data_in_chunks(chunk_size);
        while let Some(segment) = contents.next_segment() {
            match segment {
                Segment::Hole(len) => data.hole(len)?,
                Segment::Data(len) => contents.copy(len, &mut data, &mut self.buffer)?,
                _ => return Err(io::Error::from(io::ErrorKind::Unsupported).into()),
            }
        }
        data.finish()
    }
}

impl<W: Write + Seek> Sink for Contents<W> {
    type Error = Error;

    fn file(&mut self, _path: &[u8], mut content: Content<'_>) -> Result<DataId, Error> {
        let data = self.store(&mut content)?;
        self.files.push(data);
        Ok(DataId(self.files.len() as u64 - 1))
    }
}

/// A file's contents with holes. Reading returns the bytes of data segments.
pub(crate) trait Segments: Read {
    /// The file's length in bytes, holes included.
    fn size(&self) -> u64;

    /// Returns whether there are no holes.
    fn is_dense(&self) -> bool;

    /// Returns the next segment, and skips it if it is a hole; `None` at the end.
    fn next_segment(&mut self) -> Option<Segment>;

    /// Copies the next `len` bytes in pieces as large as `buffer`.
    fn copy(&mut self, mut len: u64, to: &mut impl Write, buffer: &mut [u8]) -> io::Result<()> {
        while len > 0 {
            let piece = usize::try_from(len).map_or(buffer.len(), |len| len.min(buffer.len()));
            let n = self.read(&mut buffer[..piece])?;
            if n == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            to.write_all(&buffer[..n])?;
            len -= n as u64;
        }
        Ok(())
    }
}

impl Segments for Content<'_> {
    fn size(&self) -> u64 {
        Content::size(self)
    }

    fn is_dense(&self) -> bool {
        self.ranges() == [(0, Content::size(self))]
    }

    fn next_segment(&mut self) -> Option<Segment> {
        Content::next_segment(self)
    }

    /// Copies directly from memory.
    fn copy(&mut self, mut len: u64, to: &mut impl Write, _: &mut [u8]) -> io::Result<()> {
        while len > 0 {
            let bytes = self.fill_buf()?;
            if bytes.is_empty() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let n = usize::try_from(len).map_or(bytes.len(), |len| len.min(bytes.len()));
            to.write_all(&bytes[..n])?;
            self.consume(n);
            len -= n as u64;
        }
        Ok(())
    }
}
