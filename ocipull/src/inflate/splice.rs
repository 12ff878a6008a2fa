//! Inflating a part of a stream, from a bit to a bit, by a decoder that knows whole streams only.
//!
//! The window goes before it as a stored block, and empty blocks move the first bit to its place in
//! a byte. Behind the last bit goes a last block with a random mark: that it is decoded proves that
//! a block ends there.

use std::hash::{BuildHasher, RandomState};
use std::sync::LazyLock;

use flate2::{Decompress, FlushDecompress, Status};

use super::Bad;

/// Two hashes with keys that nobody can guess.
static MARK: LazyLock<[u8; 16]> = LazyLock::new(|| {
    let half = |_| RandomState::new().hash_one(0_u8).to_le_bytes();
    let mut mark = [0; 16];
    mark[..8].copy_from_slice(&half(()));
    mark[8..].copy_from_slice(&half(()));
    mark
});

/// Bits that are put together to bytes.
#[derive(Default)]
struct Writer {
    bytes: Vec<u8>,
    /// Bits in the last byte; 0 if there is no room in it.
    used: u32,
}

impl Writer {
    fn put(&mut self, value: u32, count: u32) {
        for place in 0..count {
            let bit = (value >> place & 1) as u8;
            match self.bytes.last_mut().filter(|_| self.used > 0) {
                Some(last) => *last |= bit << self.used,
                None => self.bytes.push(bit),
            }
            self.used = (self.used + 1) % 8;
        }
    }

    fn stored(&mut self, last: bool, body: &[u8]) {
        self.put(last.into(), 3);
        self.used = 0;
        let len = body.len() as u16;
        self.bytes.extend(len.to_le_bytes());
        self.bytes.extend((!len).to_le_bytes());
        self.bytes.extend(body);
    }

    /// An empty block of 91 bits: the shortest odd one that every decoder takes.
    fn odd(&mut self) {
        self.put(4, 3);
        // 257 literals, one distance, 18 lengths of the code of lengths.
        self.put(0, 5);
        self.put(0, 5);
        self.put(14, 4);
        // Of which those of 18, the third, and of 1, the last, are one bit.
        for place in 0..18 {
            self.put(u32::from(place == 2 || place == 17), 3);
        }
        // Literal 0 and the end have codes of one bit, and so has the distance.
        self.put(0, 1);
        for zeros in [138, 117] {
            self.put(1, 1);
            self.put(zeros - 11, 7);
        }
        self.put(0, 1);
        self.put(0, 1);
        self.put(1, 1);
    }

    /// An empty block of 10 bits.
    fn even(&mut self) {
        self.put(2, 10);
    }
}

/// The stream `bytes` from `bit` on, with a window before it, is what is returned and then `bytes`
/// from the returned offset on.
pub(super) fn open(window: &[u8], bytes: &[u8], bit: usize) -> (Vec<u8>, usize) {
    let mut start = Writer::default();
    start.stored(false, window);
    let used = (bit % 8) as u32;
    if used % 2 == 1 {
        start.odd();
    }
    while start.used != used {
        start.even();
    }
    match (bytes.get(bit / 8), start.bytes.last_mut()) {
        (Some(shared), Some(last)) if used > 0 => {
            *last |= shared & (0xff << used);
            (start.bytes, bit / 8 + 1)
        }
        _ => (start.bytes, bit / 8),
    }
}

/// Inflates at most `most` bytes into `out`, after the window, from bit `start` to bit `end` of `bytes`, where blocks begin and
/// end.
pub(super) fn inflate(
    mut out: Vec<u8>,
    window: &[u8],
    bytes: &[u8],
    start: usize,
    end: usize,
    most: usize,
) -> Result<Vec<u8>, Bad> {
    let (before, from) = open(window, bytes, start);
    let whole = bytes.get(from..end / 8).ok_or(Bad)?;
    let mut after = Writer {
        bytes: Vec::new(),
        used: (end % 8) as u32,
    };
    if after.used > 0 {
        let shared = bytes.get(end / 8).ok_or(Bad)?;
        after.bytes.push(shared & !(0xff << after.used));
    }
    after.stored(true, &*MARK);

    let mut decoder = Decompress::new(false);
    out.clear();
    out.reserve(window.len() + (4 * whole.len()).min(most) + MARK.len());
    let most = most + window.len() + MARK.len();
    let mut ended = false;
    for mut part in [&before[..], whole, &after.bytes] {
        while !part.is_empty() {
            // Nothing may follow the mark.
            if ended {
                return Err(Bad);
            }
            let read = step(&mut decoder, part, &mut out, most, &mut ended)?;
            part = part.get(read..).ok_or(Bad)?;
        }
    }
    while !ended {
        step(&mut decoder, &[], &mut out, most, &mut ended)?;
    }
    if !out.ends_with(&*MARK) || out.len() > most {
        return Err(Bad);
    }
    out.truncate(out.len() - MARK.len());
    Ok(out)
}

/// Has `decoder` read what it can of `part` into the room of `out`; returns how much that was.
fn step(
    decoder: &mut Decompress,
    part: &[u8],
    out: &mut Vec<u8>,
    most: usize,
    ended: &mut bool,
) -> Result<usize, Bad> {
    if out.len() == out.capacity() {
        if out.len() > most {
            return Err(Bad);
        }
        out.reserve(out.len() / 2 + 1);
    }
    let (read, written) = (decoder.total_in(), out.len());
    let status = decoder.decompress_vec(part, out, FlushDecompress::None);
    *ended = status.map_err(|_| Bad)? == Status::StreamEnd;
    let read = (decoder.total_in() - read) as usize;
    match *ended || read > 0 || out.len() > written {
        true => Ok(read),
        false => Err(Bad),
    }
}
