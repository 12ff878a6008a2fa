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
const HASH_BITS: u32 = 14;
const NONE: u32 = u32::MAX;

/// Finds earlier occurrences through chains of positions with equal hashes.
#[derive(Debug)]
pub(crate) struct Encoder {
    /// Candidates looked at for each position.
    depth: u32,
    heads: Vec<u32>,
    /// The position before with the same hash, of the last 65,536 positions.
    before: Vec<u32>,
}

impl Encoder {
    /// Levels from 0, the fastest, to 12.
    pub(crate) fn new(level: u8) -> Self {
        Self {
            depth: 1 << level.min(12),
            heads: Vec::new(),
            before: vec![NONE; DISTANCE_MAX + 1],
        }
    }

    fn encode(&mut self, input: &[u8], capacity: usize) -> Packed {
        self.heads.clear();
        self.heads.resize(1 << HASH_BITS, NONE);
        let mut out = Vec::with_capacity(capacity);
        let mut anchor = 0;
        let mut at = 0;
        while at + LAST_MATCH <= input.len() {
            // Literals alone fill what is left.
            if out.len() + (at - anchor) >= capacity {
                break;
            }
            let Some((mut start, mut found)) = self.find(input, at) else {
                at += 1;
                continue;
            };
            // A longer match one byte on is worth that byte.
            while self.depth > 1 && start + 1 + LAST_MATCH <= input.len() {
                match self.find(input, start + 1) {
                    Some((next, better)) if better.length > found.length + 1 => {
                        (start, found) = (next, better);
                    }
                    _ => break,
                }
            }
            let literals = start - anchor;
            let fixed = 1 + extension(literals, 15) + literals + 2;
            // What must follow: a token and the last literals.
            let reserve = 1 + LAST_MATCH - MATCH_MIN;
            let Some(room) = capacity.checked_sub(out.len() + fixed + reserve) else {
                break;
            };
            let length = found.length.min(MATCH_MIN + 14 + 255 * room);
            put(
                &mut out,
                &input[anchor..start],
                Some((found.distance, length)),
            );
            anchor = start + length;
            let indexed = at.max(start + 1);
            // Positions inside long matches are seldom worth finding.
            for position in (indexed..anchor).take(1 << 12) {
                self.insert(input, position);
            }
            at = anchor;
        }
        let room = capacity - out.len();
        let mut last = room.saturating_sub(1).min(input.len() - anchor);
        while 1 + extension(last, 15) + last > room {
            last -= 1;
        }
        put(&mut out, &input[anchor..anchor + last], None);
        Packed {
            consumed: anchor + last,
            bytes: out,
        }
    }

    /// The longest match at `at`, which is indexed.
    fn find(&mut self, input: &[u8], at: usize) -> Option<(usize, Match)> {
        let end = input.len() - LAST_LITERALS;
        let mut candidate = self.insert(input, at)?;
        let mut best = Match {
            distance: 0,
            length: MATCH_MIN - 1,
        };
        for _ in 0..self.depth {
            let from = candidate as usize;
            if from >= at || at - from > DISTANCE_MAX {
                break;
            }
            let length = common(&input[from..], &input[at..end]);
            if length > best.length {
                best = Match {
                    distance: (at - from) as u16,
                    length,
                };
            }
            candidate = self.before[from & DISTANCE_MAX];
            if candidate == NONE || candidate as usize >= from {
                break;
            }
        }
        (best.length >= MATCH_MIN).then_some((at, best))
    }

    /// Notes a position; gives the last one with the same hash.
    fn insert(&mut self, input: &[u8], at: usize) -> Option<u32> {
        let word = u32::from_le_bytes(*input.get(at..)?.first_chunk()?);
        let hash = word.wrapping_mul(0x9E37_79B1) >> (32 - HASH_BITS);
        let head = &mut self.heads[hash as usize];
        if *head == at as u32 {
            // Looked at before, as the byte after another.
            let before = self.before[at & DISTANCE_MAX];
            return (before != NONE).then_some(before);
        }
        let before = std::mem::replace(head, at as u32);
        self.before[at & DISTANCE_MAX] = before;
        (before != NONE).then_some(before)
    }
}

impl Encode for Encoder {
    fn pack(&mut self, input: &[u8], capacity: usize) -> io::Result<Packed> {
        Ok(self.encode(input, capacity))
    }
}

#[derive(Clone, Copy, Debug)]
struct Match {
    distance: u16,
    length: usize,
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
