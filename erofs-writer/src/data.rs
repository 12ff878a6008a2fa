//! Contents of regular files: written as they arrive, and stored once where they are equal.

use std::fmt;
use std::io::{self, Seek, Write};

use hashbrown::HashTable;
use xxhash_rust::xxh3::Xxh3;

use crate::compress::{Cutter, End, Fragments, Place as Became};
use crate::output::{Output, ReadExact};
use crate::{Builder, ChunkSize, Compression, DeviceId, Error, Options, plan};

/// Where the contents of a regular file lie. Made by a [`DataWriter`], a [`ChunkWriter`](crate::ChunkWriter),
/// [`on_device`](Self::on_device), [`Builder::chunks_on_devices`] or [`later`](Self::later).
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
    /// As the builder's list of what was given to the threads says at `index`.
    Piped { index: u64 },
    /// In one piece, but for the partial last block: behind the inode, as the builder's list says at `index`.
    Tail { index: u64 },
    /// Not stored yet: the caller knows them by this number.
    Later { number: u64 },
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

    /// The length of the contents in bytes; 0 where they are [to come later](Self::later).
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
        if let Some(candidate) = self.find(digest, size) {
            let equal = equal(output, position(candidate), from, size, self.read)?;
            // Different contents with equal digests: the later ones are not looked for again.
            return Ok(equal.then_some(candidate));
        }
        self.insert(digest, size, block);
        Ok(None)
    }

    /// The first block of what is stored and may be equal to the `size` bytes with this digest.
    pub(crate) fn find(&self, digest: u128, size: u64) -> Option<u64> {
        let same = |&i: &u32| {
            let stored = self.stored[i as usize];
            (stored.digest, stored.size) == (digest, size)
        };
        let i = *self.index.find(digest as u64, same)?;
        Some(self.stored[i as usize].block)
    }

    /// Whether `bytes` are what is stored at `from`.
    pub(crate) fn holds(
        &self,
        output: &mut Output<W>,
        from: u64,
        bytes: &[u8],
    ) -> io::Result<bool> {
        let mut there = vec![0; bytes.len()];
        output.read(from, &mut there, self.read)?;
        Ok(there == bytes)
    }

    /// Notes that `size` bytes lie at `block`, unless others have their digest.
    pub(crate) fn add(&mut self, digest: u128, size: u64, block: u64) {
        if self.find(digest, size).is_none() {
            self.insert(digest, size, block);
        }
    }

    fn insert(&mut self, digest: u128, size: u64, block: u64) {
        // What comes after so many is not found.
        let Ok(i) = u32::try_from(self.stored.len()) else {
            return;
        };
        self.stored.push(Stored {
            digest,
            size,
            block,
        });
        self.index
            .insert_unique(digest as u64, i, |&i| self.stored[i as usize].digest as u64);
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

/// Writer of the contents of one regular file. Dropped without [`finish`](Self::finish), it leaves nothing in the image.
///
/// Write large pieces, or wrap it in a [`BufWriter`](std::io::BufWriter): small ones cost a hash update each.
#[must_use = "contents are stored by `finish`"]
pub struct DataWriter<'a, W: Write + Seek> {
    builder: &'a mut Builder<W>,
    /// Bytes written so far.
    size: u64,
    way: Way,
}

/// How contents reach the image.
enum Way {
    /// Straight to the output.
    Straight(Straight),
    /// Through the threads that compress.
    Piped { cutter: Cutter, given_away: bool },
    /// Finished.
    Done,
}

struct Straight {
    start: u64,
    /// How much went to the output.
    written: u64,
    /// The rest, where a partial last block can go behind the inode.
    tail: Option<Vec<u8>>,
    /// Running hash over what was written.
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
    /// A writer whose contents are compressed, or in an image in which others' are, stored.
    pub(crate) fn new(builder: &'a mut Builder<W>, compression: Option<Compression>) -> Self {
        let way = if builder.options.compresses() {
            Way::Piped {
                cutter: Cutter::new(compression, &builder.options),
                given_away: false,
            }
        } else {
            Way::Straight(Straight {
                start: builder.data_end(),
                written: 0,
                tail: builder.options.inline_tails.then(Vec::new),
                hash: Box::new(Xxh3::new()),
                holes: false,
            })
        };
        Self {
            builder,
            size: 0,
            way,
        }
    }

    /// Appends `length` zeros, as a hole in the output where it is a file.
    ///
    /// # Errors
    ///
    /// [`Error::Output`] where the output fails; [`Error::TooLarge`] where the image becomes larger than its addresses reach.
    pub fn hole(&mut self, length: u64) -> Result<(), Error> {
        let end = self.size.checked_add(length);
        let size = end
            .filter(|&size| size <= i64::MAX as u64)
            .ok_or_else(|| self.builder.too_large(u64::MAX))?;
        match &mut self.way {
            Way::Straight(straight) => straight.hole(self.builder, length)?,
            Way::Piped { .. } => {
                let zeros = vec![0; length.min(1 << 16) as usize];
                for done in (0..length).step_by(1 << 16) {
                    self.pipe(&zeros[..(length - done).min(1 << 16) as usize])?;
                }
            }
            Way::Done => {}
        }
        self.size = size;
        self.builder.report(length);
        Ok(())
    }

    /// Ends the contents, and returns where they lie.
    ///
    /// # Errors
    ///
    /// As for [`hole`](Self::hole).
    pub fn finish(mut self) -> Result<FileData, Error> {
        if self.size == 0 {
            return Ok(FileData::EMPTY);
        }
        match std::mem::replace(&mut self.way, Way::Done) {
            Way::Straight(straight) => straight.finish(self.builder, self.size),
            Way::Piped { cutter, .. } => self.finish_piped(cutter),
            Way::Done => Ok(FileData::EMPTY),
        }
    }

    /// Gives contents to the threads, piece by piece.
    fn pipe(&mut self, mut bytes: &[u8]) -> Result<(), Error> {
        let Way::Piped { cutter, given_away } = &mut self.way else {
            return Ok(());
        };
        while !bytes.is_empty() {
            let pipeline = self.builder.pipeline();
            let mut room = cutter.piece() - pipeline.open().len();
            if room == 0 {
                // Only now, as the last piece is another matter.
                pipeline.close(*cutter, End::More);
                *given_away = true;
                room = cutter.piece();
                self.builder.advance()?;
            }
            let part;
            (part, bytes) = bytes.split_at(room.min(bytes.len()));
            self.builder.pipeline().push(part);
        }
        Ok(())
    }

    fn finish_piped(&mut self, cutter: Cutter) -> Result<FileData, Error> {
        let Options {
            inline_tails,
            tail_packing,
            fragments,
            block_size,
            ..
        } = self.builder.options;
        let elsewhere = tail_packing || fragments != Fragments::None;
        let index = self.builder.contents.next_index();
        let mut place = Became::Pending;
        if inline_tails && !elsewhere && self.size <= plan::tail_max(block_size) {
            let pipeline = self.builder.pipeline();
            let tail = pipeline.open().to_vec();
            pipeline.take_back();
            let index = self.builder.keep_tail(0, &tail, self.size);
            place = Became::Tail { index };
        } else {
            self.builder.pipeline().close(cutter, End::File { index });
        }
        self.builder.contents.add(self.size, place);
        self.builder.advance()?;
        Ok(FileData {
            size: self.size,
            place: Place::Piped {
                index: index as u64,
            },
        })
    }
}

impl Straight {
    fn hole<W: Write + Seek>(
        &mut self,
        builder: &mut Builder<W>,
        length: u64,
    ) -> Result<(), Error> {
        if let Some(tail) = self.tail.take() {
            self.append(builder, &tail)?;
        }
        let end = (self.start + self.written).saturating_add(length);
        builder.check_end(end)?;
        self.place(builder)?;
        builder.output.zeros_to(end)?;
        self.written += length;
        // Hashing terabytes of zeros would take minutes.
        self.hash.update(&length.to_le_bytes());
        self.holes = true;
        Ok(())
    }

    fn write<W: Write + Seek>(&mut self, builder: &mut Builder<W>, bytes: &[u8]) -> io::Result<()> {
        let block = builder.options.block_size.bytes() as usize;
        match self.tail.take() {
            None => self.append(builder, bytes)?,
            Some(mut tail) if tail.len() + bytes.len() < block => {
                tail.extend_from_slice(bytes);
                self.tail = Some(tail);
            }
            Some(mut tail) => {
                let rest = (tail.len() + bytes.len()) % block;
                let (whole, rest) = bytes.split_at(bytes.len() - rest);
                self.append(builder, &tail)?;
                self.append(builder, whole)?;
                tail.clear();
                tail.extend_from_slice(rest);
                self.tail = Some(tail);
            }
        }
        Ok(())
    }

    fn finish<W: Write + Seek>(
        mut self,
        builder: &mut Builder<W>,
        size: u64,
    ) -> Result<FileData, Error> {
        let tail = self.tail.take().unwrap_or_default();
        if !tail.is_empty() && tail.len() as u64 <= plan::tail_max(builder.options.block_size) {
            let block = match self.written {
                0 => 0,
                _ => self.store(builder)?,
            };
            let index = builder.keep_tail(block, &tail, size);
            return Ok(FileData {
                size,
                place: Place::Tail { index },
            });
        }
        self.append(builder, &tail)?;
        Ok(FileData::flat(0, self.store(builder)?, size))
    }

    /// Ends what was written to the output; gives its first block, or that of equal contents.
    fn store<W: Write + Seek>(&self, builder: &mut Builder<W>) -> Result<u64, Error> {
        builder.end_contents(self.start, self.written, self.hash.digest128(), !self.holes)
    }

    /// Writes to the output.
    fn append<W: Write + Seek>(
        &mut self,
        builder: &mut Builder<W>,
        bytes: &[u8],
    ) -> io::Result<()> {
        self.place(builder)?;
        builder.output.write(bytes)?;
        self.hash.update(bytes);
        self.written += bytes.len() as u64;
        Ok(())
    }

    /// Stands where the contents go on, whatever an abandoned writer left.
    fn place<W: Write + Seek>(&self, builder: &mut Builder<W>) -> io::Result<()> {
        builder.output.seek(self.start + self.written)
    }
}

impl<W: Write + Seek> Write for DataWriter<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.way {
            Way::Straight(straight) => straight.write(self.builder, bytes)?,
            Way::Piped { .. } => self.pipe(bytes).map_err(io::Error::other)?,
            Way::Done => {}
        }
        self.size += bytes.len() as u64;
        self.builder.report(bytes.len() as u64);
        Ok(bytes.len())
    }

    /// Does nothing: the image is written out by [`Builder::finish`].
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<W: Write + Seek> Drop for DataWriter<'_, W> {
    fn drop(&mut self) {
        if let Way::Piped { cutter, given_away } = self.way {
            let pipeline = self.builder.pipeline();
            pipeline.take_back();
            if given_away {
                pipeline.close(cutter, End::Abandoned);
            }
        }
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
