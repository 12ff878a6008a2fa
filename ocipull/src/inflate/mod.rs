//! Inflating one gzip stream on several cores, as pugz and rapidgzip do.
//!
//! The stream is cut where a block seems to begin, every MiB or so. One thread, which knows the
//! window, inflates the first part; others inflate the parts after it at the same time, with
//! markers for what would be copied out of a window they do not know, until all of it is known.
//! Then the markers are replaced, one part after the other.
//!
//! Nothing rests on a guess: a part counts only if the one before it ends at the very bit where it
//! begins. Wherever something is not as expected (a wrong guess, damage, an end of a member, a part
//! that inflates to a great deal) the rest of the stream goes to the serial decoder, from the last
//! bit that is known to be right; so errors are that decoder's.

mod bits;
mod block;
mod cores;
mod find;
mod header;
mod huffman;
mod splice;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::io::{self, BufRead, Chain, Cursor, Read};
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use flate2::Crc;
use flate2::bufread::{DeflateDecoder, MultiGzDecoder};

use bits::Bits;
use block::{Blocks, MARKER, Marked};
pub use cores::Cores;
use cores::InUse;
use find::Finder;

/// How far back a deflate stream refers.
const WINDOW: usize = 32 << 10;

/// A part cannot be inflated this way. Why is for the serial decoder to find out.
#[derive(Debug)]
struct Bad;

/// How a stream is cut.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cut {
    /// Compressed bytes of a part, at least.
    pub(crate) part: usize,
    /// The bytes after them in which the next part's start is looked for.
    pub(crate) search: usize,
    /// The most bytes that a part may inflate to.
    pub(crate) most: usize,
    /// The most parts that are inflated ahead.
    pub(crate) ahead: usize,
}

impl Default for Cut {
    fn default() -> Self {
        Self {
            part: 1 << 20,
            search: 256 << 10,
            most: 12 << 20,
            ahead: 8,
        }
    }
}

/// What was done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Work {
    /// Parts with a known window.
    pub(crate) known: u64,
    /// Parts that were inflated ahead.
    pub(crate) ahead: u64,
    /// Bytes that were inflated as markers or with them.
    pub(crate) marked: u64,
    /// Compressed bytes that were given to the serial decoder after another had failed on them.
    pub(crate) again: u64,
}

/// The compressed bytes, and before them those that were read already.
type Rest<R> = Chain<Cursor<Vec<u8>>, R>;

/// The uncompressed bytes of a gzip stream, of all its members.
pub(crate) struct Gunzip<R: BufRead> {
    state: State<R>,
    cores: Cores,
    _in_use: InUse,
    cut: Cut,
    work: Work,
    /// What was inflated, and how much of it was read.
    out: Vec<u8>,
    given: usize,
    /// The end of what was inflated.
    window: Vec<u8>,
    crc: Crc,
}

enum State<R: BufRead> {
    Start(R),
    Parts(Box<Parts<R>>),
    /// The rest of a member whose beginning was inflated.
    Tail(DeflateDecoder<Rest<R>>),
    Members(MultiGzDecoder<Rest<R>>),
    Done,
}

/// A member that is inflated in parts.
struct Parts<R> {
    input: R,
    finder: Finder,
    /// What was read and not cut off; the first block begins at bit `bit`.
    buffer: Vec<u8>,
    bit: usize,
    /// Whether no part can be cut off any more.
    last: bool,
    queue: VecDeque<Part>,
}

struct Part {
    bytes: Arc<Vec<u8>>,
    start: usize,
    end: usize,
    /// The thread that inflates it ahead, unless it is still to be inflated.
    ahead: Option<JoinHandle<Result<Ahead, Bad>>>,
}

/// What a part inflates to.
struct Ahead {
    marked: Vec<u16>,
    plain: Vec<u8>,
}

impl<R: BufRead> Gunzip<R> {
    pub(crate) fn new(input: R, cores: Cores, cut: Cut) -> Self {
        Self {
            state: State::Start(input),
            _in_use: cores.occupy(),
            cores,
            cut,
            work: Work::default(),
            out: Vec::new(),
            given: 0,
            window: Vec::new(),
            crc: Crc::new(),
        }
    }

    #[cfg(test)]
    pub(crate) fn work(&self) -> Work {
        self.work
    }

    /// Reads as much as the decision needs whether the stream is worth cutting.
    fn begin(&mut self, mut input: R) -> io::Result<State<R>> {
        let mut buffer = Vec::new();
        let large = match self.cores.total() {
            // None is spare beside those that the stream counts as.
            0..=2 => false,
            _ => fill(&mut buffer, &mut input, self.cut.part + self.cut.search)?,
        };
        match header::length(&buffer).filter(|_| large) {
            Some(length) => {
                buffer.drain(..length);
                Ok(State::Parts(Box::new(Parts {
                    input,
                    finder: Finder::new(),
                    buffer,
                    bit: 0,
                    last: false,
                    queue: VecDeque::new(),
                })))
            }
            None => Ok(members(Cursor::new(buffer).chain(input))),
        }
    }

    /// Inflates the next part.
    fn advance(&mut self, mut parts: Box<Parts<R>>) -> io::Result<State<R>> {
        if parts.queue.is_empty() {
            match parts.split(self.cut)? {
                Some(part) => parts.queue.push_back(part),
                None => return self.tail(*parts, None),
            }
        }
        while parts.queue.len() <= self.cut.ahead
            && !parts.last
            && let Some(core) = self.cores.spare()
        {
            if let Some(part) = parts.split(self.cut)? {
                parts.queue.push_back(part.begin(core, self.cut.most));
            }
        }
        let Some(mut part) = parts.queue.pop_front() else {
            return self.tail(*parts, None);
        };
        let mut before = 0;
        let inflated = match part.ahead.take() {
            None => {
                self.work.known += 1;
                before = self.window.len();
                let (out, most) = (std::mem::take(&mut self.out), self.cut.most);
                splice::inflate(out, &self.window, &part.bytes, part.start, part.end, most)
            }
            Some(thread) => {
                self.work.ahead += 1;
                let ahead = thread.join().unwrap_or(Err(Bad));
                ahead.and_then(|ahead| {
                    self.work.marked += ahead.marked.len() as u64;
                    ahead.with(&self.window)
                })
            }
        };
        let Ok(inflated) = inflated else {
            return self.tail(*parts, Some(part));
        };
        self.crc.update(&inflated[before..]);
        remember(&mut self.window, &inflated[before..]);
        (self.out, self.given) = (inflated, before);
        Ok(State::Parts(parts))
    }

    /// Leaves the rest, from `failed` on, to the serial decoder.
    fn tail(&mut self, parts: Parts<R>, failed: Option<Part>) -> io::Result<State<R>> {
        let start = failed.as_ref().or(parts.queue.front());
        let start = start.map_or(parts.bit, |part| part.start);
        let mut rest = Vec::new();
        for part in failed.iter().chain(&parts.queue) {
            // Where parts share a byte, the next one has it.
            rest.extend(&part.bytes[..part.end / 8]);
        }
        self.work.again += rest.len() as u64;
        rest.extend(&parts.buffer);
        let (mut before, from) = splice::open(&self.window, &rest, start);
        before.extend(rest.get(from..).unwrap_or_default());
        drop(rest);
        let mut decoder = DeflateDecoder::new(Cursor::new(before).chain(parts.input));
        let mut window = vec![0; self.window.len()];
        decoder.read_exact(&mut window)?;
        Ok(State::Tail(decoder))
    }

    /// A member's checksum and size, and whether another one follows.
    fn end(&self, decoder: DeflateDecoder<Rest<R>>) -> io::Result<State<R>> {
        let mut rest = decoder.into_inner();
        let mut trailer = [0; 8];
        rest.read_exact(&mut trailer)?;
        let [a, b, c, d, size @ ..] = trailer;
        if u32::from_le_bytes([a, b, c, d]) != self.crc.sum()
            || u32::from_le_bytes(size) != self.crc.amount()
        {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "corrupt gzip stream does not have a matching checksum",
            ));
        }
        Ok(match rest.fill_buf()?.is_empty() {
            true => State::Done,
            false => members(rest),
        })
    }
}

fn members<R: BufRead>(rest: Rest<R>) -> State<R> {
    State::Members(MultiGzDecoder::new(rest))
}

impl<R: BufRead> Read for Gunzip<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            let bytes = (&self.out[self.given..]).read(buffer)?;
            if bytes > 0 {
                self.given += bytes;
                return Ok(bytes);
            }
            // Its room is used again.
            self.out.clear();
            self.given = 0;
            // After an error there is no more.
            self.state = match std::mem::replace(&mut self.state, State::Done) {
                State::Start(input) => self.begin(input)?,
                State::Parts(parts) => self.advance(parts)?,
                State::Tail(mut decoder) => {
                    let bytes = decoder.read(buffer)?;
                    if bytes > 0 {
                        self.crc.update(&buffer[..bytes]);
                        self.state = State::Tail(decoder);
                        return Ok(bytes);
                    }
                    self.end(decoder)?
                }
                State::Members(mut decoder) => {
                    let bytes = decoder.read(buffer)?;
                    self.state = State::Members(decoder);
                    return Ok(bytes);
                }
                State::Done => return Ok(0),
            };
        }
    }
}

impl<R: BufRead> Parts<R> {
    /// Cuts off a part, if the next one's start is found.
    fn split(&mut self, cut: Cut) -> io::Result<Option<Part>> {
        // Parts that are merged inflate to too much soon.
        for parts in 1..=2 {
            let from = parts * cut.part;
            if !fill(&mut self.buffer, &mut self.input, from + cut.search)? {
                break;
            }
            let searched = &self.buffer[..from + cut.search];
            if let Some(end) = self.finder.find(searched, from) {
                let rest = self.buffer[end / 8..].to_vec();
                self.buffer.truncate(end.div_ceil(8));
                let part = Part {
                    bytes: Arc::new(std::mem::replace(&mut self.buffer, rest)),
                    start: self.bit,
                    end,
                    ahead: None,
                };
                self.bit = end % 8;
                return Ok(Some(part));
            }
        }
        self.last = true;
        Ok(None)
    }
}

impl Part {
    /// Has a thread inflate the part while `core` is used for it.
    fn begin(mut self, core: InUse, most: usize) -> Self {
        let (bytes, start, end) = (self.bytes.clone(), self.start, self.end);
        let builder = thread::Builder::new().name("ocipull-ahead".to_owned());
        // Without the thread, it is inflated when it is its turn.
        self.ahead = builder
            .spawn(move || {
                let ahead = Ahead::inflate(&bytes, start, end, most);
                drop(core);
                ahead
            })
            .ok();
        self
    }
}

impl Ahead {
    fn inflate(bytes: &[u8], start: usize, end: usize, most: usize) -> Result<Self, Bad> {
        let mut blocks = Blocks::new();
        let mut out = Marked::new(most);
        let mut bits = Bits::at(bytes, start);
        let mut plain = Vec::new();
        while bits.position() != end {
            if let Some(window) = out.window() {
                let most = most.saturating_sub(out.values.len() - WINDOW);
                plain = splice::inflate(Vec::new(), &window, bytes, bits.position(), end, most)?;
                break;
            }
            if bits.position() > end || blocks.block(&mut bits, &mut out)? {
                return Err(Bad);
            }
        }
        let marked = out.values.split_off(WINDOW);
        Ok(Self { marked, plain })
    }

    /// The bytes, once the window is known.
    fn with(self, window: &[u8]) -> Result<Vec<u8>, Bad> {
        // In the first bytes of a member the window is not full; nothing is before it.
        let missing = WINDOW - window.len();
        let mut bytes = Vec::with_capacity(self.marked.len() + self.plain.len());
        // Most runs have no marker, and are narrowed many values at a time.
        for run in self.marked.chunks(64) {
            if run.iter().fold(0, |all, value| all | value) < MARKER {
                bytes.extend(run.iter().map(|&value| value as u8));
                continue;
            }
            for &value in run {
                bytes.push(match value.checked_sub(MARKER) {
                    None => value as u8,
                    Some(place) => {
                        let place = usize::from(place).checked_sub(missing).ok_or(Bad)?;
                        *window.get(place).ok_or(Bad)?
                    }
                });
            }
        }
        bytes.extend(self.plain.get(WINDOW..).unwrap_or_default());
        Ok(bytes)
    }
}

/// Compares the bytes or the error with those of the serial decoder.
#[cfg(fuzzing)]
pub(crate) fn fuzz(bytes: &[u8], part: usize) {
    let cut = Cut {
        part: part.max(1),
        search: 4096,
        most: 1 << 20,
        ahead: 3,
    };
    let read = |reader: &mut dyn Read| {
        let mut out = Vec::new();
        let result = reader.take(16 << 20).read_to_end(&mut out);
        result.map(|_| out).map_err(|error| error.kind())
    };
    let cores = Cores::new(std::num::NonZeroUsize::MIN.saturating_add(4));
    let found = read(&mut Gunzip::new(bytes, cores, cut));
    assert!(found == read(&mut MultiGzDecoder::new(bytes)));
}

/// Keeps the last bytes of the output.
fn remember(window: &mut Vec<u8>, bytes: &[u8]) {
    let bytes = &bytes[bytes.len().saturating_sub(WINDOW)..];
    let surplus = (window.len() + bytes.len()).saturating_sub(WINDOW);
    window.drain(..surplus);
    window.extend(bytes);
}

/// Reads until `buffer` has `len` bytes; returns whether it has.
fn fill(buffer: &mut Vec<u8>, input: &mut impl BufRead, len: usize) -> io::Result<bool> {
    let missing = len.saturating_sub(buffer.len()) as u64;
    input.take(missing).read_to_end(buffer)?;
    Ok(buffer.len() >= len)
}
