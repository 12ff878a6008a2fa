//! Contents in chunks: each chunk lies anywhere, or nowhere where it is a hole.

use std::fmt;
use std::io::{self, Seek, Write};

use xxhash_rust::xxh3::Xxh3;

use crate::{BlockSize, Builder, DeviceId, Error, FileData};

/// The most chunks of one file. A map of so many takes 64 MiB.
pub(crate) const CHUNKS_MAX: u64 = 1 << 24;
/// The chunk bits that `i_u.c.format` counts (`EROFS_CHUNK_FORMAT_BLKBITS_MASK`).
const BITS_MAX: u8 = 31;

/// The size of a file's chunks: a block, or two, four, eight, … of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChunkSize(u8);

impl ChunkSize {
    /// Chunks of 2^`bits` blocks.
    ///
    /// # Errors
    ///
    /// [`Error::ChunkSize`] where `bits` is more than 31.
    pub fn from_block_bits(bits: u8) -> Result<Self, Error> {
        if bits <= BITS_MAX {
            Ok(Self(bits))
        } else {
            Err(Error::ChunkSize(bits))
        }
    }

    /// The smallest chunks, of 4096 bytes at least, of which a file of `length` bytes has 65,536 at most.
    pub fn for_length(length: u64, block_size: BlockSize) -> Self {
        let page = 12_u8.saturating_sub(block_size.bits());
        let bits = (page..BITS_MAX).find(|&bits| length >> (bits + block_size.bits()) < 1 << 16);
        Self(bits.unwrap_or(BITS_MAX))
    }

    /// The binary logarithm of the chunk's blocks.
    pub fn block_bits(self) -> u8 {
        self.0
    }

    /// The size in bytes.
    pub fn bytes(self, block_size: BlockSize) -> u64 {
        u64::from(block_size.bytes()) << self.0
    }
}

/// Where a chunk lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Chunk {
    /// Nowhere: it is all zeros.
    Hole,
    /// At block `block` of `device`, and in the blocks after it.
    OnDevice {
        /// The device.
        device: DeviceId,
        /// The chunk's first block there.
        block: u64,
    },
}

/// Where a chunk lies, in eight bytes: device from 1, or 0 for the image, then 48 bits of block; all ones for a hole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ChunkPlace(u64);

impl ChunkPlace {
    pub(crate) const HOLE: Self = Self(u64::MAX);
    const BLOCK_BITS: u32 = 48;

    /// A block that has no 48-bit address becomes one that is beyond every device.
    pub(crate) fn new(device: u16, block: u64) -> Self {
        let last = (1 << Self::BLOCK_BITS) - 2;
        Self(u64::from(device) << Self::BLOCK_BITS | block.min(last))
    }

    /// Device and block; `None` for a hole.
    pub(crate) fn get(self) -> Option<(u16, u64)> {
        let device = (self.0 >> Self::BLOCK_BITS) as u16;
        (self != Self::HOLE).then_some((device, self.0 & ((1 << Self::BLOCK_BITS) - 1)))
    }
}

impl From<Chunk> for ChunkPlace {
    fn from(chunk: Chunk) -> Self {
        match chunk {
            Chunk::Hole => Self::HOLE,
            Chunk::OnDevice { device, block } => Self::new(device.0 + 1, block),
        }
    }
}

/// Writer of the contents of one regular file, in chunks. Dropped without [`finish`](Self::finish), it leaves nothing in the
/// image.
///
/// A chunk that [`hole`](Self::hole) covers takes no space. Where the builder looks for equal contents, equal chunks are
/// stored once. Contents that turn out to lie in one piece are kept as by a [`DataWriter`](crate::DataWriter).
#[must_use = "contents are stored by `finish`"]
pub struct ChunkWriter<'a, W: Write + Seek> {
    builder: &'a mut Builder<W>,
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
    pub(crate) fn new(builder: &'a mut Builder<W>, chunk_size: ChunkSize) -> Self {
        let start = builder.data_end();
        let first = builder.chunks.len();
        Self {
            builder,
            chunk_size,
            size: 0,
            first,
            current: Current::new(start),
            hash: Box::new(Xxh3::new()),
        }
    }

    /// Appends `length` zeros. Those that fill a chunk take no space.
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
                let end = self.builder.chunks.len() + whole as usize;
                self.builder.chunks.resize(end, ChunkPlace::HOLE);
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
        self.builder.stored(self.current.start, digest, size);
        if let Some(block) = self.one_piece() {
            self.builder.chunks.truncate(self.first);
            return Ok(FileData::flat(0, block, size));
        }
        let data = FileData::chunked(self.chunk_size, self.first as u64, size);
        // What is left is not this writer's to take back.
        self.first = self.builder.chunks.len();
        Ok(data)
    }

    /// Hashes which chunks are holes: once they are all known, as a run of holes may come in any number of pieces.
    fn hash_holes(&mut self) {
        let places = &self.builder.chunks[self.first..];
        for run in places.chunk_by(|a, b| (*a == ChunkPlace::HOLE) == (*b == ChunkPlace::HOLE)) {
            self.hash.update(&(run.len() as u64).to_le_bytes());
        }
    }

    /// The first block, where every chunk follows the one before.
    fn one_piece(&self) -> Option<u64> {
        let places = &self.builder.chunks[self.first..];
        let (_, first) = places.first()?.get()?;
        let expected = |i: usize| ChunkPlace::new(0, first + ((i as u64) << self.chunk_size.0));
        let in_place = |(i, &place): (usize, &ChunkPlace)| place == expected(i);
        places.iter().enumerate().all(in_place).then_some(first)
    }

    fn chunk_bytes(&self) -> u64 {
        self.chunk_size.bytes(self.builder.options.block_size)
    }

    fn room(&self) -> u64 {
        self.chunk_bytes() - self.current.filled
    }

    /// Checks and notes that the file is `length` bytes longer.
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
        self.builder.report(length);
        Ok(())
    }

    fn end_chunk(&mut self) -> Result<(), Error> {
        let Current { start, filled, .. } = self.current;
        if !self.current.has_data {
            self.builder.chunks.push(ChunkPlace::HOLE);
            self.current.restart(start);
            return Ok(());
        }
        let block_size = self.builder.options.block_size;
        let end = block_size.align(start + filled);
        self.builder.check_end(end)?;
        // What a hole has left open at the chunk's end.
        self.builder.output.zeros_to(start + filled)?;
        let digest = self.current.hash.digest128();
        self.hash.update(&digest.to_le_bytes());
        self.hash.update(&filled.to_le_bytes());
        let block = block_size.count(start);
        let found = match self.current.has_hole {
            true => None,
            false => self.builder.find_equal(start, filled, digest)?,
        };
        self.builder
            .chunks
            .push(ChunkPlace::new(0, found.unwrap_or(block)));
        if found.is_some() {
            self.current.restart(start);
        } else {
            self.builder.output.zeros_to(end)?;
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
        let output = &mut self.builder.output;
        if self.current.has_data {
            output.zeros_to(start + filled)?;
        } else if n > 0 {
            // Whatever an abandoned writer or an equal chunk has left.
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

    /// Does nothing: the image is written out by [`Builder::finish`].
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<W: Write + Seek> Drop for ChunkWriter<'_, W> {
    fn drop(&mut self) {
        self.builder.chunks.truncate(self.first);
    }
}
