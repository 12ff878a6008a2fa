//! Contents of regular files: written as they arrive, and stored once where they are equal.

use std::fmt;
use std::io::{self, Seek, Write};

use hashbrown::HashTable;
use xxhash_rust::xxh3::Xxh3;

use crate::compress::{Compressed, Compressor};
use crate::output::{Output, ReadExact};
use crate::{ChunkSize, DeviceId, Error, ImageBuilder, Options, plan};

/// Where the contents of a regular file lie. Made by a [`DataWriter`], a [`ChunkWriter`](crate::ChunkWriter),
/// [`on_device`](Self::on_device) or [`ImageBuilder::chunks_on_devices`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileData {
    pub(crate) size: u64,
    pub(crate) place: Place,
}

/// How contents lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// In one piece from a block on. The device counts from 1; 0 is the image itself.
    Flat { device: u16, block: u64 },
    /// In chunks, whose places begin at `first` of the builder's list.
    Chunks { size: ChunkSize, first: u64 },
    /// Compressed, as the builder's list says at `index`.
    Compressed { index: u64 },
    /// In one piece, but for the partial last block: behind the inode, as the builder's list says at `index`.
    Tail { index: u64 },
}

/// Contents whose last, partial block is to stand behind the inode.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tail {
    /// The first of the whole blocks, where there are any.
    pub(crate) block: u64,
    /// Where the tail is kept (in the tree's arena).
    pub(crate) kept: u64,
    /// The length of the contents.
    pub(crate) size: u64,
}

impl FileData {
    /// No contents.
    pub const EMPTY: Self = Self::flat(0, 0, 0);

    /// `size` bytes from block `start_block` of `device` on, in blocks of the image being built.
    ///
    /// Readable by Linux 5.16 and later, and by those that see the devices appended to the image as one disk.
    pub fn on_device(device: DeviceId, start_block: u64, size: u64) -> Self {
        match size {
            0 => Self::EMPTY,
            _ => Self::flat(device.0 + 1, start_block, size),
        }
    }

    pub(crate) const fn flat(device: u16, block: u64, size: u64) -> Self {
        Self {
            size,
            place: Place::Flat { device, block },
        }
    }

    pub(crate) const fn chunked(chunk_size: ChunkSize, first: u64, size: u64) -> Self {
        Self {
            size,
            place: Place::Chunks {
                size: chunk_size,
                first,
            },
        }
    }

    /// The length of the contents in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }
}

/// Contents that are in the image.
#[derive(Clone, Copy, Debug)]
struct Stored {
    digest: u128,
    size: u64,
    block: u64,
}

/// What was written, to be found again by content.
#[derive(Debug)]
pub(crate) struct Dedupe<W> {
    read: ReadExact<W>,
    stored: Vec<Stored>,
    // The digest is the hash: equal digests are only candidates, so that no choice of contents loses any.
    index: HashTable<u32>,
}

impl<W: Write + Seek> Dedupe<W> {
    pub(crate) fn new(read: ReadExact<W>) -> Self {
        Self {
            read,
            stored: Vec::new(),
            index: HashTable::new(),
        }
    }

    /// The first block of stored contents equal to the `size` bytes at `from`, or `None` after noting that those lie at
    /// `block`.
    pub(crate) fn find_or_add(
        &mut self,
        output: &mut Output<W>,
        digest: u128,
        size: u64,
        from: u64,
        block: u64,
        position: impl Fn(u64) -> u64,
    ) -> io::Result<Option<u64>> {
        let same = |&i: &u32| {
            let stored = self.stored[i as usize];
            (stored.digest, stored.size) == (digest, size)
        };
        if let Some(&i) = self.index.find(digest as u64, same) {
            let candidate = self.stored[i as usize].block;
            let equal = equal(output, position(candidate), from, size, self.read)?;
            // Different contents with equal digests: the later ones are not looked for again.
            return Ok(equal.then_some(candidate));
        }
        let Ok(i) = u32::try_from(self.stored.len()) else {
            return Ok(None);
        };
        self.stored.push(Stored {
            digest,
            size,
            block,
        });
        self.index
            .insert_unique(digest as u64, i, |&i| self.stored[i as usize].digest as u64);
        Ok(None)
    }
}

/// Whether the `size` bytes at `a` equal those at `b`.
fn equal<W: Write + Seek>(
    output: &mut Output<W>,
    a: u64,
    b: u64,
    size: u64,
    read: ReadExact<W>,
) -> io::Result<bool> {
    const PIECE: u64 = 1 << 18;
    let mut left = vec![0; size.min(PIECE) as usize];
    let mut right = left.clone();
    let mut done = 0;
    while done < size {
        let n = (size - done).min(PIECE) as usize;
        output.read(a + done, &mut left[..n], read)?;
        output.read(b + done, &mut right[..n], read)?;
        if left[..n] != right[..n] {
            return Ok(false);
        }
        done += n as u64;
    }
    Ok(true)
}

/// Takes the contents of one regular file. Dropped without [`finish`](Self::finish), it leaves nothing behind.
///
/// Write large pieces, or wrap it in a [`BufWriter`](std::io::BufWriter): small ones cost a hash update each.
pub struct DataWriter<'a, W: Write + Seek> {
    builder: &'a mut ImageBuilder<W>,
    start: u64,
    /// How much was given.
    size: u64,
    /// How much of it went to the output.
    written: u64,
    /// The rest, where a partial last block can go behind the inode.
    tail: Option<Vec<u8>>,
    /// Has hashed what was written.
    hash: Box<Xxh3>,
    holes: bool,
    compressor: Option<Box<Compressor>>,
}

impl<W: Write + Seek> fmt::Debug for DataWriter<'_, W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DataWriter")
            .field("size", &self.size)
            .finish_non_exhaustive()
    }
}

impl<'a, W: Write + Seek> DataWriter<'a, W> {
    pub(crate) fn new(builder: &'a mut ImageBuilder<W>) -> Self {
        let start = builder.data_end();
        let Options {
            compression,
            block_size,
            inline_tails,
            ..
        } = builder.options;
        let compressor = compression.map(|how| Box::new(Compressor::new(&how, block_size)));
        let tail = (inline_tails && compressor.is_none()).then(Vec::new);
        Self {
            builder,
            start,
            size: 0,
            written: 0,
            tail,
            hash: Box::new(Xxh3::new()),
            holes: false,
            compressor,
        }
    }

    /// Appends `length` zeros, as a hole in the output where it is a file.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] where the output fails; [`Error::TooLarge`] where the image becomes larger than its addresses reach.
    pub fn hole(&mut self, length: u64) -> Result<(), Error> {
        let end = self.size.checked_add(length);
        let size = end
            .filter(|&size| size <= i64::MAX as u64)
            .ok_or_else(|| self.builder.too_large(u64::MAX))?;
        if self.compressor.is_some() {
            let zeros = vec![0; length.min(1 << 16) as usize];
            for done in (0..length).step_by(1 << 16) {
                self.compress(&zeros[..(length - done).min(1 << 16) as usize])?;
            }
            self.size = size;
            return Ok(());
        }
        self.builder.check_end(self.start.saturating_add(size))?;
        if let Some(tail) = self.tail.take() {
            self.append(&tail)?;
        }
        self.place()?;
        self.builder.output.zeros_to(self.start + size)?;
        (self.size, self.written) = (size, size);
        // Hashing terabytes of zeros would take minutes.
        self.hash.update(&length.to_le_bytes());
        self.holes = true;
        Ok(())
    }

    /// Ends the contents and tells where they lie.
    ///
    /// # Errors
    ///
    /// As for [`hole`](Self::hole).
    pub fn finish(mut self) -> Result<FileData, Error> {
        if self.size == 0 {
            return Ok(FileData::EMPTY);
        }
        if let Some(compressor) = self.compressor.take() {
            return self.finish_compressed(*compressor);
        }
        let tail = self.tail.take().unwrap_or_default();
        if !tail.is_empty() && tail.len() as u64 <= plan::tail_max(self.builder.options.block_size)
        {
            let block = if self.written > 0 { self.store()? } else { 0 };
            return Ok(self.builder.keep_tail(block, &tail, self.size));
        }
        self.append(&tail)?;
        Ok(FileData::flat(0, self.store()?, self.size))
    }

    /// Compresses contents, and writes what is full.
    fn compress(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        let Some(mut compressor) = self.compressor.take() else {
            return Ok(());
        };
        while !bytes.is_empty() {
            let taken = compressor.take(bytes);
            bytes = &bytes[taken..];
            if taken == 0
                && let Some(blocks) = compressor.next()
            {
                self.append(&blocks)?;
            }
        }
        self.compressor = Some(compressor);
        Ok(())
    }

    fn finish_compressed(mut self, mut compressor: Compressor) -> Result<FileData, Error> {
        let Options {
            inline_tails,
            block_size,
            ..
        } = self.builder.options;
        if inline_tails && self.size <= plan::tail_max(block_size) {
            let tail = compressor.rest();
            return Ok(self.builder.keep_tail(0, tail, self.size));
        }
        while let Some(blocks) = compressor.next() {
            self.append(&blocks)?;
        }
        let block = self.store()?;
        if compressor.extents.iter().all(|extent| extent.plain) {
            return Ok(FileData::flat(0, block, self.size));
        }
        // Indexes have 32 bits for a block.
        let blocks = block_size.count(self.start + self.written);
        if blocks > u32::MAX.into() {
            return Err(self.builder.too_large(blocks));
        }
        let index = self.builder.compressed.len() as u64;
        self.builder.compressed.push(Compressed {
            block,
            size: self.size,
            extents: compressor.extents.into(),
        });
        Ok(FileData {
            size: self.size,
            place: Place::Compressed { index },
        })
    }

    /// Ends what was written to the output; gives its first block, or that of equal contents.
    fn store(&mut self) -> Result<u64, Error> {
        let (start, size) = (self.start, self.written);
        let digest = self.hash.digest128();
        if !self.holes
            && let Some(block) = self.builder.find_equal(start, size, digest)?
        {
            return Ok(block);
        }
        let block_size = self.builder.options.block_size;
        let end = block_size.align(start + size);
        self.builder.check_end(end)?;
        self.builder.output.zeros_to(end)?;
        self.builder.stored(end, digest, size);
        Ok(block_size.count(start))
    }

    /// Writes to the output.
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.place()?;
        self.builder.output.write(bytes)?;
        self.hash.update(bytes);
        self.written += bytes.len() as u64;
        Ok(())
    }

    /// Stands where the contents go on, whatever an abandoned writer left.
    fn place(&mut self) -> io::Result<()> {
        self.builder.output.seek(self.start + self.written)
    }
}

impl<W: Write + Seek> Write for DataWriter<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let block = self.builder.options.block_size.bytes() as usize;
        if self.compressor.is_some() {
            self.compress(bytes)?;
            self.size += bytes.len() as u64;
            return Ok(bytes.len());
        }
        match self.tail.take() {
            None => self.append(bytes)?,
            Some(mut tail) if tail.len() + bytes.len() < block => {
                tail.extend_from_slice(bytes);
                self.tail = Some(tail);
            }
            Some(mut tail) => {
                let rest = (tail.len() + bytes.len()) % block;
                let (whole, rest) = bytes.split_at(bytes.len() - rest);
                self.append(&tail)?;
                self.append(whole)?;
                tail.clear();
                tail.extend_from_slice(rest);
                self.tail = Some(tail);
            }
        }
        self.size += bytes.len() as u64;
        Ok(bytes.len())
    }

    /// Does nothing: the image is written out by [`ImageBuilder::finish`].
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Cursor, Read};

    use super::*;

    #[test]
    fn different_contents_with_equal_hashes_are_both_kept() {
        let mut output = Output::new(Cursor::new(Vec::new())).unwrap();
        let mut dedupe =
            Dedupe::new(|out: &mut Cursor<Vec<u8>>, into: &mut [u8]| out.read_exact(into));
        output.write(b"onetwoone").unwrap();
        let mut find = |from| {
            dedupe
                .find_or_add(&mut output, 42, 3, from, from, |block| block)
                .unwrap()
        };
        assert_eq!(find(0), None);
        assert_eq!(find(3), None);
        assert_eq!(find(6), Some(0));
    }
}
