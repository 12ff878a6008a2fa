//! Blocks: their sizes under different codes, and their encoding.

use super::huffman;

/// The symbol that ends a block.
pub(super) const END: usize = 256;
const LITERALS: usize = 286;
const DISTANCES: usize = 30;
/// The longest code of a code length.
const LENGTH_LONGEST: usize = 7;
/// The order of their lengths.
const ORDER: [usize; 19] = [
    16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15,
];
/// The most bytes of a stored block.
const STORED_MAX: usize = 65_535;
/// Bits of a stored block without its bytes: a header, padding to a whole byte, and its length
/// twice.
const STORED_BITS: usize = 3 + 7 + 32;

/// A literal, or a match of 3 to 258 bytes up to 32,768 bytes before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sequence(u32);

impl Sequence {
    pub(super) fn literal(byte: u8) -> Self {
        Self(byte.into())
    }

    pub(super) fn matched(length: usize, distance: usize) -> Self {
        Self((length as u32) << 16 | (distance as u32 - 1))
    }

    /// The number of bytes that it encodes.
    pub(super) fn bytes(self) -> usize {
        ((self.0 >> 16) as usize).max(1)
    }

    /// The symbol of the literal or length.
    fn symbol(self) -> usize {
        match self.0 >> 16 {
            0 => self.0 as usize & 0xff,
            length => 257 + usize::from(LENGTHS[(length - 3) as usize & 0xff]),
        }
    }

    /// The symbol of the distance, where it is a match.
    fn distance(self) -> Option<usize> {
        (self.0 >> 16 > 0).then(|| {
            let distance = self.0 & 0xffff;
            match distance.checked_ilog2() {
                None | Some(0) => distance as usize,
                Some(log) => (2 * log + (distance >> (log - 1) & 1)) as usize,
            }
        })
    }
}

/// The symbol of each length from 3 on, counted from 257.
const LENGTHS: [u8; 256] = {
    let mut symbols = [0; 256];
    let mut length = 0;
    while length < 255_u32 {
        symbols[length as usize] = if length < 8 {
            length
        } else {
            let log = length.ilog2();
            4 * log - 4 + (length >> (log - 2) & 3)
        } as u8;
        length += 1;
    }
    symbols[255] = 28;
    symbols
};

/// Bits that follow a symbol of a length.
const fn length_bits(symbol: usize) -> u8 {
    match symbol {
        265..285 => ((symbol - 261) / 4) as u8,
        _ => 0,
    }
}

/// Bits that follow a symbol of a distance.
const fn distance_bits(symbol: usize) -> u8 {
    match symbol {
        0..4 => 0,
        _ => symbol as u8 / 2 - 1,
    }
}

/// How often each symbol occurs.
#[derive(Clone, Debug)]
pub(super) struct Counts {
    literals: [u32; LITERALS],
    distances: [u32; DISTANCES],
}

impl Default for Counts {
    fn default() -> Self {
        let mut literals = [0; LITERALS];
        literals[END] = 1;
        Self {
            literals,
            distances: [0; DISTANCES],
        }
    }
}

impl Counts {
    #[inline]
    pub(super) fn add(&mut self, sequence: Sequence) {
        self.literals[sequence.symbol()] += 1;
        if let Some(distance) = sequence.distance() {
            self.distances[distance] += 1;
        }
    }

    pub(super) fn remove(&mut self, sequence: Sequence) {
        self.literals[sequence.symbol()] -= 1;
        if let Some(distance) = sequence.distance() {
            self.distances[distance] -= 1;
        }
    }

    /// Returns the difference from `before`.
    pub(super) fn since(&self, before: &Self) -> Self {
        let mut since = Self::default();
        for (count, (now, before)) in since
            .literals
            .iter_mut()
            .zip(self.literals.iter().zip(&before.literals))
        {
            *count = now - before;
        }
        since.literals[END] = 1;
        for (count, (now, before)) in since
            .distances
            .iter_mut()
            .zip(self.distances.iter().zip(&before.distances))
        {
            *count = now - before;
        }
        since
    }
}

/// A code's lengths in bits.
#[derive(Clone, Debug)]
struct Lengths {
    literals: [u8; LITERALS],
    distances: [u8; DISTANCES],
}

impl Lengths {
    /// Lengths at the end that need not be written.
    fn fixed() -> Self {
        let mut literals = [8; LITERALS];
        literals[144..256].fill(9);
        literals[256..280].fill(7);
        Self {
            literals,
            distances: [5; DISTANCES],
        }
    }

    /// Bits of all symbols.
    fn bits(&self, counts: &Counts) -> usize {
        let mut bits = 0;
        for (symbol, (&count, &length)) in counts.literals.iter().zip(&self.literals).enumerate() {
            bits += count as usize * usize::from(length + length_bits(symbol));
        }
        for (symbol, (&count, &length)) in counts.distances.iter().zip(&self.distances).enumerate()
        {
            bits += count as usize * usize::from(length + distance_bits(symbol));
        }
        bits
    }
}

/// The encoding of code lengths.
#[derive(Clone, Debug)]
struct Header {
    literals: usize,
    distances: usize,
    /// Code lengths, or one that stands for a number of them, with the bits that follow.
    symbols: Vec<(u8, u8)>,
    lengths: [u8; 19],
    /// The number of `lengths` that are written.
    told: usize,
    bits: usize,
}

impl Header {
    fn new(code: &Lengths) -> Self {
        let used = |lengths: &[u8]| {
            let last = lengths.iter().rposition(|&length| length > 0);
            last.map_or(0, |last| last + 1)
        };
        let literals = used(&code.literals).max(257);
        let distances = used(&code.distances).max(1);
        let mut all = [0; LITERALS + DISTANCES];
        all[..literals].copy_from_slice(&code.literals[..literals]);
        all[literals..][..distances].copy_from_slice(&code.distances[..distances]);
        let all = &all[..literals + distances];

        let mut symbols = Vec::with_capacity(all.len());
        for run in all.chunk_by(|one, next| one == next) {
            let (length, mut left) = (run[0], run.len());
            if length > 0 {
                symbols.push((length, 0));
                left -= 1;
            }
            while left > 0 {
                let (symbol, count) = match (length, left) {
                    (_, 1..3) => (length, 1),
                    (0, 3..11) => (17, left),
                    (0, _) => (18, left.min(138)),
                    // Two of them are shorter than one and the rest.
                    (_, 7..9) => (16, left - 3),
                    (_, _) => (16, left.min(6)),
                };
                let least = if symbol == 18 { 11 } else { 3 };
                symbols.push((symbol, count.saturating_sub(least) as u8));
                left -= count;
            }
        }
        let mut counts = [0; 19];
        for &(symbol, _) in &symbols {
            counts[usize::from(symbol)] += 1;
        }
        let mut lengths = [0; 19];
        huffman::lengths(&counts, LENGTH_LONGEST, &mut lengths);
        let told = ORDER.iter().rposition(|&symbol| lengths[symbol] > 0);
        let told = told.map_or(4, |last| (last + 1).max(4));
        let mut bits = 3 + 5 + 5 + 4 + 3 * told;
        for (symbol, &count) in counts.iter().enumerate() {
            bits += count as usize * usize::from(lengths[symbol] + repeat_bits(symbol));
        }
        Self {
            literals,
            distances,
            symbols,
            lengths,
            told,
            bits,
        }
    }
}

/// Bits that follow the symbol of a code length.
fn repeat_bits(symbol: usize) -> u8 {
    match symbol {
        16 => 2,
        17 => 3,
        18 => 7,
        _ => 0,
    }
}

/// The form of a block.
#[derive(Clone, Debug)]
enum Kind {
    Stored,
    Fixed,
    Dynamic(Header),
}

/// The size of a block.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    kind: Kind,
    code: Lengths,
    /// The size in bits; for a stored block, its maximum.
    pub(super) bits: usize,
}

impl Plan {
    /// The form of an empty block.
    pub(super) fn empty() -> Self {
        Self {
            kind: Kind::Fixed,
            code: Lengths::fixed(),
            bits: 3 + 7,
        }
    }

    /// The form of a stored block.
    pub(super) fn stored() -> Self {
        Self {
            kind: Kind::Stored,
            ..Self::empty()
        }
    }

    /// The shortest form for sequences with these counts, or for their bytes if they may be
    /// `stored`.
    pub(super) fn new(counts: &Counts, stored: Option<usize>) -> Self {
        let fixed = Lengths::fixed();
        let mut bits = 3 + fixed.bits(counts);
        let mut code = fixed.clone();
        huffman::lengths(&counts.literals, huffman::LONGEST, &mut code.literals);
        huffman::lengths(&counts.distances, huffman::LONGEST, &mut code.distances);
        let header = Header::new(&code);
        let dynamic = header.bits + code.bits(counts);
        let mut kind = Kind::Fixed;
        if dynamic < bits {
            (bits, kind) = (dynamic, Kind::Dynamic(header));
        } else {
            code = fixed;
        }
        if let Some(stored) = stored.map(stored_bits)
            && stored < bits
        {
            (bits, kind) = (stored, Kind::Stored);
        }
        Self { kind, code, bits }
    }

    /// The additional bits of a sequence; an estimate for symbols without a code.
    #[inline]
    pub(super) fn cost(&self, sequence: Sequence) -> usize {
        /// Bits of a rare symbol's code and of its code length.
        const RARE: u8 = 16;
        let of = |length: u8| if length > 0 { length } else { RARE };
        let symbol = sequence.symbol();
        let mut bits = of(self.code.literals[symbol]) + length_bits(symbol);
        if let Some(symbol) = sequence.distance() {
            bits += of(self.code.distances[symbol]) + distance_bits(symbol);
        }
        bits.into()
    }

    /// Writes a block of sequences, which have these counts and encode these bytes.
    pub(super) fn write(&self, sequences: &[Sequence], bytes: &[u8], last: bool, bits: &mut Bits) {
        match &self.kind {
            Kind::Stored => {
                let mut parts = bytes.chunks(STORED_MAX).peekable();
                while let Some(part) = parts.next() {
                    bits.put(u32::from(last && parts.peek().is_none()), 3);
                    bits.align();
                    bits.put(part.len() as u32, 16);
                    bits.put(!part.len() as u32 & 0xffff, 16);
                    bits.put_bytes(part);
                }
                return;
            }
            Kind::Fixed => bits.put(u32::from(last) | 1 << 1, 3),
            Kind::Dynamic(header) => {
                bits.put(u32::from(last) | 2 << 1, 3);
                bits.put((header.literals - 257) as u32, 5);
                bits.put((header.distances - 1) as u32, 5);
                bits.put((header.told - 4) as u32, 4);
                for &symbol in &ORDER[..header.told] {
                    bits.put(header.lengths[symbol].into(), 3);
                }
                let mut codes = [0; 19];
                huffman::codes(&header.lengths, &mut codes);
                for &(symbol, repeated) in &header.symbols {
                    let symbol = usize::from(symbol);
                    bits.put(codes[symbol].into(), header.lengths[symbol]);
                    bits.put(repeated.into(), repeat_bits(symbol));
                }
            }
        }
        // The fixed code has more symbols than can be used, and their codes come last.
        let mut literals = [0; LITERALS];
        huffman::codes(&self.code.literals, &mut literals);
        if matches!(self.kind, Kind::Fixed) {
            for (symbol, code) in literals[144..256].iter_mut().enumerate() {
                *code = (0b1_1001_0000 + symbol as u16).reverse_bits() >> 7;
            }
        }
        let mut distances = [0; DISTANCES];
        huffman::codes(&self.code.distances, &mut distances);
        for &sequence in sequences {
            let symbol = sequence.symbol();
            bits.put(literals[symbol].into(), self.code.literals[symbol]);
            if let Some(distance) = sequence.distance() {
                let extra = length_bits(symbol);
                let length = (sequence.0 >> 16) - 3;
                bits.put(length & ((1 << extra) - 1), extra);
                bits.put(distances[distance].into(), self.code.distances[distance]);
                let extra = distance_bits(distance);
                bits.put(sequence.0 & ((1 << extra) - 1), extra);
            }
        }
        bits.put(literals[END].into(), self.code.literals[END]);
    }
}

fn stored_bits(bytes: usize) -> usize {
    8 * bytes + STORED_BITS * bytes.div_ceil(STORED_MAX).max(1)
}

/// Bits, the first lowest.
#[derive(Debug, Default)]
pub(super) struct Bits {
    bytes: Vec<u8>,
    /// Fewer than 8 bits between calls.
    buffer: u64,
    filled: u8,
}

impl Bits {
    pub(super) fn clear(&mut self) {
        self.bytes.clear();
        (self.buffer, self.filled) = (0, 0);
    }

    pub(super) fn len(&self) -> usize {
        8 * self.bytes.len() + usize::from(self.filled)
    }

    /// How many bytes can be stored in so many bits.
    pub(super) fn storable(&self, room: usize) -> usize {
        // A header is padded to a byte, and the length takes four bytes.
        let header = 3 + (8 - (self.len() + 3) % 8) % 8;
        let Some(room) = room.checked_sub(header) else {
            return 0;
        };
        let bytes = room / 8 + 1;
        bytes.saturating_sub(5 * bytes.div_ceil(5 + STORED_MAX))
    }

    /// Appends up to 16 bits.
    #[inline]
    fn put(&mut self, value: u32, length: u8) {
        self.buffer |= u64::from(value) << self.filled;
        self.filled += length;
        if self.filled >= 32 {
            self.bytes
                .extend_from_slice(&(self.buffer as u32).to_le_bytes());
            self.buffer >>= 32;
            self.filled -= 32;
        }
    }

    /// Fills the last byte.
    pub(super) fn align(&mut self) {
        while self.filled > 0 {
            self.bytes.push(self.buffer as u8);
            self.buffer >>= 8;
            self.filled = self.filled.saturating_sub(8);
        }
    }

    /// Appends bytes to whole ones.
    fn put_bytes(&mut self, bytes: &[u8]) {
        self.align();
        self.bytes.extend_from_slice(bytes);
    }

    /// All of them, in whole bytes.
    pub(super) fn finish(&mut self) -> &mut [u8] {
        self.align();
        &mut self.bytes
    }
}
