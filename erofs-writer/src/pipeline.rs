//! Contents on their way through the threads that compress, and into the image.

use std::collections::VecDeque;
use std::io::{self, Seek, Write};

use xxhash_rust::xxh3::Xxh3;

use crate::compress::{
    Batch, Compressed, Cut, Cuts, Cutter, End, Extent, Piece, Place, Pool, Rest, Run, Tail, Ticket,
};
use crate::packed::Packed;
use crate::share::Clusters;
use crate::{Builder, Compression, Error, Options};

/// Contents that are given away together: enough that handing them over costs little.
const BATCH: usize = 256 << 10;

/// Contents that are not in the image yet. They come out in the order in which they went in, so that nothing depends on which
/// thread was faster.
pub(crate) struct Pipeline {
    pub(crate) pool: Pool,
    batch: Batch,
    /// The bytes of the batch that belong to no piece yet.
    open: usize,
    under_way: VecDeque<Ticket>,
    /// Buffers of batches that came out.
    spare: Vec<Vec<u8>>,
    current: Option<Current>,
    /// The blocks of all extents that others may refer to, by their numbers.
    blocks: Vec<u32>,
    pub(crate) packed: Option<Packed>,
    /// An error that could not be reported when it happened.
    failed: Option<Error>,
}

/// The file whose pieces are coming out.
struct Current {
    start: u64,
    written: u64,
    hash: Box<Xxh3>,
    extents: Vec<Extent>,
    /// Those whose blocks are others', and the numbers of these.
    references: Vec<(u32, u32)>,
    clusters: Clusters,
    /// Where its contents begin in the packed inode.
    fragment: Option<u64>,
    /// How much of them is there.
    packed: u64,
}

impl Current {
    fn new(start: u64) -> Self {
        Self {
            start,
            written: 0,
            hash: Box::new(Xxh3::new()),
            extents: Vec::new(),
            references: Vec::new(),
            clusters: Clusters::default(),
            fragment: None,
            packed: 0,
        }
    }
}

impl Pipeline {
    pub(crate) fn new(options: &Options) -> Self {
        Self {
            pool: Pool::new(options),
            batch: Batch::default(),
            open: 0,
            under_way: VecDeque::new(),
            spare: Vec::new(),
            current: None,
            blocks: Vec::new(),
            packed: None,
            failed: None,
        }
    }

    /// The bytes of the piece that is being filled.
    pub(crate) fn open(&self) -> &[u8] {
        &self.batch.bytes[self.batch.bytes.len() - self.open..]
    }

    /// Appends to the piece.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.batch.bytes.extend_from_slice(bytes);
        self.open += bytes.len();
    }

    /// Takes back what belongs to no piece.
    pub(crate) fn take_back(&mut self) {
        self.batch
            .bytes
            .truncate(self.batch.bytes.len() - self.open);
        self.open = 0;
    }

    /// Ends the piece.
    pub(crate) fn close(&mut self, cutter: Cutter, end: End) {
        self.batch.pieces.push(Piece {
            cutter,
            length: self.open,
            end,
        });
        self.open = 0;
    }

    /// Gives the batch away where there is enough in it, or all that there is.
    fn submit(&mut self, all: bool) -> io::Result<()> {
        let due = self.open == 0 && (all || self.batch.bytes.len() >= BATCH);
        if due && !self.batch.pieces.is_empty() {
            let next = Batch {
                bytes: self.spare.pop().unwrap_or_default(),
                pieces: Vec::new(),
            };
            let batch = std::mem::replace(&mut self.batch, next);
            self.under_way.push_back(self.pool.submit(batch)?);
        }
        Ok(())
    }
}

impl<W: Write + Seek> Builder<W> {
    /// The pipeline, made when it is first needed.
    pub(crate) fn pipeline(&mut self) -> &mut Pipeline {
        let options = &self.options;
        self.pipeline
            .get_or_insert_with(|| Box::new(Pipeline::new(options)))
    }

    /// Gives away what is enough, and takes what is due.
    pub(crate) fn advance(&mut self) -> Result<(), Error> {
        let pipeline = self.pipeline();
        pipeline.submit(false)?;
        let depth = pipeline.pool.depth();
        self.collect(depth)
    }

    /// Waits until everything given so far is in the image, but for fragments.
    pub(crate) fn drain(&mut self) -> Result<(), Error> {
        if self.pipeline.is_some() {
            self.pipeline().submit(true)?;
            self.collect(0)?;
        }
        Ok(())
    }

    /// As [`drain`](Self::drain), but an error is reported by the next call that can fail.
    pub(crate) fn drain_or_note(&mut self) {
        if let Err(error) = self.drain() {
            self.pipeline().failed = Some(error);
        }
    }

    /// Takes results until no more than `depth` are to come.
    fn collect(&mut self, depth: usize) -> Result<(), Error> {
        if let Some(error) = self.pipeline().failed.take() {
            return Err(error);
        }
        while self.pipeline().under_way.len() > depth {
            let Some(ticket) = self.pipeline().under_way.pop_front() else {
                break;
            };
            let Cuts { pieces, bytes } = ticket.wait()?;
            self.pipeline().spare.push(bytes);
            for (piece, cut) in pieces {
                self.assemble(&piece, cut)?;
            }
        }
        Ok(())
    }

    /// Writes a piece.
    fn assemble(&mut self, piece: &Piece, mut cut: Cut) -> Result<(), Error> {
        let start = self.data_end();
        let mut current = match self.pipeline().current.take() {
            Some(current) => current,
            None => Current::new(start),
        };
        if piece.end == End::Abandoned && !self.options.dedupe_extents {
            return Ok(());
        }
        if let End::File { index } = piece.end
            && piece.cutter.compression.is_some()
            && current.extents.is_empty()
            && !self.options.dedupe_extents
        {
            let size = self.contents.size(index as u64).unwrap_or_default();
            current.clusters = self.share_clusters(&mut cut, size)?;
        }
        if !cut.blocks.is_empty() {
            if current.written == 0 {
                // Fragments of the same file may have filled a cluster.
                current.start = start;
            }
            let at = current.start + current.written;
            // Whatever an abandoned writer left.
            self.output.seek(at)?;
            self.check_end(at + cut.blocks.len() as u64)?;
            self.output.write(&cut.blocks)?;
            current.hash.update(&cut.blocks);
            current.written += cut.blocks.len() as u64;
        }
        let before = current.extents.len() as u32;
        let references = cut.references.iter();
        current
            .references
            .extend(references.map(|&(extent, number)| (before + extent, number)));
        current.extents.extend(cut.extents);
        match (piece.end, piece.cutter.compression) {
            (End::File { index }, compression) => {
                let place = self.end_file(current, cut.rest, compression, index)?;
                self.contents.set_place(index, place);
            }
            (End::Abandoned, _) => {
                // Others may refer to it already.
                let block = self.store_current(&current)?;
                self.locate(block, &current)?;
            }
            (_, Some(compression)) => {
                if let Rest::Fragment(bytes) = &cut.rest {
                    let at = self.append_fragment(&piece.cutter, compression, bytes, false)?;
                    current.fragment.get_or_insert(at);
                    current.packed += bytes.len() as u64;
                }
                self.pipeline().current = Some(current);
            }
            (_, None) => self.pipeline().current = Some(current),
        }
        Ok(())
    }

    /// Where the contents are whose last piece was written, but for its `rest`.
    fn end_file(
        &mut self,
        current: Current,
        rest: Rest,
        compression: Option<Compression>,
        index: usize,
    ) -> Result<Place, Error> {
        let block = self.store_current(&current)?;
        let runs = self.locate(block, &current)?;
        let Current {
            mut extents,
            references,
            fragment,
            packed,
            ..
        } = current;
        let plain = references.is_empty() && extents.iter().all(|extent| extent.plain);
        let tail = match rest {
            Rest::None if plain => return Ok(Place::Flat { block }),
            Rest::None => Tail::Cluster,
            Rest::Inline { bytes, extent } if plain && extent.plain => {
                let size = self.contents.size(index as u64).unwrap_or_default();
                let index = self.keep_tail(block, &bytes, size);
                return Ok(Place::Tail { index });
            }
            Rest::Inline { bytes, extent } => {
                extents.push(extent);
                Tail::Inline {
                    kept: self.tree.intern(&bytes),
                    length: bytes.len() as u16,
                }
            }
            Rest::Fragment(bytes) => {
                let Some(compression) = compression else {
                    return Err(io::Error::other("a fragment that was not compressed").into());
                };
                let cutter = Cutter::new(Some(compression), &self.options);
                let once = fragment.is_none();
                let at = self.append_fragment(&cutter, compression, &bytes, once)?;
                extents.push(Extent {
                    length: (packed + bytes.len() as u64).min(u32::MAX.into()) as u32,
                    blocks: 0,
                    plain: false,
                    partial: false,
                });
                Tail::Fragment {
                    offset: fragment.unwrap_or(at),
                }
            }
        };
        let Some(compression) = compression else {
            return Ok(Place::Flat { block });
        };
        let block_size = self.options.block_size;
        let contents = Compressed {
            size: self.contents.size(index as u64).unwrap_or_default(),
            algorithm: compression.algorithm,
            big: compression.is_big(block_size),
            extents,
            runs,
            tail,
        };
        Ok(self.contents.record(&contents, compression, block_size))
    }

    /// Ends a file's blocks; gives the first one.
    fn store_current(&mut self, current: &Current) -> Result<u64, Error> {
        match current.written {
            0 => Ok(0),
            written => self.end_contents(current.start, written, current.hash.digest128(), true),
        }
    }

    /// Sets where extents lie, of which those with blocks of their own begin at `block`, and notes it for others.
    fn locate(&mut self, mut block: u64, current: &Current) -> Result<Vec<Run>, Error> {
        self.check_indexed(block, &current.extents)?;
        let noted = self.options.dedupe_extents;
        let mut runs: Vec<Run> = Vec::new();
        let mut references = current.references.iter().peekable();
        let mut shared = current.clusters.shared.iter().peekable();
        let mut own = current.clusters.own.iter().peekable();
        let mut follows = None;
        for (first, extent) in (0..).zip(&current.extents) {
            let begins = if let Some(&(_, number)) = references.next_if(|(of, _)| *of == first) {
                let blocks = &self.pipeline().blocks;
                blocks.get(number as usize).copied().map(u64::from)
            } else if let Some(&(_, block)) = shared.next_if(|(of, _)| *of == first) {
                Some(block)
            } else {
                if noted {
                    self.pipeline().blocks.push(block as u32);
                }
                if let Some(cluster) = own.next_if(|cluster| cluster.extent == first) {
                    self.add_cluster(cluster, block);
                }
                block += u64::from(extent.blocks);
                Some(block - u64::from(extent.blocks))
            };
            let begins = begins.ok_or_else(|| io::Error::other("an extent that nobody wrote"))?;
            if follows != Some(begins) {
                runs.push(Run {
                    first,
                    block: begins,
                });
            }
            follows = Some(begins + u64::from(extent.blocks));
        }
        Ok(runs)
    }

    /// Indexes have 32 bits for a block.
    pub(crate) fn check_indexed(&self, block: u64, extents: &[Extent]) -> Result<(), Error> {
        let blocks = extents.iter().map(|extent| u64::from(extent.blocks));
        let end = block + blocks.sum::<u64>();
        match end > u32::MAX.into() {
            true => Err(self.too_large(end)),
            false => Ok(()),
        }
    }

    /// Ends `written` bytes of contents that begin at `start`; gives their first block, or that of equal contents where they are
    /// to be `looked_for`.
    pub(crate) fn end_contents(
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

    /// Writes what is left; gives the index of the packed inode's contents.
    pub(crate) fn end_pipeline(&mut self) -> Result<Option<usize>, Error> {
        self.drain()?;
        let Some(packed) = self
            .pipeline
            .as_mut()
            .and_then(|pipeline| pipeline.packed.take())
        else {
            return Ok(None);
        };
        self.end_packed(packed).map(Some)
    }
}
