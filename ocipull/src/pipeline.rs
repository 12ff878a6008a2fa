//! Reading, hashing, inflating and hashing again, each on a thread of its own with a few buffers
//! between them.
//!
//! ```text
//! source ── fetch, hash ──▶ inflate ──▶ consumer
//!                              └──────▶ hash
//! ```
//!
//! The wall time is that of the slowest stage, which is inflating. A stream that is not compressed
//! skips that thread. Dropping the consumer's end stops all stages: each ends when the next no
//! longer receives.

use std::io::{self, BufRead, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};

use crate::chunk::{Chunk, Pool, Stream};
use crate::compression::{Compression, Decoder};
use crate::digest::Hasher;
use crate::{Digest, Document, Error, Progress};

/// Chunks that wait between two stages.
const DEPTH: usize = 8;

/// The properties of a stream that are known beforehand.
#[derive(Debug)]
pub(crate) struct Expected {
    /// The digest and size of the compressed bytes.
    pub(crate) blob: Option<(Digest, u64)>,
    /// The digest of the uncompressed bytes.
    pub(crate) diff_id: Option<Digest>,
    /// The compression by the media type; `None` to go by the first bytes alone.
    pub(crate) compression: Option<Compression>,
    /// The most uncompressed bytes.
    pub(crate) limit: u64,
}

/// Cleanup for a blob whose received bytes turn out to be useless for a later read.
pub(crate) struct Useless(Option<Box<dyn FnOnce() + Send + Sync>>);

impl Useless {
    pub(crate) fn new(forget: impl FnOnce() + Send + Sync + 'static) -> Self {
        Self(Some(Box::new(forget)))
    }

    /// Nothing.
    pub(crate) fn nothing() -> Self {
        Self(None)
    }

    fn forget(&mut self) {
        if let Some(forget) = self.0.take() {
            forget();
        }
    }
}

impl std::fmt::Debug for Useless {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Useless(…)")
    }
}

/// The consumer's end.
#[derive(Debug)]
pub(crate) struct Pipeline {
    chunks: Receiver<Chunk>,
    current: Chunk,
    position: usize,
    state: State,
    fetched: Arc<AtomicU64>,
    useless: Useless,
}

#[derive(Debug)]
enum State {
    Running(Stages),
    Complete(Digest),
    Failed,
}

#[derive(Debug)]
struct Stages {
    fetch: JoinHandle<Result<(), Error>>,
    hash: JoinHandle<Digest>,
    layer: Option<Digest>,
    diff_id: Option<Digest>,
}

impl Pipeline {
    pub(crate) fn start(
        source: Box<dyn Stream>,
        expected: Expected,
        progress: Option<Progress>,
        useless: Useless,
    ) -> Result<Self, Error> {
        let fetched = Arc::new(AtomicU64::new(0));
        let (to_hash, hashed) = sync_channel(DEPTH);
        let (to_consumer, chunks) = sync_channel(DEPTH);
        let Expected {
            blob,
            diff_id,
            compression,
            limit,
        } = expected;
        let layer = blob.as_ref().map(|(digest, _)| digest.clone());
        let hasher = diff_id.as_ref().map_or_else(Hasher::sha256, Digest::hasher);
        // The layer is not compressed then, and one hash is enough.
        let plain = layer.is_some() && layer == diff_id;

        let outlet = Uncompressed {
            layer: layer.clone(),
            limit,
            total: 0,
            to_hash,
            to_consumer,
        };
        let fetch = Fetch {
            source,
            blob,
            plain,
            fetched: fetched.clone(),
            progress,
        };
        let stages = Stages {
            fetch: spawn("ocipull-fetch", move || fetch.run(compression, outlet))?,
            hash: spawn("ocipull-hash", || hash(hasher, hashed))?,
            layer,
            diff_id,
        };
        let state = State::Running(stages);
        Ok(Self {
            chunks,
            current: Chunk::default(),
            position: 0,
            state,
            fetched,
            useless,
        })
    }

    pub(crate) fn fetched(&self) -> Arc<AtomicU64> {
        self.fetched.clone()
    }

    /// Returns the next bytes; none at the end, if the stream is what it should be.
    pub(crate) fn fill(&mut self) -> Result<&[u8], Error> {
        if self.position >= self.current.len() {
            match self.chunks.recv() {
                Ok(chunk) => (self.current, self.position) = (chunk, 0),
                Err(_) => self.conclude()?,
            }
        }
        Ok(&self.current[self.position..])
    }

    pub(crate) fn consume(&mut self, bytes: usize) {
        self.position = (self.position + bytes).min(self.current.len());
    }

    /// Reads the rest, and returns the diff ID.
    pub(crate) fn finish(&mut self) -> Result<Digest, Error> {
        loop {
            let rest = self.fill()?.len();
            if rest == 0 {
                break;
            }
            self.consume(rest);
        }
        match &self.state {
            State::Complete(diff_id) => Ok(diff_id.clone()),
            _ => Err(Error::Failed),
        }
    }

    /// The layer's digest, until the layer is verified.
    pub(crate) fn unverified(&self) -> Option<&Digest> {
        match &self.state {
            State::Running(stages) => stages.layer.as_ref(),
            _ => None,
        }
    }

    /// Whether all bytes were consumed and are right.
    pub(crate) fn is_verified(&self) -> bool {
        matches!(self.state, State::Complete(_))
    }

    /// Removes the kept bytes of the blob, which the consumer cannot use.
    pub(crate) fn forget(&mut self) {
        self.useless.forget();
    }

    /// All bytes were consumed: collects the results of all stages.
    fn conclude(&mut self) -> Result<(), Error> {
        match std::mem::replace(&mut self.state, State::Failed) {
            State::Running(stages) => {
                let verdict = stages.verdict();
                if verdict.as_ref().is_err_and(|error| !error.is_transient()) {
                    self.useless.forget();
                }
                self.state = State::Complete(verdict?);
                Ok(())
            }
            State::Complete(diff_id) => {
                self.state = State::Complete(diff_id);
                Ok(())
            }
            State::Failed => Err(Error::Failed),
        }
    }
}

impl Stages {
    /// Returns the diff ID, or the first error.
    fn verdict(self) -> Result<Digest, Error> {
        let fetch = join(self.fetch).and_then(|result| result);
        let actual = join(self.hash);
        fetch?;
        let actual = actual?;
        match (self.diff_id, self.layer) {
            (Some(expected), Some(layer)) if expected != actual => Err(if layer == expected {
                Error::DigestMismatch {
                    document: Document::Layer,
                    expected,
                    actual,
                }
            } else {
                Error::DiffIdMismatch {
                    layer,
                    expected,
                    actual,
                }
            }),
            _ => Ok(actual),
        }
    }
}

fn join<T>(stage: JoinHandle<T>) -> Result<T, Error> {
    stage.join().map_err(|_| Error::Thread {
        source: io::Error::other("it ended unexpectedly"),
    })
}

fn spawn<T: Send + 'static>(
    name: &str,
    run: impl FnOnce() -> T + Send + 'static,
) -> Result<JoinHandle<T>, Error> {
    let builder = thread::Builder::new().name(name.to_owned());
    builder
        .spawn(run)
        .map_err(|source| Error::Thread { source })
}

/// The first stage: reads the source and checks that it is the blob it should be.
struct Fetch {
    source: Box<dyn Stream>,
    blob: Option<(Digest, u64)>,
    /// Whether the layer is known to be uncompressed, whatever its bytes look like. The last stage
    /// then checks the digest.
    plain: bool,
    fetched: Arc<AtomicU64>,
    progress: Option<Progress>,
}

/// The next stage no longer receives.
struct Hangup;

impl Fetch {
    /// Gives the source to `outlet`, with a thread in between if it is compressed.
    fn run(mut self, declared: Option<Compression>, mut outlet: Uncompressed) -> Result<(), Error> {
        let mut pool = Pool::default();
        let (first, read) = pool.next(&mut *self.source);
        let compression = match self.plain {
            true => Compression::None,
            false => Compression::sniff(&first),
        };
        if let Some(declared) = declared
            && declared != compression
            && !first.is_empty()
        {
            tracing::warn!(
                layer = outlet.layer.as_ref().map(Digest::as_str),
                declared = declared.name(),
                found = compression.name(),
                "a layer's media type does not say how it is compressed"
            );
        }
        if compression == Compression::None {
            return self.forward_rest(pool, (first, read), |chunk| outlet.send(chunk));
        }
        if !compression.is_supported() {
            let compression = compression.name();
            return Err(Error::NoDecoder { compression });
        }
        let (to_inflate, compressed) = sync_channel(DEPTH);
        let inflate = spawn("ocipull-inflate", move || {
            inflate(compression, compressed, outlet)
        })?;
        let fetched = self.forward_rest(pool, (first, read), |chunk| {
            Ok(to_inflate.send(chunk).map_err(|_| Hangup))
        });
        drop(to_inflate);
        match join(inflate).and_then(|result| result) {
            // The inflating thread stopped the fetch, whose result has no meaning then.
            Err(bomb @ Error::Bomb { .. }) => Err(bomb),
            // A damaged blob is the cause of a failure to inflate.
            inflated => fetched.and(inflated),
        }
    }

    /// Reads the rest of the source, until an error or until the next stage stops. That stage
    /// reports the reason.
    fn forward_rest(
        &mut self,
        mut pool: Pool,
        first: (Chunk, io::Result<()>),
        mut send: impl FnMut(Chunk) -> Result<Result<(), Hangup>, Error>,
    ) -> Result<(), Error> {
        let hashed = self.blob.as_ref().filter(|_| !self.plain);
        let mut hasher = hashed.map(|(digest, _)| digest.hasher());
        let mut total = 0_u64;
        let mut next = first;
        loop {
            let (chunk, read) = next;
            read.map_err(|error| {
                error
                    .downcast()
                    .unwrap_or_else(|source| Error::Read { source })
            })?;
            let bytes = chunk.len() as u64;
            total = total.saturating_add(bytes);
            self.fetched.store(total, Ordering::Relaxed);
            if let Some(progress) = &self.progress {
                progress.add(bytes);
            }
            match &self.blob {
                Some((digest, size)) if total > *size => {
                    return Err(self.wrong_size(digest, *size, size.saturating_add(1)));
                }
                _ => {}
            }
            if let Some(hasher) = &mut hasher {
                hasher.update(&chunk);
            }
            if bytes == 0 {
                break;
            }
            if send(chunk)?.is_err() {
                return Ok(());
            }
            next = pool.next(&mut *self.source);
        }
        match (&self.blob, hasher) {
            (Some((digest, size)), _) if total != *size => {
                Err(self.wrong_size(digest, *size, total))
            }
            (Some((expected, _)), Some(hasher)) => {
                let actual = hasher.finish();
                if actual == *expected {
                    return Ok(());
                }
                let expected = expected.clone();
                Err(Error::DigestMismatch {
                    document: Document::Layer,
                    expected,
                    actual,
                })
            }
            _ => Ok(()),
        }
    }

    fn wrong_size(&self, digest: &Digest, expected: u64, actual: u64) -> Error {
        let digest = digest.clone();
        Error::SizeMismatch {
            document: Document::Layer,
            digest,
            expected,
            actual,
        }
    }
}

/// The second stage: decompression.
fn inflate(
    compression: Compression,
    compressed: Receiver<Chunk>,
    mut outlet: Uncompressed,
) -> Result<(), Error> {
    let mut input = Chunks {
        receiver: compressed,
        current: Chunk::default(),
        position: 0,
    };
    let layer = outlet.layer.clone();
    let bad = |source| Error::Compression {
        blob: layer.clone(),
        compression: compression.name(),
        source,
    };
    let mut decoder = Decoder::new(compression, &mut input).map_err(bad)?;
    let mut pool = Pool::default();
    let result = loop {
        let (chunk, read) = pool.fill(&mut decoder);
        let last = chunk.is_empty();
        // Bytes before an error are passed on. The consumer receives the error after them.
        if !last && outlet.send(chunk)?.is_err() {
            return Ok(());
        }
        match read {
            Ok(()) if last => break Ok(()),
            Ok(()) => {}
            Err(error) => break Err(bad(error)),
        }
    };
    drop(decoder);
    if result.is_err() {
        // The blob can be verified only at its end.
        input.receiver.iter().for_each(drop);
    }
    result
}

/// Where uncompressed bytes go.
struct Uncompressed {
    layer: Option<Digest>,
    /// The most of them.
    limit: u64,
    total: u64,
    to_hash: SyncSender<Chunk>,
    to_consumer: SyncSender<Chunk>,
}

impl Uncompressed {
    fn send(&mut self, chunk: Chunk) -> Result<Result<(), Hangup>, Error> {
        self.total = self.total.saturating_add(chunk.len() as u64);
        if self.total > self.limit {
            return Err(Error::Bomb {
                blob: self.layer.clone(),
                limit: self.limit,
            });
        }
        let hashed = self.to_hash.send(chunk.clone());
        let taken = hashed.and_then(|()| self.to_consumer.send(chunk));
        Ok(taken.map_err(|_| Hangup))
    }
}

/// The third stage.
fn hash(mut hasher: Hasher, chunks: Receiver<Chunk>) -> Digest {
    for chunk in chunks {
        hasher.update(&chunk);
    }
    hasher.finish()
}

/// The chunks sent to a stage, as a stream.
struct Chunks {
    receiver: Receiver<Chunk>,
    current: Chunk,
    position: usize,
}

impl Read for Chunks {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.fill_buf()?.read(buffer)?;
        self.consume(n);
        Ok(n)
    }
}

impl BufRead for Chunks {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.position >= self.current.len() {
            // The end of the channel is the end of the stream. The sender reports whether the
            // stream is complete.
            (self.current, self.position) = (self.receiver.recv().unwrap_or_default(), 0);
        }
        Ok(&self.current[self.position..])
    }

    fn consume(&mut self, bytes: usize) {
        self.position += bytes;
    }
}
