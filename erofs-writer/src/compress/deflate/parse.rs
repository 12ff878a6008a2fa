//! Finding matches through chains of positions with equal hashes.

use super::block::Sequence;

/// log2 of the farthest match (`z_erofs_deflate_cfgs`' `windowbits`).
pub(crate) const WINDOW_BITS: u8 = 15;
/// The shortest and the longest match.
const SHORTEST: usize = 3;
const LONGEST: usize = 258;
/// The farthest match.
const FARTHEST: usize = 1 << WINDOW_BITS;
/// The farthest match of three bytes that is shorter than these as literals.
const NEAR: u32 = 4096;
const HASH_BITS: u32 = 14;
const SHORT_HASH_BITS: u32 = 12;

/// The effort of the search for matches.
#[derive(Clone, Copy, Debug)]
struct Effort {
    /// The most positions examined.
    depth: u32,
    /// A match of this length ends the search.
    enough: usize,
    /// After a match shorter than this, a longer one is searched for at the next byte.
    lazy: usize,
}

impl Effort {
    fn new(level: u8) -> Self {
        let (depth, enough, lazy) = match level {
            0 | 1 => (3, 16, 0),
            2 => (6, 24, 0),
            3 => (12, 32, 0),
            4 => (12, 32, 16),
            5 => (20, 64, 32),
            6 => (36, 80, 80),
            7 => (80, 130, 130),
            8 => (200, 258, 258),
            _ => (600, 258, 258),
        };
        Self {
            depth,
            enough,
            lazy,
        }
    }
}

/// Positions continue from input to input. Those of earlier inputs are lower than all of this
/// one's, so tables need not be cleared.
#[derive(Debug)]
pub(super) struct Finder {
    effort: Effort,
    /// The position of the input's first byte.
    pub(super) base: u32,
    /// The last position by the hash of three bytes.
    short: Box<[u32; 1 << SHORT_HASH_BITS]>,
    /// The last position by the hash of four bytes.
    heads: Box<[u32; 1 << HASH_BITS]>,
    /// For the latest positions, the previous position with the same hash.
    before: Box<[u32; FARTHEST]>,
}

impl Finder {
    pub(super) fn new(level: u8) -> Self {
        Self {
            effort: Effort::new(level),
            base: 1,
            short: Box::new([0; 1 << SHORT_HASH_BITS]),
            heads: Box::new([0; 1 << HASH_BITS]),
            before: Box::new([0; FARTHEST]),
        }
    }

    pub(super) fn parse<'a>(&'a mut self, input: &'a [u8]) -> Parse<'a> {
        if u64::from(self.base) + input.len() as u64 > u32::MAX.into() {
            self.base = 1;
            self.short.fill(0);
            self.heads.fill(0);
        }
        Parse {
            finder: self,
            input,
            at: 0,
            least: least(input),
            noted: 0,
            pending: None,
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Match {
    /// 0 where there is none.
    length: usize,
    distance: usize,
}

impl Match {
    const NONE: Self = Self {
        length: 0,
        distance: 1,
    };

    /// A measure of the bits it saves: a byte is about four times what twice the distance is.
    fn gain(self) -> usize {
        4 * self.length + 16 - self.distance.ilog2() as usize
    }
}

/// The sequences that encode an input.
#[derive(Debug)]
pub(super) struct Parse<'a> {
    finder: &'a mut Finder,
    input: &'a [u8],
    at: usize,
    /// Matches are longer than this.
    least: usize,
    /// Positions up to here are in the tables.
    noted: usize,
    /// The match at `at`, if it was searched for.
    pending: Option<Match>,
}

impl Parse<'_> {
    #[inline]
    pub(super) fn next(&mut self) -> Option<Sequence> {
        let &byte = self.input.get(self.at)?;
        let found = match self.pending.take() {
            Some(found) => found,
            None => self.find(self.least, self.finder.effort.depth),
        };
        if found.length == 0 {
            self.at += 1;
            return Some(Sequence::literal(byte));
        }
        if found.length < self.finder.effort.lazy {
            self.at += 1;
            let depth = self.finder.effort.depth / 2;
            let next = self.find(self.least.max(found.length - 1), depth);
            if next.length > 0 && next.gain() > found.gain() + 2 {
                self.pending = Some(next);
                return Some(Sequence::literal(byte));
            }
            self.at -= 1;
        }
        self.at += found.length;
        self.note_up_to(self.at);
        Some(Sequence::matched(found.length, found.distance))
    }

    /// The longest match at `at`, longer than `least`.
    fn find(&mut self, least: usize, depth: u32) -> Match {
        let (input, at) = (self.input, self.at);
        let mut best = Match::NONE;
        let Some(word) = word_at(input, at) else {
            return best;
        };
        let finder = &mut *self.finder;
        let here = finder.base + at as u32;
        let near = std::mem::replace(&mut finder.short[short_hash(word)], here);
        let head = std::mem::replace(&mut finder.heads[hash(word)], here);
        self.noted = at + 1;
        // Lower positions belong to earlier inputs, or are unset.
        let first = finder.base.max(here.saturating_sub(FARTHEST as u32));
        let most = LONGEST.min(input.len() - at);
        let enough = finder.effort.enough.min(most);
        let mut longest = least;
        if longest < SHORTEST
            && near >= first
            && here - near <= NEAR
            && let Some(there) = word_at(input, (near - finder.base) as usize)
            && (there ^ word) << 40 == 0
        {
            longest = SHORTEST;
            best = Match {
                length: SHORTEST,
                distance: (here - near) as usize,
            };
        }
        let mut candidate = head;
        if longest < enough {
            // A longer match must be equal at this byte too.
            let mut skipped = longest.saturating_sub(3);
            let mut tail = half_at(input, at + skipped);
            for _ in 0..depth {
                if candidate < first {
                    break;
                }
                let from = (candidate - finder.base) as usize;
                if half_at(input, from + skipped) == tail
                    && half_at(input, from) == Some(word as u32)
                {
                    let length = 4 + common(&input[from + 4..], &input[at + 4..at + most]);
                    if length > longest {
                        longest = length;
                        best = Match {
                            length,
                            distance: at - from,
                        };
                        if length >= enough {
                            break;
                        }
                        skipped = length - 3;
                        tail = half_at(input, at + skipped);
                    }
                }
                candidate = finder.before[from % FARTHEST];
            }
        }
        finder.before[at % FARTHEST] = head;
        best
    }

    /// Enters positions into the tables.
    fn note_up_to(&mut self, end: usize) {
        let finder = &mut *self.finder;
        for at in self.noted..end {
            let Some(word) = word_at(self.input, at) else {
                break;
            };
            let here = finder.base + at as u32;
            finder.short[short_hash(word)] = here;
            let head = std::mem::replace(&mut finder.heads[hash(word)], here);
            finder.before[at % FARTHEST] = head;
        }
        self.noted = end;
    }

    /// Makes room for the next input's positions.
    pub(super) fn end(self) {
        self.finder.base += self.noted.max(self.at) as u32;
    }
}

/// The length that matches must exceed to be cheaper than literals. Literals are cheap if few
/// different ones occur.
fn least(input: &[u8]) -> usize {
    // Examines as much as a small cluster holds if it shrinks well, since a run of one value at the
    // beginning does not represent the rest.
    let all = &input[..input.len().min(FARTHEST)];
    let mut seen = [false; 256];
    for &byte in all.iter().step_by((all.len() / 4096).max(1)) {
        seen[usize::from(byte)] = true;
    }
    match seen.into_iter().filter(|&seen| seen).count() {
        0..=4 => 6,
        5..=8 => 5,
        9..=16 => 4,
        17..=32 => 3,
        _ => SHORTEST - 1,
    }
}

#[inline]
fn short_hash(word: u64) -> usize {
    (((word as u32) << 8).wrapping_mul(0x9E37_79B1) >> (32 - SHORT_HASH_BITS)) as usize
}

#[inline]
fn hash(word: u64) -> usize {
    ((word as u32).wrapping_mul(0x9E37_79B1) >> (32 - HASH_BITS)) as usize
}

/// The eight bytes at `at`, if there are.
#[inline]
fn word_at(input: &[u8], at: usize) -> Option<u64> {
    let bytes = input.get(at..)?.first_chunk()?;
    Some(u64::from_le_bytes(*bytes))
}

/// The four bytes at `at`, if there are.
#[inline]
fn half_at(input: &[u8], at: usize) -> Option<u32> {
    let bytes = input.get(at..)?.first_chunk()?;
    Some(u32::from_le_bytes(*bytes))
}

/// How many of the first bytes are equal.
#[inline]
fn common(there: &[u8], here: &[u8]) -> usize {
    let there = &there[..here.len()];
    let mut equal = 0;
    for (here, there) in here.chunks_exact(8).zip(there.chunks_exact(8)) {
        let (Some(here), Some(there)) = (word_at(here, 0), word_at(there, 0)) else {
            break;
        };
        let different = here ^ there;
        if different != 0 {
            return equal + different.trailing_zeros() as usize / 8;
        }
        equal += 8;
    }
    let rest = here[equal..].iter().zip(&there[equal..]);
    equal + rest.take_while(|(here, there)| here == there).count()
}
