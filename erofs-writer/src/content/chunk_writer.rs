//! Contents of regular files in chunks, written as they arrive.

use std::fmt;
use std::io::{self, Seek, Write};

use xxhash_rust::xxh3::Xxh3;

use super::area::ContentArea;
use crate::chunks::{CHUNKS_MAX, ChunkPlace, ChunkSize};
use crate::error::Error;
use crate::file_data::FileData;

/// Writer of the contents of one regular file, in chunks. Dropped without [`finish`](Self::finish),
/// it leaves nothing in the image.
///
/// A chunk that [`hole`](Self::hole) covers takes no space. Where the builder looks for equal
/// contents, equal chunks are stored once. Contents that turn out to lie in one piece are kept as
/// by a [`DataWriter`](crate::DataWriter).
#[must_use = "contents are stored by `finish`"]
pub struct ChunkWriter<'a, W: Write + Seek> {
    area: &'a mut ContentArea<W>,
    chunk_size: ChunkSize,
    size: u64,
    /// The file's first place in the builder's list.
    first: usize,
    current: Current,
    /// Running hash over the hashes of all chunks.
    hash: Box<Xxh3>,
}

/// The chunk that is being filled.
struct Current {
    /// Where it goes.
    start: u64,
    filled: u64,
    has_data: bool,
    has_hole: bool,
    hash: Box<Xxh3>,
}

impl Current {
    fn new(start: u64) -> Self {
        Self {
            start,
            filled: 0,
            has_data: false,
            has_hole: false,
            hash: Box::new(Xxh3::new()),
        }
    }

    fn restart(&mut self, start: u64) {
        self.start = start;
        self.filled = 0;
        self.has_data = false;
        self.has_hole = false;
        self.hash.reset();
    }
}

impl<W: Write + Seek> fmt::Debug for ChunkWriter<'_, W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChunkWriter")
            .field("chunk_size", &self.chunk_size)
            .field("size", &self.size)
            .finish_non_exhaustive()
    }
}

impl<'a, W: Write + Seek> ChunkWriter<'a, W> {
    pub(crate) fn new(area: &'a mut ContentArea<W>, chunk_size: ChunkSize) -> Self {
        let start = area.data_end();
        let first = area.chunks.len();
        Self {
            area,
            chunk_size,
            size: 0,
            first,
            current: Current::new(start),
            hash: Box::new(Xxh3::new()),
        }
    }

    /// Appends `length` zeros. Those that fill a chunk take no space.
    ///
    /// ```
    /// use std::io::{Cursor, Write};
    ///
    /// use erofs_writer::{Builder, ChunkSize, Metadata, Node, Options};
    ///
    /// let mut image = Builder::new(Cursor::new(Vec::new()), Options::default())?;
    /// let chunks = ChunkSize::for_length(1 << 30, image.options().block_size);
    /// let mut contents = image.data_in_chunks(chunks);
    /// contents.write_all(b"first")?;
    /// contents.hole((1 << 30) - 5)?;
    /// let contents = contents.finish()?;
    /// assert_eq!(contents.size(), 1 << 30);
    /// image.add_path(b"disk.img", Metadata::new(0o644), Node::File(contents))?;
    /// assert!(image.finish()?.1.bytes < 1 << 20);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::TooManyChunks`] where the file has too many of them; otherwise as for
    /// [`DataWriter::hole`](crate::DataWriter::hole).
    pub fn hole(&mut self, length: u64) -> Result<(), Error> {
        self.grow(length)?;
        let mut left = length;
        while left > 0 {
            let whole = left / self.chunk_bytes();
            if self.current.filled == 0 && whole > 0 {
                let end = self.area.chunks.len() + whole as usize;
                self.area.chunks.resize(end, ChunkPlace::HOLE);
                left -= whole * self.chunk_bytes();
                continue;
            }
            let n = left.min(self.room());
            self.current.filled += n;
            self.current.has_hole = true;
            left -= n;
            if self.room() == 0 {
                self.end_chunk()?;
            }
        }
        Ok(())
    }

    /// Ends the contents, and returns where they lie.
    ///
    /// # Errors
    ///
    /// As for [`hole`](Self::hole).
    pub fn finish(mut self) -> Result<FileData, Error> {
        if self.current.filled > 0 {
            self.end_chunk()?;
        }
        if self.size == 0 {
            return Ok(FileData::EMPTY);
        }
        self.hash_holes();
        let digest = self.hash.digest128();
        let size = self.size;
        self.area.stored(self.current.start, digest, size);
        if let Some(block) = self.one_piece() {
            self.area.chunks.truncate(self.first);
            return Ok(FileData::flat(0, block, size));
        }
        let data = FileData::chunked(self.chunk_size, self.first as u64, size);
        // Dropping this writer must not roll back the finished chunks.
        self.first = self.area.chunks.len();
        Ok(data)
    }

    /// Hashes which chunks are holes. This happens once all are known, because a run of holes may
    /// arrive in any number of pieces.
    fn hash_holes(&mut self) {
        let places = &self.area.chunks[self.first..];
        for run in places.chunk_by(|a, b| (*a == ChunkPlace::HOLE) == (*b == ChunkPlace::HOLE)) {
            self.hash.update(&(run.len() as u64).to_le_bytes());
        }
    }

    /// The first block, if every chunk follows the previous one.
    fn one_piece(&self) -> Option<u64> {
        let places = &self.area.chunks[self.first..];
        let (_, first) = places.first()?.get()?;
        let expected =
            |i: usize| ChunkPlace::new(0, first + ((i as u64) << self.chunk_size.block_bits()));
        let in_place = |(i, &place): (usize, &ChunkPlace)| place == expected(i);
        places.iter().enumerate().all(in_place).then_some(first)
    }

    fn chunk_bytes(&self) -> u64 {
        self.chunk_size.bytes(self.area.options.block_size)
    }

    fn room(&self) -> u64 {
        self.chunk_bytes() - self.current.filled
    }

    /// Checks that the file can be `length` bytes longer, and records it.
    fn grow(&mut self, length: u64) -> Result<(), Error> {
        let size = self.size.saturating_add(length);
        if size.div_ceil(self.chunk_bytes()) > CHUNKS_MAX || size > i64::MAX as u64 {
            return Err(Error::TooManyChunks {
                size,
                chunk_size: self.chunk_bytes(),
                limit: CHUNKS_MAX,
            });
        }
        self.size = size;
        self.area.report(length);
        Ok(())
    }

    fn end_chunk(&mut self) -> Result<(), Error> {
        let Current { start, filled, .. } = self.current;
        if !self.current.has_data {
            self.area.chunks.push(ChunkPlace::HOLE);
            self.current.restart(start);
            return Ok(());
        }
        let block_size = self.area.options.block_size;
        let end = block_size.align(start + filled);
        self.area.check_end(end)?;
        // The rest of a chunk after a hole.
        self.area.output.zeros_to(start + filled)?;
        let digest = self.current.hash.digest128();
        self.hash.update(&digest.to_le_bytes());
        self.hash.update(&filled.to_le_bytes());
        let block = block_size.count(start);
        let found = match self.current.has_hole {
            true => None,
            false => self.area.find_equal(start, filled, digest)?,
        };
        self.area
            .chunks
            .push(ChunkPlace::new(0, found.unwrap_or(block)));
        if found.is_some() {
            self.current.restart(start);
        } else {
            self.area.output.zeros_to(end)?;
            self.current.restart(end);
        }
        Ok(())
    }
}

impl<W: Write + Seek> Write for ChunkWriter<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.room().min(bytes.len() as u64) as usize;
        let bytes = &bytes[..n];
        self.grow(n as u64).map_err(io::Error::other)?;
        let Current { start, filled, .. } = self.current;
        let output = &mut self.area.output;
        if self.current.has_data {
            output.zeros_to(start + filled)?;
        } else if n > 0 {
            // An abandoned writer or an equal chunk may have moved the output's position.
            output.seek(start)?;
            output.zeros_to(start + filled)?;
        }
        output.write(bytes)?;
        self.current.hash.update(bytes);
        self.current.has_data |= n > 0;
        self.current.filled += n as u64;
        if self.room() == 0 {
            self.end_chunk().map_err(io::Error::other)?;
        }
        Ok(n)
    }

    /// Does nothing: the image is written out by [`Builder::finish`](crate::Builder::finish).
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<W: Write + Seek> Drop for ChunkWriter<'_, W> {
    fn drop(&mut self) {
        self.area.chunks.truncate(self.first);
    }
}
