//! The LZ4 block format, written into a given number of bytes.

use std::io;

use super::encode::{Encode, Packed};

/// The shortest match.
const MATCH_MIN: usize = 4;
/// The farthest match.
const DISTANCE_MAX: usize = 65535;
/// A block's last bytes are literals, and no match begins in the last 12: decoders copy in large
/// steps.
const LAST_LITERALS: usize = 5;
const LAST_MATCH: usize = 12;
/// The bytes that must follow a sequence: a token and the last literals.
const RESERVE: usize = 1 + LAST_MATCH - MATCH_MIN;
/// The size of a copy where no more bytes are needed, whatever follows them.
const COPIED: usize = 16;

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

/// Positions continue from input to input. Those of earlier inputs are lower than all of this
/// one's, so tables need not be cleared.
#[derive(Debug)]
struct Positions {
    /// Lower positions belong to earlier inputs, or are 0: unset.
    base: u32,
    next: u32,
}

impl Positions {
    fn new() -> Self {
        Self { base: 1, next: 1 }
    }

    /// Begins an input of `length` bytes, and returns whether all tables must be cleared first.
    fn begin(&mut self, length: usize) -> bool {
        let length = length as u32;
        let next = self.next.checked_add(length);
        self.base = if next.is_some() { self.next } else { 1 };
        self.next = next.unwrap_or(1 + length);
        next.is_none()
    }
}

/// Examines only the last position with the same hash, and skips more positions the longer nothing
/// is found.
#[derive(Debug)]
pub(crate) struct Fast {
    /// The last position by hash. 16 bits distinguish all positions that are near enough, so the
    /// table leaves room in the first-level cache.
    last: Box<[u16; 1 << Self::HASH_BITS]>,
    out: Vec<u8>,
}

impl Fast {
    const HASH_BITS: u32 = 13;
    /// The longest input in which matches of four bytes are searched for: larger ones have enough
    /// longer matches.
    const SHORT: usize = 1 << 16;
    /// The binary logarithm of the number of misses after which every second position is skipped;
    /// after as many more, two of three.
    const PATIENCE: u32 = 6;

    fn new() -> Self {
        Self {
            last: Box::new([0; 1 << Self::HASH_BITS]),
            out: Vec::new(),
        }
    }

    fn encode(&mut self, input: &[u8], capacity: usize) -> Packed {
        match input.len() < Self::SHORT {
            true => self.encode_by::<4>(input, capacity),
            false => self.encode_by::<5>(input, capacity),
        }
    }

    /// Encodes with hashes of so many bytes.
    fn encode_by<const HASHED: u32>(&mut self, input: &[u8], capacity: usize) -> Packed {
        // All entries begin as the first position, which therefore needs no search.
        self.last.fill(0);
        let mut out = std::mem::take(&mut self.out);
        let mut sequences = Sequences::new(input, capacity, &mut out);
        let mut at = 1;
        // The position at which the literals alone fill the rest, or after which no match may
        // begin.
        while let Some((start, from)) = self.find::<HASHED>(input, at, sequences.end_of_search()) {
            let more = sequences.common_short(from + MATCH_MIN, start + MATCH_MIN);
            let before = common_before(input, from, start, start - sequences.anchor);
            let found = Match {
                distance: (start - from) as u16,
                length: before + MATCH_MIN + more,
            };
            if !sequences.put(start - before, found) {
                break;
            }
            at = sequences.anchor;
            if let Some(bytes) = word_at(input, at - 2) {
                self.last[hash::<HASHED>(bytes)] = (at - 2) as u16;
            }
        }
        let packed = sequences.end();
        self.out = out;
        packed
    }

    /// The first position from `anchor` on and before `end` that is looked at and begins with four
    /// bytes that were there before, and where.
    // Once in the encoder's loop.
    #[inline(always)]
    fn find<const HASHED: u32>(
        &mut self,
        input: &[u8],
        anchor: usize,
        end: usize,
    ) -> Option<(usize, usize)> {
        let last = &mut *self.last;
        // So the search ends with the words.
        let search = input.get(..end + 7)?;
        // In 32 bits, what is added never overflows `usize`, which saves a comparison.
        let mut at = anchor as u32;
        let mut misses = 1 << Self::PATIENCE;
        while let Some(bytes) = word_at(search, at as usize) {
            let last = std::mem::replace(&mut last[hash::<HASHED>(bytes)], at as u16);
            // The smallest possible distance. If the real one is larger, another position is
            // compared, which is as good if equal.
            let distance = (at as u16).wrapping_sub(last);
            let from = at.wrapping_sub(distance.into()) as usize;
            if let Some(there) = search.get(from..).and_then(<[u8]>::first_chunk)
                && u32::from_le_bytes(*there) == bytes as u32
                && distance != 0
            {
                return Some((at as usize, from));
            }
            at += misses >> Self::PATIENCE;
            misses += 1;
        }
        None
    }
}

/// A hash of the first bytes of eight.
#[inline]
fn hash<const HASHED: u32>(bytes: u64) -> usize {
    let product = (bytes << (64 - 8 * HASHED)).wrapping_mul(0x9E37_79B1_85EB_CA87);
    (product >> (64 - Fast::HASH_BITS)) as usize
}

/// The number of bytes before `from` and before `at`, which is after it, that are equal, `most` at
/// most.
#[inline]
fn common_before(input: &[u8], from: usize, at: usize, most: usize) -> usize {
    // Counted in a word, because the end of a loop cannot be predicted.
    if let (Some(&there), Some(&here)) = (input[..from].last_chunk(), input[..at].last_chunk()) {
        let different = u64::from_le_bytes(here) ^ u64::from_le_bytes(there);
        if different != 0 {
            return most.min(different.leading_zeros() as usize / 8);
        }
    }
    let (there, here) = (
        input[..from].iter().rev(),
        input[at - most..at].iter().rev(),
    );
    here.zip(there)
        .take_while(|(here, there)| here == there)
        .count()
}

/// Finds earlier occurrences through chains of positions with equal hashes.
#[derive(Debug)]
pub(crate) struct Chains {
    /// Candidates looked at for each position.
    depth: u32,
    heads: Box<[u32; 1 << Self::HASH_BITS]>,
    /// The position before with the same hash, of the last 65,536 positions.
    before: Box<[u32; DISTANCE_MAX + 1]>,
    positions: Positions,
    out: Vec<u8>,
}

impl Chains {
    const HASH_BITS: u32 = 15;

    fn new(level: u8) -> Self {
        Self {
            depth: 1 << (u32::from(level) * 5 / 6),
            heads: Box::new([0; 1 << Self::HASH_BITS]),
            before: Box::new([0; DISTANCE_MAX + 1]),
            positions: Positions::new(),
            out: Vec::new(),
        }
    }

    fn encode(&mut self, input: &[u8], capacity: usize) -> Packed {
        if self.positions.begin(input.len()) {
            self.heads.fill(0);
        }
        let mut out = std::mem::take(&mut self.out);
        let mut sequences = Sequences::new(input, capacity, &mut out);
        let mut at = 0;
        while at < sequences.end_of_search() {
            let Some(mut found) = self.find(&sequences, at, MATCH_MIN - 1) else {
                at += 1;
                continue;
            };
            let mut start = at;
            // A longer match at the next byte is worth one literal.
            while start + 1 + LAST_MATCH <= input.len() {
                let Some(better) = self.find(&sequences, start + 1, found.length + 1) else {
                    break;
                };
                (start, found) = (start + 1, better);
            }
            if !sequences.put(start, found) {
                break;
            }
            let indexed = at.max(start + 1) + 1;
            at = sequences.anchor;
            // Positions inside long matches are rarely useful.
            for position in (indexed..at).take(1 << 12) {
                self.insert(input, position);
            }
        }
        let packed = sequences.end();
        self.out = out;
        packed
    }

    /// The longest match at `at` that is longer than `least`. Enters `at` into the tables.
    fn find(&mut self, sequences: &Sequences<'_>, at: usize, least: usize) -> Option<Match> {
        let input = sequences.input;
        let base = self.positions.base;
        let mut candidate = self.insert(input, at);
        let mut best = None;
        let mut longest = least;
        for _ in 0..self.depth {
            // Unset, or of an earlier input.
            let Some(from) = candidate.checked_sub(base) else {
                break;
            };
            let from = from as usize;
            if from >= at || at - from > DISTANCE_MAX || at + longest + LAST_LITERALS >= input.len()
            {
                break;
            }
            // What is longer is equal there, too.
            let tail = longest.saturating_sub(3);
            if word(input, from + tail) as u32 == word(input, at + tail) as u32 {
                let length = sequences.common(from, at);
                if length > longest {
                    longest = length;
                    best = Some(Match {
                        distance: (at - from) as u16,
                        length,
                    });
                }
            }
            let earlier = self.before[from & DISTANCE_MAX];
            if earlier >= candidate {
                break;
            }
            candidate = earlier;
        }
        best
    }

    /// Enters a position, and returns the last one with the same hash.
    fn insert(&mut self, input: &[u8], at: usize) -> u32 {
        let bytes = input[at..]
            .first_chunk()
            .map_or(0, |&bytes| u32::from_le_bytes(bytes));
        let hash = bytes.wrapping_mul(0x9E37_79B1) >> (32 - Self::HASH_BITS);
        let here = self.positions.base + at as u32;
        let head = &mut self.heads[hash as usize];
        let before = &mut self.before[at & DISTANCE_MAX];
        // Otherwise it was examined before, as the byte after another.
        if *head != here {
            *before = std::mem::replace(head, here);
        }
        *before
    }
}

#[derive(Clone, Copy, Debug)]
struct Match {
    distance: u16,
    length: usize,
}

/// The encoded block, as far as it fits.
#[derive(Debug)]
struct Sequences<'a> {
    input: &'a [u8],
    capacity: usize,
    /// Longer than the capacity by the size of one copy.
    out: &'a mut Vec<u8>,
    /// How much of `out` is code.
    length: usize,
    /// The input before this position is encoded.
    anchor: usize,
}

impl<'a> Sequences<'a> {
    fn new(input: &'a [u8], capacity: usize, out: &'a mut Vec<u8>) -> Self {
        if out.len() < capacity + 2 * COPIED {
            out.resize(capacity + 2 * COPIED, 0);
        }
        Self {
            input,
            capacity,
            out,
            length: 0,
            anchor: 0,
        }
    }

    /// The end of the positions at which a match may begin and fit with the literals before it.
    fn end_of_search(&self) -> usize {
        let full = self.anchor + (self.capacity - self.length);
        full.min((self.input.len() + 1).saturating_sub(LAST_MATCH))
    }

    /// The number of bytes at `from` and at `at`, which is after it, that are equal and may be
    /// matched.
    fn common(&self, from: usize, at: usize) -> usize {
        let here = &self.input[at..self.input.len() - LAST_LITERALS];
        let there = &self.input[from..from + here.len()];
        let mut equal = 0;
        for (here, there) in here.chunks_exact(8).zip(there.chunks_exact(8)) {
            let different = word(here, 0) ^ word(there, 0);
            if different != 0 {
                return equal + different.trailing_zeros() as usize / 8;
            }
            equal += 8;
        }
        let rest = here[equal..].iter().zip(&there[equal..]);
        equal + rest.take_while(|(here, there)| here == there).count()
    }

    /// The same, faster where less than eight are.
    #[inline]
    fn common_short(&self, from: usize, at: usize) -> usize {
        let matched = &self.input[..self.input.len() - LAST_LITERALS];
        match (word_at(matched, from), word_at(matched, at)) {
            (Some(there), Some(here)) if there != here => {
                (there ^ here).trailing_zeros() as usize / 8
            }
            _ => self.common(from, at),
        }
    }

    /// Encodes up to a match, and as much of the match as fits. Returns whether anything did.
    // Once in each encoder's loop.
    #[inline(always)]
    fn put(&mut self, start: usize, found: Match) -> bool {
        let literals = start - self.anchor;
        // Mostly both are short, and there is room for any such.
        if literals < 15
            && found.length < MATCH_MIN + 15
            && self.capacity - self.length >= 1 + 14 + 2 + RESERVE
            && let Some(some) = self.input[self.anchor..].first_chunk::<COPIED>()
            && let Some(to) = self.out[self.length..].first_chunk_mut::<{ 1 + COPIED + 2 }>()
        {
            to[0] = (literals << 4 | (found.length - MATCH_MIN)) as u8;
            to[1..=COPIED].copy_from_slice(some);
            to[1 + literals..3 + literals].copy_from_slice(&found.distance.to_le_bytes());
            self.length += 3 + literals;
            self.anchor = start + found.length;
            return true;
        }
        let fixed = 1 + extension(literals, 15) + literals + 2;
        let Some(room) = self.capacity.checked_sub(self.length + fixed + RESERVE) else {
            return false;
        };
        let length = found.length.min(MATCH_MIN + 14 + 255 * room);
        let matched = length - MATCH_MIN;
        self.put_literals(literals, matched);
        self.out[self.length..self.length + 2].copy_from_slice(&found.distance.to_le_bytes());
        self.length += 2;
        self.put_extension(matched);
        self.anchor = start + length;
        true
    }

    /// Encodes the literals that fit after the last match.
    fn end(mut self) -> Packed {
        let room = self.capacity - self.length;
        let mut last = room.saturating_sub(1).min(self.input.len() - self.anchor);
        while 1 + extension(last, 15) + last > room {
            last -= 1;
        }
        self.put_literals(last, 0);
        Packed {
            consumed: self.anchor + last,
            bytes: self.out[..self.length].to_vec(),
        }
    }

    /// A token, and so many literals.
    #[inline]
    fn put_literals(&mut self, literals: usize, matched: usize) {
        let token = (literals.min(15) << 4 | matched.min(15)) as u8;
        // Mostly they are few.
        if literals < 15
            && let Some(some) = self.input[self.anchor..].first_chunk::<COPIED>()
            && let Some(to) = self.out[self.length..].first_chunk_mut::<{ 1 + COPIED }>()
        {
            to[0] = token;
            to[1..].copy_from_slice(some);
            self.length += 1 + literals;
        } else {
            self.put_long(literals, token);
        }
    }

    /// A token, and many literals, or the last of the input.
    #[cold]
    #[inline(never)]
    fn put_long(&mut self, literals: usize, token: u8) {
        self.out[self.length] = token;
        self.length += 1;
        self.put_extension(literals);
        let end = self.length + literals;
        self.out[self.length..end]
            .copy_from_slice(&self.input[self.anchor..self.anchor + literals]);
        self.length = end;
    }

    /// The part of a length that the token does not hold.
    fn put_extension(&mut self, length: usize) {
        if let Some(rest) = length.checked_sub(15) {
            let end = self.length + rest / 255;
            self.out[self.length..end].fill(255);
            self.out[end] = (rest % 255) as u8;
            self.length = end + 1;
        }
    }
}

/// The eight bytes at `at`, if there are.
#[inline]
fn word_at(input: &[u8], at: usize) -> Option<u64> {
    let bytes = input.get(at..at + 8)?.first_chunk()?;
    Some(u64::from_le_bytes(*bytes))
}

/// The eight bytes at `at`, which must be there.
fn word(input: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(input[at..at + 8].try_into().unwrap_or_default())
}

/// The number of bytes after the token for a length of which the token holds less than `limit`.
fn extension(length: usize, limit: usize) -> usize {
    length.checked_sub(limit).map_or(0, |rest| rest / 255 + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Decodes a block, as the format's description says.
    fn decode(mut code: &[u8]) -> Vec<u8> {
        fn take(code: &mut &[u8], count: usize) -> Vec<u8> {
            code.split_off(..count).expect("code").to_vec()
        }
        fn length(code: &mut &[u8], token: u8) -> usize {
            let mut length = usize::from(token);
            let mut more = if token == 15 { 255 } else { 0 };
            while more == 255 {
                more = take(code, 1)[0];
                length += usize::from(more);
            }
            length
        }
        let mut out = Vec::new();
        while !code.is_empty() {
            let token = take(&mut code, 1)[0];
            let literals = length(&mut code, token >> 4);
            out.extend(take(&mut code, literals));
            if code.is_empty() {
                break;
            }
            let distance = take(&mut code, 2);
            let distance = usize::from(u16::from_le_bytes([distance[0], distance[1]]));
            assert_ne!(distance, 0);
            for _ in 0..MATCH_MIN + length(&mut code, token & 15) {
                out.push(out[out.len() - distance]);
            }
        }
        out
    }

    #[test]
    fn matches_at_and_past_the_farthest_distance_are_decoded() {
        let noise = testkit::noise(1, DISTANCE_MAX + 2);
        for period in DISTANCE_MAX - 1..=DISTANCE_MAX + 2 {
            let mut input = Vec::new();
            while input.len() < 200_000 {
                // Earlier runs, so that positions are examined one by one.
                input.extend_from_slice(&noise[..period - 512]);
                input.extend(
                    std::iter::repeat_n(noise[period - 512..period - 384].iter(), 4).flatten(),
                );
            }
            for level in [0, 1, 9] {
                let packed = Encoder::new(level).pack(&input, 1 << 20).unwrap();
                assert_eq!(packed.consumed, input.len());
                assert!(decode(&packed.bytes) == input, "{period}, {level}");
                let repeated = packed.bytes.len() < input.len() / 2;
                assert_eq!(repeated, period <= DISTANCE_MAX, "{period}, {level}");
            }
        }
    }

    #[test]
    fn lz4_output_does_not_depend_on_earlier_inputs_even_where_positions_overflow() {
        let text = |seed: usize| -> Vec<u8> {
            let words = |i: usize| ((i * i + seed) % 97).to_le_bytes();
            (0..4000).flat_map(words).collect()
        };
        let encode = |next: u32, before: &[Vec<u8>]| {
            let (mut fast, mut chains) = (Fast::new(), Chains::new(9));
            for input in before {
                fast.encode(input, 4096);
                chains.encode(input, 4096);
            }
            chains.positions.next = next;
            let input = text(0);
            let (fast, chains) = (fast.encode(&input, 700), chains.encode(&input, 700));
            [fast, chains].map(|packed| (packed.consumed, packed.bytes))
        };
        let expected = encode(1, &[]);
        assert!(
            expected
                .iter()
                .all(|(consumed, bytes)| *consumed > bytes.len())
        );
        for next in [
            1 << 20,
            u32::MAX - 32_001,
            u32::MAX - 32_000,
            u32::MAX - 31_999,
            u32::MAX,
        ] {
            assert_eq!(encode(next, &[text(0), text(1)]), expected, "{next}");
        }
    }
}
