//! Large blobs over several connections at once, each fetching a range, read in order.
//!
//! The first range shows whether the server supports ranges. If it responds with the whole blob,
//! that is read to its end over one connection. At most as many ranges as connections are fetched
//! ahead.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::ops::Range;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::blob::{BlobReader, Extent};
use super::mirrors::Mirrors;
use crate::chunk::{Buffer, Chunk, Stream};
use crate::{Digest, Error, Options};

/// The size of the chunks in which a range is passed on. Each costs the stages that wait for it two
/// wake-ups.
const CHUNK: usize = 256 << 10;

/// How a large blob is fetched.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    /// How many ranges are fetched at once.
    connections: usize,
    /// The bytes of one.
    pub(super) range: u64,
}

impl Plan {
    pub(super) fn new(options: &Options) -> Self {
        Self {
            connections: options.connections.get(),
            range: options.range_bytes.max(1),
        }
    }
}

/// The bytes of a blob, not verified.
pub(super) struct Download {
    mirrors: Arc<Mirrors>,
    digest: Digest,
    plan: Plan,
    /// Where to go on.
    offset: u64,
    /// Where the blob ends.
    end: u64,
    state: State,
}

enum State {
    /// All of the rest comes over one connection.
    One(BlobReader),
    /// The first range, and the ones after it once the server turned out to have ranges.
    First(BlobReader, Option<Fetched>),
    /// A range, and the part of it that was not read.
    Later(Fetched, Chunk),
}

impl Download {
    /// Of the bytes in `range`, with which the blob ends.
    pub(super) fn new(
        mirrors: Arc<Mirrors>,
        digest: &Digest,
        range: Range<u64>,
        plan: Plan,
    ) -> Self {
        let Range { start, end } = range;
        let several = end.saturating_sub(start) > plan.range.saturating_mul(2);
        let state = if plan.connections > 1 && several {
            let first = start..start.saturating_add(plan.range);
            let reader = BlobReader::new(mirrors.clone(), digest, first, Extent::First(end));
            State::First(reader, None)
        } else {
            State::One(BlobReader::new(
                mirrors.clone(),
                digest,
                start..end,
                Extent::Rest,
            ))
        };
        Self {
            mirrors,
            digest: digest.clone(),
            plan,
            offset: start,
            end,
            state,
        }
    }

    /// Waits for the next range, where the last one was read.
    fn next_range(&mut self) -> io::Result<()> {
        let State::Later(fetched, range) = &mut self.state else {
            return Ok(());
        };
        // Its memory is free before the next is waited for.
        fetched.recycle(std::mem::take(range));
        match fetched.next() {
            Ok(next) => *range = next.into(),
            Err(Failed::Refused) => {
                let mirror = fetched.source.mirror;
                tracing::debug!(digest = %self.digest, "the server no longer keeps ranges");
                self.state = self.rest(mirror);
            }
            Err(Failed::Error(error)) => return Err((*error).into()),
        }
        Ok(())
    }

    /// The rest of the blob, over one connection.
    fn rest(&self, mirror: usize) -> State {
        let range = self.offset..self.end;
        let reader = BlobReader::new(self.mirrors.clone(), &self.digest, range, Extent::Rest);
        State::One(reader.asking(mirror))
    }
}

impl Read for Download {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            match &mut self.state {
                State::One(reader) => return reader.read(buffer),
                State::First(reader, fetched) => {
                    let bytes = reader.read(buffer)?;
                    self.offset += bytes as u64;
                    let mirror = reader.mirror();
                    if reader.extent() == Extent::Rest {
                        // The number of skipped bytes is part of the reader's state.
                        let placeholder =
                            BlobReader::new(self.mirrors.clone(), &self.digest, 0..0, Extent::Rest);
                        let reader = std::mem::replace(reader, placeholder);
                        self.state = State::One(reader);
                        return Ok(bytes);
                    }
                    if fetched.is_none() {
                        let start = (self.offset - bytes as u64).saturating_add(self.plan.range);
                        let source = Source {
                            mirrors: self.mirrors.clone(),
                            digest: self.digest.clone(),
                            mirror,
                            ranges: start..self.end,
                            bytes: self.plan.range,
                        };
                        *fetched = Some(Fetched::start(source, self.plan.connections));
                    }
                    if bytes > 0 {
                        return Ok(bytes);
                    }
                    // Its connection is free for another range.
                    let mut fetched = fetched.take();
                    let going_on = fetched.as_mut().is_some_and(Fetched::go_on);
                    self.state = match fetched.filter(|_| going_on) {
                        Some(fetched) => State::Later(fetched, Chunk::default()),
                        None => self.rest(mirror),
                    };
                }
                State::Later(_, range) if !range.is_empty() => {
                    let bytes = (&**range).read(buffer)?;
                    range.split_to(bytes);
                    self.offset += bytes as u64;
                    return Ok(bytes);
                }
                State::Later(..) if self.offset >= self.end => return Ok(0),
                State::Later(..) => self.next_range()?,
            }
        }
    }
}

impl Stream for Download {
    fn chunk(&mut self) -> Option<io::Result<Chunk>> {
        loop {
            match &mut self.state {
                State::Later(_, range) if !range.is_empty() => {
                    let chunk = range.split_to(CHUNK);
                    self.offset += chunk.len() as u64;
                    return Some(Ok(chunk));
                }
                State::Later(..) if self.offset < self.end => {
                    if let Err(error) = self.next_range() {
                        return Some(Err(error));
                    }
                }
                _ => return None,
            }
        }
    }
}

/// Where ranges come from.
struct Source {
    mirrors: Arc<Mirrors>,
    digest: Digest,
    /// The mirror to ask first.
    mirror: usize,
    /// The bytes that are fetched in ranges.
    ranges: Range<u64>,
    /// The bytes of a range.
    bytes: u64,
}

/// Why a range was not fetched.
enum Failed {
    /// The server responded with something else.
    Refused,
    Error(Box<Error>),
}

impl Source {
    /// The range with this number, if there is one.
    fn range(&self, number: u64) -> Option<Range<u64>> {
        let start = number
            .checked_mul(self.bytes)
            .and_then(|skipped| self.ranges.start.checked_add(skipped))?;
        let range = start..start.saturating_add(self.bytes).min(self.ranges.end);
        (!range.is_empty()).then_some(range)
    }

    /// Fetches a range into `bytes`, unless `stop` asks not to.
    fn fetch(
        &self,
        range: Range<u64>,
        mut bytes: Buffer,
        stop: impl Fn() -> bool,
    ) -> Result<Buffer, Failed> {
        let size = usize::try_from(range.end - range.start).unwrap_or(usize::MAX);
        let reader = BlobReader::new(self.mirrors.clone(), &self.digest, range, Extent::Strict);
        let mut reader = reader.asking(self.mirror);
        bytes.clear();
        while bytes.len() < size {
            if stop() {
                return Err(Failed::Error(Box::new(Error::Failed)));
            }
            match reader.read(bytes.room(size)) {
                Ok(0) => return Err(Failed::Refused),
                Ok(read) => bytes.filled(read),
                Err(_) if reader.is_refused() => return Err(Failed::Refused),
                Err(error) => {
                    let error = error.downcast().unwrap_or(Error::Failed);
                    return Err(Failed::Error(Box::new(error)));
                }
            }
        }
        Ok(bytes)
    }
}

/// Ranges that threads fetch ahead of the reader. Dropping it stops them.
struct Fetched {
    source: Arc<Source>,
    queue: Arc<Queue>,
    /// The number of threads, and its limit.
    threads: usize,
    most: usize,
    /// Ranges of which the reader's chunks may still be in use.
    lent: Vec<Chunk>,
}

#[derive(Default)]
struct Queue {
    state: Mutex<Progress>,
    /// Notified when a range is there, is wanted, or nothing is wanted any more.
    changed: Condvar,
}

#[derive(Default)]
struct Progress {
    /// The number of the next range to fetch.
    next: u64,
    /// The number of the next range to read.
    wanted: u64,
    fetched: BTreeMap<u64, Result<Buffer, Failed>>,
    /// Buffers of ranges that were read: the memory of new ones would be cleared first.
    free: Vec<Buffer>,
    stop: bool,
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, Progress> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Fetched {
    /// Starts to fetch over all but one of `connections`: the first range comes over that one.
    fn start(source: Source, connections: usize) -> Self {
        let mut fetched = Self {
            source: Arc::new(source),
            queue: Arc::default(),
            threads: 0,
            most: connections,
            lent: Vec::new(),
        };
        while fetched.threads + 1 < connections && fetched.spawn() {}
        fetched
    }

    /// Uses the connection of the first range, too. Returns whether anything is fetched at all.
    fn go_on(&mut self) -> bool {
        self.spawn() || self.threads > 0
    }

    fn spawn(&mut self) -> bool {
        let (source, queue, ahead) = (self.source.clone(), self.queue.clone(), self.most as u64);
        let thread = std::thread::Builder::new().name("ocipull-range".to_owned());
        let started = thread.spawn(move || work(&source, &queue, ahead)).is_ok();
        self.threads += usize::from(started);
        started
    }

    /// Has the buffer of a range that was read used again, once its chunks are not used any more.
    fn recycle(&mut self, range: Chunk) {
        self.lent.push(range);
        let lent = std::mem::take(&mut self.lent).into_iter();
        let mut state = self.queue.lock();
        self.lent = lent
            .filter_map(|range| match range.into_buffer() {
                Ok(buffer) => {
                    state.free.push(buffer);
                    None
                }
                Err(range) => Some(range),
            })
            .collect();
    }

    /// Waits for the next range.
    fn next(&self) -> Result<Buffer, Failed> {
        let mut state = self.queue.lock();
        loop {
            let wanted = state.wanted;
            if let Some(range) = state.fetched.remove(&wanted) {
                state.wanted += 1;
                self.queue.changed.notify_all();
                return range;
            }
            let waited = self.queue.changed.wait(state);
            state = waited.unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Drop for Fetched {
    fn drop(&mut self) {
        self.queue.lock().stop = true;
        self.queue.changed.notify_all();
    }
}

/// Fetches one range after another, at most `ahead` ranges before the reader.
fn work(source: &Source, queue: &Queue, ahead: u64) {
    loop {
        let full = |state: &mut Progress| !state.stop && state.next >= state.wanted + ahead;
        let state = queue.changed.wait_while(queue.lock(), full);
        let mut state = state.unwrap_or_else(PoisonError::into_inner);
        let number = state.next;
        let Some(range) = source.range(number).filter(|_| !state.stop) else {
            return;
        };
        state.next += 1;
        let bytes = state.free.pop().unwrap_or_default();
        drop(state);
        let mut ending = Ending {
            queue,
            number,
            range: None,
        };
        ending.range = Some(source.fetch(range, bytes, || queue.lock().stop));
    }
}

/// Passes a range to the reader, which waits for it, even if the fetching thread panicked.
struct Ending<'a> {
    queue: &'a Queue,
    number: u64,
    range: Option<Result<Buffer, Failed>>,
}

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        let range = self.range.take();
        let range = range.unwrap_or_else(|| Err(Failed::Error(Box::new(Error::Failed))));
        let mut state = self.queue.lock();
        state.fetched.insert(self.number, range);
        self.queue.changed.notify_all();
    }
}
