//! Contents of regular files: written as they arrive, and stored once where they are equal.

use std::fmt;
use std::io::{self, Seek, Write};

use hashbrown::HashTable;
use xxhash_rust::xxh3::Xxh3;

use crate::output::{Output, ReadExact};
use crate::{ChunkSize, DeviceId, Error, ImageBuilder};

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
    size: u64,
    hash: Box<Xxh3>,
    holes: bool,
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
        Self {
            builder,
            start,
            size: 0,
            hash: Box::new(Xxh3::new()),
            holes: false,
        }
    }

    /// Appends `length` zeros, as a hole in the output where it is a file.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] where the output fails; [`Error::TooLarge`] where the image becomes larger than its addresses reach.
    pub fn hole(&mut self, length: u64) -> Result<(), Error> {
        self.place()?;
        let end = self
            .size
            .checked_add(length)
            .filter(|&size| size <= i64::MAX as u64);
        let size = end.ok_or_else(|| self.builder.too_large(u64::MAX))?;
        self.builder.check_end(self.start.saturating_add(size))?;
        self.builder.output.zeros_to(self.start + size)?;
        self.size = size;
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
    pub fn finish(self) -> Result<FileData, Error> {
        if self.size == 0 {
            return Ok(FileData::EMPTY);
        }
        let (start, size) = (self.start, self.size);
        let digest = self.hash.digest128();
        let builder = self.builder;
        let block_size = builder.options.block_size;
        if !self.holes
            && let Some(block) = builder.find_equal(start, size, digest)?
        {
            return Ok(FileData::flat(0, block, size));
        }
        let end = block_size.align(start + size);
        builder.check_end(end)?;
        builder.output.zeros_to(end)?;
        builder.stored(end, digest, size);
        Ok(FileData::flat(0, block_size.count(start), size))
    }

    /// Stands where the contents go, whatever an abandoned writer left.
    fn place(&mut self) -> io::Result<()> {
        self.builder.output.seek(self.start + self.size)
    }
}

impl<W: Write + Seek> Write for DataWriter<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.place()?;
        self.builder.output.write(bytes)?;
        self.hash.update(bytes);
        self.size += bytes.len() as u64;
        Ok(bytes.len())
    }

    /// Does nothing: the image is written out by [`ImageBuilder::finish`].
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
