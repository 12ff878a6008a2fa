//! The LZ4 block format, written into a given number of bytes.

use std::io;

use super::codec::{Encode, Packed};

/// The shortest match.
const MATCH_MIN: usize = 4;
/// The farthest match.
const DISTANCE_MAX: usize = 65535;
/// A block's last bytes are literals, and no match begins in the last 12: decoders copy in large steps.
const LAST_LITERALS: usize = 5;
const LAST_MATCH: usize = 12;
const NONE: u32 = u32::MAX;

/// Fills clusters.
#[derive(Debug)]
pub(crate) enum Encoder {
    Fast(Fast),
    Chains(Chains),
}

impl Encoder {
    /// Levels from 0, the fastest, to 12.
    pub(crate) fn new(level: u8) -> Self {
        match level {
            0 => Self::Fast(Fast::new()),
            level => Self::Chains(Chains::new(level)),
        }
    }
}

impl Encode for Encoder {
    fn pack(&mut self, input: &[u8], capacity: usize) -> io::Result<Packed> {
        Ok(match self {
            Self::Fast(fast) => fast.encode(input, capacity),
            Self::Chains(chains) => chains.encode(input, capacity),
        })
    }
}

/// Looks at the last position with the same hash alone, and at fewer positions the longer it finds nothing.
#[derive(Debug)]
pub(crate) struct Fast {
    /// The last position by hash, counted from what is behind `base`.
    last: Vec<u32>,
    /// Above all positions of inputs before, which need not be cleared away so.
    base: u32,
}

impl Fast {
    const HASH_BITS: u32 = 13;
    /// Misses after which positions are left out.
    const PATIENCE: u32 = 6;

    fn new() -> Self {
        Self {
            last: vec![0; 1 << Self::HASH_BITS],
            base: 1,
        }
    }

    fn encode(&mut self, input: &[u8], capacity: usize) -> Packed {
        let base = match self.base.checked_add(input.len() as u32) {
            Some(next) => std::mem::replace(&mut self.base, next),
            None => {
                self.last.fill(0);
                self.base = 1 + input.len() as u32;
                1
            }
        };
        let mut sequences = Sequences::new(input, capacity);
        let mut at = 0;
        while at + LAST_MATCH <= input.len() && !sequences.is_full_at(at) {
            let last = self.note(input, at, base);
            let from = last.checked_sub(base).map(|from| from as usize);
            let Some(mut from) = from
                .filter(|&from| at - from <= DISTANCE_MAX && word(input, from) == word(input, at))
            else {
                at += 1 + ((at - sequences.anchor) >> Self::PATIENCE);
                continue;
            };
            let end = input.len() - LAST_LITERALS;
            let mut length =
                MATCH_MIN + common(&input[from + MATCH_MIN..], &input[at + MATCH_MIN..end]);
            while at > sequences.anchor && from > 0 && input[at - 1] == input[from - 1] {
                (at, from, length) = (at - 1, from - 1, length + 1);
            }
            let found = Match {
                distance: (at - from) as u16,
                length,
            };
            if !sequences.put(at, found) {
                break;
            }
            at = sequences.anchor;
            if at + LAST_MATCH <= input.len() {
                self.note(input, at - 2, base);
            }
        }
        sequences.end()
    }

    /// Notes a position; gives the last one with the same hash.
    fn note(&mut self, input: &[u8], at: usize, base: u32) -> u32 {
        // Five bytes: what is found is worth more than four.
        let bytes: [u8; 8] = input[at..at + 8].try_into().unwrap_or_default();
        let hash = (u64::from_le_bytes(bytes) << 24).wrapping_mul(0x9E37_79B1_85EB_CA87);
        let slot = &mut self.last[(hash >> (64 - Self::HASH_BITS)) as usize];
        std::mem::replace(slot, base + at as u32)
    }
}

/// Finds earlier occurrences through chains of positions with equal hashes.
#[derive(Debug)]
pub(crate) struct Chains {
    /// Candidates looked at for each position.
    depth: u32,
    heads: Vec<u32>,
    /// The position before with the same hash, of the last 65,536 positions.
    before: Vec<u32>,
}

impl Chains {
    const HASH_BITS: u32 = 15;

    fn new(level: u8) -> Self {
        Self {
            depth: 1 << (u32::from(level) * 5 / 6),
            heads: vec![NONE; 1 << Self::HASH_BITS],
            before: vec![NONE; DISTANCE_MAX + 1],
        }
    }

    fn encode(&mut self, input: &[u8], capacity: usize) -> Packed {
        self.heads.fill(NONE);
        let mut sequences = Sequences::new(input, capacity);
        let mut at = 0;
        while at + LAST_MATCH <= input.len() && !sequences.is_full_at(at) {
            let Some(mut found) = self.find(input, at, MATCH_MIN - 1) else {
                at += 1;
                continue;
            };
            let mut start = at;
            // A longer match one byte on is worth that byte.
            while start + 1 + LAST_MATCH <= input.len() {
                let Some(better) = self.find(input, start + 1, found.length + 1) else {
                    break;
                };
                (start, found) = (start + 1, better);
            }
            if !sequences.put(start, found) {
                break;
            }
            let indexed = at.max(start + 1) + 1;
            at = sequences.anchor;
            // Positions inside long matches are seldom worth finding.
            for position in (indexed..at).take(1 << 12) {
                self.insert(input, position);
            }
        }
        sequences.end()
    }

    /// The longest match at `at`, which is noted, longer than `least`.
    fn find(&mut self, input: &[u8], at: usize, least: usize) -> Option<Match> {
        let end = input.len() - LAST_LITERALS;
        let mut candidate = self.insert(input, at)?;
        let mut best = None;
        let mut longest = least;
        for _ in 0..self.depth {
            let from = candidate as usize;
            if from >= at || at - from > DISTANCE_MAX || at + longest >= end {
                break;
            }
            // What is longer is equal there, too.
            let tail = longest.saturating_sub(3);
            if word(input, from + tail) == word(input, at + tail) {
                let length = common(&input[from..], &input[at..end]);
                if length > longest {
                    longest = length;
                    best = Some(Match {
                        distance: (at - from) as u16,
                        length,
                    });
                }
            }
            candidate = self.before[from & DISTANCE_MAX];
            if candidate == NONE || candidate as usize >= from {
                break;
            }
        }
        best
    }

    /// Notes a position; gives the last one with the same hash.
    fn insert(&mut self, input: &[u8], at: usize) -> Option<u32> {
        let word = u32::from_le_bytes(*input.get(at..)?.first_chunk()?);
        let hash = word.wrapping_mul(0x9E37_79B1) >> (32 - Self::HASH_BITS);
        let head = &mut self.heads[hash as usize];
        let before = match *head == at as u32 {
            // Looked at before, as the byte after another.
            true => self.before[at & DISTANCE_MAX],
            false => {
                let before = std::mem::replace(head, at as u32);
                self.before[at & DISTANCE_MAX] = before;
                before
            }
        };
        (before != NONE).then_some(before)
    }
}

#[derive(Clone, Copy, Debug)]
struct Match {
    distance: u16,
    length: usize,
}

/// The code, as far as it fits.
#[derive(Debug)]
struct Sequences<'a> {
    input: &'a [u8],
    capacity: usize,
    out: Vec<u8>,
    /// What comes before is encoded.
    anchor: usize,
}

impl<'a> Sequences<'a> {
    fn new(input: &'a [u8], capacity: usize) -> Self {
        Self {
            input,
            capacity,
            out: Vec::with_capacity(capacity),
            anchor: 0,
        }
    }

    /// Whether the literals up to `at` alone fill what is left.
    fn is_full_at(&self, at: usize) -> bool {
        self.out.len() + (at - self.anchor) >= self.capacity
    }

    /// Encodes up to a match, and as much of that as fits; tells whether anything did.
    fn put(&mut self, start: usize, found: Match) -> bool {
        let literals = start - self.anchor;
        let fixed = 1 + extension(literals, 15) + literals + 2;
        // What must follow: a token and the last literals.
        let reserve = 1 + LAST_MATCH - MATCH_MIN;
        let Some(room) = self.capacity.checked_sub(self.out.len() + fixed + reserve) else {
            return false;
        };
        let length = found.length.min(MATCH_MIN + 14 + 255 * room);
        put(
            &mut self.out,
            &self.input[self.anchor..start],
            Some((found.distance, length)),
        );
        self.anchor = start + length;
        true
    }

    /// Encodes the literals that fit behind the last match.
    fn end(mut self) -> Packed {
        let room = self.capacity - self.out.len();
        let mut last = room.saturating_sub(1).min(self.input.len() - self.anchor);
        while 1 + extension(last, 15) + last > room {
            last -= 1;
        }
        put(
            &mut self.out,
            &self.input[self.anchor..self.anchor + last],
            None,
        );
        Packed {
            consumed: self.anchor + last,
            bytes: self.out,
        }
    }
}

/// The four bytes at `at`, or zeros.
fn word(input: &[u8], at: usize) -> u32 {
    let bytes = input.get(at..).and_then(<[u8]>::first_chunk);
    bytes.map_or(0, |bytes| u32::from_le_bytes(*bytes))
}

/// The number of equal bytes that both begin with.
fn common(a: &[u8], b: &[u8]) -> usize {
    let words = a.chunks_exact(8).zip(b.chunks_exact(8));
    let equal = words.take_while(|(a, b)| a == b).count() * 8;
    let rest = a[equal..].iter().zip(&b[equal..]);
    equal + rest.take_while(|(a, b)| a == b).count()
}

/// The bytes that follow the token for a length of which it holds less than `limit`.
fn extension(length: usize, limit: usize) -> usize {
    length.checked_sub(limit).map_or(0, |rest| rest / 255 + 1)
}

fn put(out: &mut Vec<u8>, literals: &[u8], found: Option<(u16, usize)>) {
    let matched = found.map_or(0, |(_, length)| length - MATCH_MIN);
    out.push((literals.len().min(15) << 4 | matched.min(15)) as u8);
    put_extension(out, literals.len());
    out.extend_from_slice(literals);
    if let Some((distance, _)) = found {
        out.extend_from_slice(&distance.to_le_bytes());
        put_extension(out, matched);
    }
}

fn put_extension(out: &mut Vec<u8>, length: usize) {
    if let Some(rest) = length.checked_sub(15) {
        out.resize(out.len() + rest / 255, 255);
        out.push((rest % 255) as u8);
    }
}
