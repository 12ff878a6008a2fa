//! The queue of contents through the compressing threads into the image.

use std::collections::VecDeque;
use std::io;

use xxhash_rust::xxh3::Xxh3;

use super::packed::Packed;
use super::share::Clusters;
use crate::compress::{Batch, Cutter, End, Extent, Piece, Pool, Ticket};
use crate::error::Error;
use crate::options::Options;

/// The size of a batch: large enough that submitting it costs little.
const BATCH: usize = 256 << 10;

/// Contents that are not in the image yet. Results come in the order of submission, so that nothing
/// depends on the speed of threads.
pub(super) struct Pipeline {
    pub(super) pool: Pool,
    batch: Batch,
    /// The bytes of the batch that belong to no piece yet.
    open: usize,
    pub(super) under_way: VecDeque<Ticket>,
    /// Buffers of finished batches.
    pub(super) spare: Vec<Vec<u8>>,
    pub(super) current: Option<Current>,
    /// The blocks of all extents that others may refer to, by their numbers.
    pub(super) blocks: Vec<u32>,
    pub(super) packed: Option<Packed>,
    /// An error that could not be reported when it happened.
    pub(super) failed: Option<Error>,
}

/// The file whose pieces are coming out.
pub(super) struct Current {
    pub(super) start: u64,
    pub(super) written: u64,
    pub(super) hash: Box<Xxh3>,
    pub(super) extents: Vec<Extent>,
    /// The extents that use the blocks of others, and the numbers of those.
    pub(super) references: Vec<(u32, u32)>,
    pub(super) clusters: Clusters,
    /// Where its contents begin in the packed inode.
    pub(super) fragment: Option<u64>,
    /// How much of them is there.
    pub(super) packed: u64,
}

impl Current {
    pub(super) fn new(start: u64) -> Self {
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
    pub(super) fn new(options: &Options) -> Self {
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
    pub(super) fn open(&self) -> &[u8] {
        &self.batch.bytes[self.batch.bytes.len() - self.open..]
    }

    /// Appends to the piece.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.batch.bytes.extend_from_slice(bytes);
        self.open += bytes.len();
    }

    /// Removes the bytes that belong to no piece.
    pub(super) fn discard_open(&mut self) {
        self.batch
            .bytes
            .truncate(self.batch.bytes.len() - self.open);
        self.open = 0;
    }

    /// Ends the piece.
    pub(super) fn close(&mut self, cutter: Cutter, end: End) {
        self.batch.pieces.push(Piece {
            cutter,
            length: self.open,
            end,
        });
        self.open = 0;
    }

    /// Submits the batch if it is large enough, or at the end.
    pub(super) fn submit(&mut self, all: bool) -> io::Result<()> {
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
