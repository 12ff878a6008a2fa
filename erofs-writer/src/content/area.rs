//! The area of an image that holds contents of files.

use std::io::{self, Read, Seek, Write};

use xxhash_rust::xxh3::Xxh3;

use super::dedupe::Dedupe;
use super::pipeline::Pipeline;
use crate::chunks::{CHUNKS_MAX, Chunk, ChunkPlace, ChunkSize};
use crate::compress::{Contents, Extent};
use crate::error::Error;
use crate::file_data::{FileData, Tail};
use crate::options::Options;
use crate::output::{Output, SetLen, Truncate};

/// The state of writing contents: the output, the index of stored contents, the compressing
/// threads, and lists of where contents are stored.
pub(crate) struct ContentArea<W> {
    pub(super) options: Options,
    pub(super) output: Output<W>,
    pub(super) dedupe: Option<Dedupe<W>>,
    pub(super) deduplicated: u64,
    truncate: Option<Truncate<W>>,
    /// The places of all chunks of all files.
    pub(super) chunks: Vec<ChunkPlace>,
    /// The contents whose last, partial block is not in the output.
    tails: Vec<Tail>,
    /// The bytes of tails and of clusters that stand after inodes.
    kept: Vec<u8>,
    /// Contents that were submitted to the compressing threads.
    pub(super) contents: Contents,
    pipeline: Option<Box<Pipeline>>,
    /// The first byte that can hold contents.
    start: u64,
    /// The position of the next contents, once there were some.
    data_end: Option<u64>,
    /// Running hash over the digests of all contents.
    hash: Box<Xxh3>,
    /// Bytes of contents stored so far, for [`Options::progress`].
    taken: u64,
}

/// A finished area: the output and the lists that metadata refers to.
pub(crate) struct Finished<W> {
    pub(crate) options: Options,
    pub(crate) output: Output<W>,
    pub(crate) truncate: Option<Truncate<W>>,
    pub(crate) chunks: Vec<ChunkPlace>,
    pub(crate) tails: Vec<Tail>,
    pub(crate) kept: Vec<u8>,
    pub(crate) contents: Contents,
    pub(crate) data_start: u64,
    pub(crate) data_end: u64,
    pub(crate) hash: Xxh3,
    pub(crate) deduplicated: u64,
}

impl<W> ContentArea<W> {
    pub(crate) fn options(&self) -> &Options {
        &self.options
    }
}

impl<W: Write + Seek> ContentArea<W> {
    /// Returns the area of an image that starts at the first byte of `out`. Contents start at byte
    /// `start`.
    pub(crate) fn new(out: W, options: Options, start: u64) -> io::Result<Self> {
        Ok(Self {
            options,
            output: Output::new(out)?,
            dedupe: None,
            deduplicated: 0,
            truncate: None,
            chunks: Vec::new(),
            tails: Vec::new(),
            kept: Vec::new(),
            contents: Contents::default(),
            pipeline: None,
            start,
            data_end: None,
            hash: Box::new(Xxh3::new()),
            taken: 0,
        })
    }

    /// Enables the search for equal contents.
    pub(crate) fn find_equal_contents(&mut self) -> io::Result<()>
    where
        W: Read + SetLen,
    {
        self.output.check_readable(W::read)?;
        self.dedupe = Some(Dedupe::new(W::read_exact));
        self.truncate = Some(W::set_len);
        Ok(())
    }

    /// Moves the start of the area, which must be empty.
    pub(crate) fn set_start(&mut self, start: u64) {
        self.start = start;
    }

    /// The first byte that can hold contents.
    pub(crate) fn start(&self) -> u64 {
        self.start
    }

    /// Returns whether contents were started.
    pub(crate) fn has_begun(&self) -> bool {
        self.data_end.is_some()
    }

    /// Starts contents, which fixes the start of the area.
    pub(crate) fn begin(&mut self) {
        self.data_end = Some(self.data_end());
    }

    pub(crate) fn chunks(&self) -> &[ChunkPlace] {
        &self.chunks
    }

    pub(crate) fn tails(&self) -> &[Tail] {
        &self.tails
    }

    pub(crate) fn contents(&self) -> &Contents {
        &self.contents
    }

    /// Adds places of chunks that lie on devices: those of a file of `length` bytes.
    pub(crate) fn chunks_on_devices(
        &mut self,
        size: ChunkSize,
        length: u64,
        chunks: impl IntoIterator<Item = Chunk>,
    ) -> Result<FileData, Error> {
        let chunk_size = size.bytes(self.options.block_size);
        let needed = length.div_ceil(chunk_size);
        if needed > CHUNKS_MAX {
            return Err(Error::TooManyChunks {
                size: length,
                chunk_size,
                limit: CHUNKS_MAX,
            });
        }
        if length == 0 {
            return Ok(FileData::EMPTY);
        }
        let first = self.chunks.len();
        self.chunks.extend(
            chunks
                .into_iter()
                .take(needed as usize)
                .map(ChunkPlace::from),
        );
        self.chunks
            .resize(first + needed as usize, ChunkPlace::HOLE);
        Ok(FileData::chunked(size, first as u64, length))
    }

    /// Ends the area. All contents are in the image by then.
    pub(crate) fn finish(self) -> Finished<W> {
        Finished {
            data_start: self.start,
            data_end: self.data_end(),
            options: self.options,
            output: self.output,
            truncate: self.truncate,
            chunks: self.chunks,
            tails: self.tails,
            kept: self.kept,
            contents: self.contents,
            hash: *self.hash,
            deduplicated: self.deduplicated,
        }
    }

    /// Keeps bytes in memory, and returns their position.
    pub(super) fn keep(&mut self, bytes: &[u8]) -> u64 {
        let at = self.kept.len() as u64;
        self.kept.extend_from_slice(bytes);
        at
    }

    /// Releases the memory of the deduplication index and the compressing threads.
    pub(super) fn release(&mut self) {
        (self.pipeline, self.dedupe) = (None, None);
    }

    /// Returns whether contents were submitted to threads.
    pub(super) fn has_pipeline(&self) -> bool {
        self.pipeline.is_some()
    }

    /// The pipeline, made when it is first needed.
    pub(super) fn pipeline(&mut self) -> &mut Pipeline {
        let options = &self.options;
        self.pipeline
            .get_or_insert_with(|| Box::new(Pipeline::new(options)))
    }

    /// Reports `bytes` more bytes of contents to [`Options::progress`].
    pub(super) fn report(&mut self, bytes: u64) {
        self.taken = self.taken.saturating_add(bytes);
        if let Some(progress) = &self.options.progress {
            progress.report(self.taken);
        }
    }

    /// Where the next contents go, a block border.
    pub(crate) fn data_end(&self) -> u64 {
        self.data_end.unwrap_or(self.start)
    }

    /// Returns the first block of contents equal to the `size` bytes just written at `start`, which
    /// are then rolled back; `None` if there are no equal contents.
    pub(super) fn find_equal(
        &mut self,
        start: u64,
        size: u64,
        digest: u128,
    ) -> Result<Option<u64>, Error> {
        let Some(dedupe) = &mut self.dedupe else {
            return Ok(None);
        };
        let block_size = self.options.block_size;
        let position = |block| block_size.position(block);
        let block = block_size.count(start);
        let found = dedupe.find_or_add(&mut self.output, digest, size, start, block, position)?;
        if found.is_some() {
            self.output.seek(start)?;
            self.deduplicated += size;
        }
        Ok(found)
    }

    /// Keeps the partial last block of contents of `size` bytes whose whole blocks begin at
    /// `block`, and returns its index.
    pub(super) fn keep_tail(&mut self, block: u64, tail: &[u8], size: u64) -> u64 {
        let kept = self.keep(tail);
        self.tails.push(Tail { block, kept, size });
        self.tails.len() as u64 - 1
    }

    /// Records that stored contents end at `end`, a block border.
    pub(super) fn stored(&mut self, end: u64, digest: u128, size: u64) {
        self.data_end = Some(end);
        self.hash.update(&digest.to_le_bytes());
        self.hash.update(&size.to_le_bytes());
    }

    /// Checks that contents can end at `end`.
    pub(super) fn check_end(&self, end: u64) -> Result<(), Error> {
        let blocks = self.options.block_size.count(end);
        if blocks <= self.options.addresses.limit() {
            Ok(())
        } else {
            Err(self.too_large(blocks))
        }
    }

    pub(super) fn too_large(&self, blocks: u64) -> Error {
        too_large(blocks, &self.options)
    }
    /// Indexes have 32 bits for a block.
    pub(super) fn check_indexed(&self, block: u64, extents: &[Extent]) -> Result<(), Error> {
        let blocks = extents.iter().map(|extent| u64::from(extent.blocks));
        let end = block + blocks.sum::<u64>();
        match end > u32::MAX.into() {
            true => Err(self.too_large(end)),
            false => Ok(()),
        }
    }

    /// Ends `written` bytes of contents that begin at `start`. Returns their first block, or that
    /// of equal contents if those are to be `looked_for`.
    pub(super) fn end_contents(
        &mut self,
        start: u64,
        written: u64,
        digest: u128,
        looked_for: bool,
    ) -> Result<u64, Error> {
        if looked_for && let Some(block) = self.find_equal(start, written, digest)? {
            return Ok(block);
        }
        let block_size = self.options.block_size;
        let end = block_size.align(start + written);
        self.check_end(end)?;
        self.output.zeros_to(end)?;
        self.stored(end, digest, written);
        Ok(block_size.count(start))
    }
}

pub(crate) fn too_large(blocks: u64, options: &Options) -> Error {
    Error::TooLarge {
        blocks,
        block_size: options.block_size.bytes(),
        limit: options.addresses.limit(),
    }
}
