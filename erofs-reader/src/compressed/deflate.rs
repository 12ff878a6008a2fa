//! DEFLATE (RFC 1951), raw.
//!
//! Written for clusters: input and output are completely in memory, so bytes are copied only once,
//! and an entry of a table is used while the next one is loaded.

use alloc::boxed::Box;

use super::copy::repeat;
use crate::num::{clamp_len, narrow};

/// Bits of a code that are looked up at once; longer ones take a second table.
const LITERAL_BITS: u32 = 11;
const DISTANCE_BITS: u32 = 8;
const ORDER_BITS: u32 = 7;

/// Entries that tables have at most for codes of up to 15 bits of 288 and 32 symbols, and of 7 bits
/// of 19 (zlib's `enough.c`).
const LITERAL_ENTRIES: usize = 2342;
const DISTANCE_ENTRIES: usize = 402;
const ORDER_ENTRIES: usize = 128;

const LONGEST_CODE: usize = 15;

/// Bits that a distance takes at most: a code, and extra ones.
const DISTANCE_LONGEST: u8 = 15 + 13;

const LITERAL_SYMBOLS: usize = 288;
const DISTANCE_SYMBOLS: usize = 32;
const ORDER_SYMBOLS: usize = 19;

/// In which order the lengths of the codes come with which lengths are coded.
const ORDER: [u8; ORDER_SYMBOLS] = [
    16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15,
];

/// The meaning of a code in 32 bits: 8 bits for its length with extra bits, 5 for its length alone,
/// flags, and in the upper half the literal, the base of a length or distance, or the start of a
/// second table.
type Entry = u32;

const CODE_SHIFT: u32 = 8;
const CODE_MASK: u32 = 0x1f;
const IS_END: Entry = 1 << 13;
/// A second table. The bits of the code's length are the number of bits that index it.
const IS_TABLE: Entry = 1 << 14;
const IS_LITERAL: Entry = 1 << 15;
const VALUE_SHIFT: u32 = 16;
/// An invalid code, handled together with the other rare entries.
const INVALID: Entry = IS_END | IS_TABLE;

/// The meaning of a code, without its length.
const fn entry(value: u32, extra: u32) -> Entry {
    (value << VALUE_SHIFT) | extra
}

/// Adds the length of the code.
const fn with_code(meaning: Entry, bits: u32) -> Entry {
    meaning.wrapping_add((bits << CODE_SHIFT) | bits)
}

const LITERALS: [Entry; LITERAL_SYMBOLS] = {
    let mut entries = [INVALID; LITERAL_SYMBOLS];
    let (mut symbol, mut literal) = (0, 0);
    while symbol < 256 {
        entries[symbol] = entry(literal, 0) | IS_LITERAL;
        symbol += 1;
        literal += 1;
    }
    entries[256] = IS_END;
    symbol = 257;
    let mut base = 3;
    let mut extra = 0;
    while symbol < 285 {
        entries[symbol] = entry(base, extra);
        base += 1 << extra;
        // Four of each, of the first eight.
        if symbol >= 264 && symbol % 4 == 0 {
            extra += 1;
        }
        symbol += 1;
    }
    // One less than what its predecessor could be with all its extra bits set.
    entries[285] = entry(258, 0);
    entries
};

const DISTANCES: [Entry; DISTANCE_SYMBOLS] = {
    let mut entries = [INVALID; DISTANCE_SYMBOLS];
    let mut symbol = 0;
    let mut base = 1;
    let mut extra = 0;
    while symbol < 30 {
        entries[symbol] = entry(base, extra);
        base += 1 << extra;
        // Two of each, of the first four.
        if symbol >= 3 && symbol % 2 == 1 {
            extra += 1;
        }
        symbol += 1;
    }
    entries
};

const ORDERS: [Entry; ORDER_SYMBOLS] = {
    let mut entries = [INVALID; ORDER_SYMBOLS];
    let (mut symbol, mut value) = (0, 0);
    while symbol < ORDER_SYMBOLS {
        entries[symbol] = entry(value, 0) | IS_LITERAL;
        symbol += 1;
        value += 1;
    }
    entries
};

/// The two codes of a block.
struct Codes {
    literals: [Entry; LITERAL_ENTRIES],
    distances: [Entry; DISTANCE_ENTRIES],
}

impl Codes {
    fn new() -> Box<Self> {
        Box::new(Self {
            literals: [INVALID; LITERAL_ENTRIES],
            distances: [INVALID; DISTANCE_ENTRIES],
        })
    }

    fn set(&mut self, literals: &[u8], distances: &[u8]) -> Option<()> {
        fill(&mut self.literals, LITERAL_BITS, literals, &LITERALS)?;
        fill(&mut self.distances, DISTANCE_BITS, distances, &DISTANCES)
    }
}

/// Tables, kept from one cluster to the next: the one for their memory, the other because it never
/// changes.
#[derive(Default)]
pub(super) struct Decoder {
    dynamic: Option<Box<Codes>>,
    fixed: Option<Box<Codes>>,
}

impl Decoder {
    /// Decodes `input` until `output` is full. `None` where the input is malformed, or ends before
    /// that.
    pub(super) fn decode(&mut self, input: &[u8], output: &mut [u8]) -> Option<()> {
        let mut bits = Bits::new(input);
        let mut done = 0;
        while done < output.len() {
            bits.refill();
            let last = bits.take(1);
            done = match bits.take(2) {
                0 => bits.stored(output, done)?,
                1 => block(&mut bits, self.fixed()?, output, done)?,
                2 => {
                    let codes = self.dynamic.get_or_insert_with(Codes::new);
                    read_codes(&mut bits, codes)?;
                    block(&mut bits, codes, output, done)?
                }
                _ => return None,
            };
            if last == 1 {
                break;
            }
        }
        (done == output.len() && !bits.are_overdrawn()).then_some(())
    }

    fn fixed(&mut self) -> Option<&Codes> {
        if self.fixed.is_none() {
            let mut lengths = [8; LITERAL_SYMBOLS];
            lengths.get_mut(144..256)?.fill(9);
            lengths.get_mut(256..280)?.fill(7);
            let mut codes = Codes::new();
            codes.set(&lengths, &[5; DISTANCE_SYMBOLS])?;
            self.fixed = Some(codes);
        }
        self.fixed.as_deref()
    }
}

/// Decodes a block's data to `output[done..]`, and returns its end there, at most the end of the
/// output.
fn block(bits: &mut Bits<'_>, codes: &Codes, output: &mut [u8], done: usize) -> Option<usize> {
    let (done, ended) = decode_fast(bits, codes, output, done)?;
    if ended {
        return Some(done);
    }
    decode_checked(bits, codes, output, done)
}

/// Does the same while the ends of input and output are not near, and returns whether the end of
/// the block was reached.
fn decode_fast(
    from: &mut Bits<'_>,
    codes: &Codes,
    output: &mut [u8],
    mut done: usize,
) -> Option<(usize, bool)> {
    // Copied, to be in registers.
    let mut bits = *from;
    let mut ended = false;
    while let Some([first, second, third]) = output.get_mut(done..)?.first_chunk_mut()
        && bits.refill_fast()
    {
        // There are 56 bits. The longest sequence is two literals of 11 bits and a length of 15
        // with 5 extra ones.
        let mut entry = bits.look_up(&codes.literals, LITERAL_BITS)?;
        if entry & IS_LITERAL != 0 {
            *first = literal(entry);
            done = done.wrapping_add(1);
            bits.skip(entry);
            entry = bits.look_up(&codes.literals, LITERAL_BITS)?;
            if entry & IS_LITERAL != 0 {
                *second = literal(entry);
                done = done.wrapping_add(1);
                bits.skip(entry);
                entry = bits.look_up(&codes.literals, LITERAL_BITS)?;
                if entry & IS_LITERAL != 0 {
                    *third = literal(entry);
                    done = done.wrapping_add(1);
                    bits.skip(entry);
                    continue;
                }
            }
        }
        if entry & (IS_TABLE | IS_END) != 0 {
            entry = bits.look_further(&codes.literals, entry)?;
            if entry & IS_LITERAL != 0 {
                *output.get_mut(done)? = literal(entry);
                done = done.wrapping_add(1);
                bits.skip(entry);
                continue;
            }
            if entry & IS_END != 0 {
                bits.skip(entry);
                ended = true;
                break;
            }
        }
        let length = bits.take_value(entry);
        // Which is rarely so after two literals and a length.
        if bits.available() < DISTANCE_LONGEST && !bits.refill_fast() {
            bits.refill();
        }
        let distance = bits.distance(codes)?;
        done = repeat(output, done, length, distance)?;
    }
    *from = bits;
    Some((done, ended))
}

/// Does the same near the ends of input and output.
fn decode_checked(
    bits: &mut Bits<'_>,
    codes: &Codes,
    output: &mut [u8],
    mut done: usize,
) -> Option<usize> {
    while done < output.len() {
        bits.refill();
        let entry = bits.look_up(&codes.literals, LITERAL_BITS)?;
        let entry = bits.look_further(&codes.literals, entry)?;
        if entry & IS_LITERAL != 0 {
            bits.skip(entry);
            *output.get_mut(done)? = literal(entry);
            done = done.wrapping_add(1);
            continue;
        }
        if entry & IS_END != 0 {
            bits.skip(entry);
            break;
        }
        let length = bits.take_value(entry);
        bits.refill();
        let distance = bits.distance(codes)?;
        done = repeat(output, done, length, distance)?;
    }
    Some(done)
}

#[inline(always)]
fn literal(entry: Entry) -> u8 {
    let [_, _, literal, _] = entry.to_le_bytes();
    literal
}

/// Reads the codes of a block, which are themselves coded.
fn read_codes(bits: &mut Bits<'_>, codes: &mut Codes) -> Option<()> {
    let literals = narrow(bits.take(5)).checked_add(257)?;
    let distances = narrow(bits.take(5)).checked_add(1)?;
    let given = narrow(bits.take(4)).checked_add(4)?;
    // As zlib, which the kernel has.
    if literals > 286 || distances > 30 {
        return None;
    }
    let mut lengths = [0; ORDER_SYMBOLS];
    for &symbol in ORDER.iter().take(given) {
        bits.refill();
        let [length, ..] = bits.take(3).to_le_bytes();
        *lengths.get_mut(usize::from(symbol))? = length;
    }
    let mut order = [INVALID; ORDER_ENTRIES];
    fill(&mut order, ORDER_BITS, &lengths, &ORDERS)?;
    let mut lengths = [0_u8; 286 + 30];
    let lengths = lengths.get_mut(..literals.checked_add(distances)?)?;
    let mut at = 0_usize;
    while at < lengths.len() {
        bits.refill();
        let entry = bits.look_up(&order, ORDER_BITS)?;
        if entry & IS_LITERAL == 0 {
            return None;
        }
        bits.skip(entry);
        let (length, times) = match literal(entry) {
            length @ 0..16 => {
                *lengths.get_mut(at)? = length;
                at = at.checked_add(1)?;
                continue;
            }
            16 => (
                *lengths.get(at.checked_sub(1)?)?,
                bits.take(2).wrapping_add(3),
            ),
            17 => (0, bits.take(3).wrapping_add(3)),
            _ => (0, bits.take(7).wrapping_add(11)),
        };
        let end = at.checked_add(narrow(times))?;
        lengths.get_mut(at..end)?.fill(length);
        at = end;
    }
    let (literals, distances) = lengths.split_at_checked(literals)?;
    // A block without an end would have none.
    if *literals.get(256)? == 0 {
        return None;
    }
    codes.set(literals, distances)
}

/// Makes the table of the canonical code with these lengths. `None` where no code has them, or
/// where codes are left over, but for a code of one symbol.
///
/// The first `1 << bits` entries are for as many bits of the input; after them are second tables.
fn fill(table: &mut [Entry], bits: u32, lengths: &[u8], meanings: &[Entry]) -> Option<()> {
    let mut counts = [0_usize; LONGEST_CODE + 1];
    for &length in lengths {
        let count = counts.get_mut(usize::from(length))?;
        *count = count.checked_add(1)?;
    }
    let [unused, ..] = counts;
    // Symbols in order of their codes.
    let mut sorted = [0_u16; LITERAL_SYMBOLS];
    let mut places = [0_usize; LONGEST_CODE + 2];
    let mut free = 1_usize;
    for length in 1..=LONGEST_CODE {
        let count = *counts.get(length)?;
        free = free.checked_mul(2)?.checked_sub(count)?;
        let next = places.get(length)?.checked_add(count)?;
        *places.get_mut(length.checked_add(1)?)? = next;
    }
    for (symbol, &length) in (0_u16..).zip(lengths) {
        if length != 0 {
            let place = places.get_mut(usize::from(length))?;
            *sorted.get_mut(*place)? = symbol;
            *place = place.checked_add(1)?;
        }
    }
    let sorted = sorted.get(..lengths.len().checked_sub(unused)?)?;
    let meaning = |symbol: u16| meanings.get(usize::from(symbol)).copied();
    if free != 0 {
        let main = table.get_mut(..1_usize.wrapping_shl(bits))?;
        main.fill(INVALID);
        let [_, ones, ..] = counts;
        return match sorted {
            [] => Some(()),
            &[symbol] if ones == 1 => {
                let entry = with_code(meaning(symbol)?, 1);
                main.iter_mut().step_by(2).for_each(|to| *to = entry);
                Some(())
            }
            _ => None,
        };
    }
    let mut code = Code { bits: 0, length: 0 };
    // The entries that there are, of which those for shorter codes repeat.
    let mut end = 1_usize;
    let mut prefix = None;
    let mut start = 0_usize;
    let mut symbols = sorted.iter();
    for (length, &count) in (0_u32..).zip(&counts).skip(1) {
        if length <= bits {
            table.copy_within(..end, end);
            end = end.wrapping_mul(2);
        }
        for left in (1..=count).rev() {
            let meaning = meaning(*symbols.next()?)?;
            code.length = length;
            if let Some(beyond) = length.checked_sub(bits).filter(|&beyond| beyond > 0) {
                let main = code.bits & 1_usize.wrapping_shl(bits).wrapping_sub(1);
                if prefix != Some(main) {
                    // As large as the codes with this beginning need, which follow each other.
                    let mut second = beyond;
                    let mut used = left;
                    while used < 1_usize.wrapping_shl(second) {
                        second = second.checked_add(1)?;
                        let more = counts.get(narrow(bits.checked_add(second)?.into()))?;
                        used = used.checked_mul(2)?.checked_add(*more)?;
                    }
                    prefix = Some(main);
                    start = end;
                    end = start.checked_add(1_usize.wrapping_shl(second))?;
                    let value = u32::try_from(start).ok()?;
                    *table.get_mut(main)? = entry(value, bits) | (second << CODE_SHIFT) | IS_TABLE;
                }
                let first = start.wrapping_add(code.bits.wrapping_shr(bits));
                let step = 1_usize.wrapping_shl(beyond);
                let places = table.get_mut(first..end)?.iter_mut().step_by(step);
                places.for_each(|to| *to = with_code(meaning, beyond));
            } else {
                *table.get_mut(code.bits)? = with_code(meaning, length);
            }
            code.advance();
        }
    }
    Some(())
}

/// A code as it comes in the input, its first bit lowest.
struct Code {
    bits: usize,
    length: u32,
}

impl Code {
    /// The next one of this length: 1 more, the first bit being the highest.
    fn advance(&mut self) {
        let zeros = !self.bits & 1_usize.wrapping_shl(self.length).wrapping_sub(1);
        // The bits above the highest zero were ones, through which the carry went.
        let bit = 1_usize.wrapping_shl(zeros.checked_ilog2().unwrap_or(0));
        self.bits = self.bits & bit.wrapping_sub(1) | bit;
    }
}

/// The input, lowest bits first.
#[derive(Clone, Copy)]
struct Bits<'a> {
    input: &'a [u8],
    /// What comes after the bytes in the buffer.
    rest: &'a [u8],
    /// How many zeros were taken after the input's end.
    beyond: usize,
    buffer: u64,
    /// The number of valid bits in the buffer, at most 63, in the lowest 8 bits. The bits above
    /// them are the next ones, or 0.
    count: u32,
}

impl<'a> Bits<'a> {
    fn new(input: &'a [u8]) -> Self {
        Self {
            input,
            rest: input,
            beyond: 0,
            buffer: 0,
            count: 0,
        }
    }

    /// Fills the buffer with at least 56 bits, unless fewer than 8 bytes are left.
    #[inline(always)]
    fn refill_fast(&mut self) -> bool {
        let Some(bytes) = self.rest.first_chunk() else {
            return false;
        };
        self.buffer |= u64::from_le_bytes(*bytes).wrapping_shl(self.count);
        let taken = 7_u32.wrapping_sub((self.count >> 3) & 7);
        self.rest = self.rest.get(narrow(taken.into())..).unwrap_or_default();
        self.count |= 56;
        true
    }

    /// Fills the buffer with at least 56 bits, which are zeros after the input's end.
    fn refill(&mut self) {
        if self.refill_fast() {
            return;
        }
        while self.count & 0xff < 56 {
            let byte = match self.rest.split_first() {
                Some((&byte, rest)) => {
                    self.rest = rest;
                    byte
                }
                None => {
                    self.beyond = self.beyond.wrapping_add(1);
                    0
                }
            };
            self.buffer |= u64::from(byte).wrapping_shl(self.count);
            self.count = self.count.wrapping_add(8);
        }
    }

    /// Whole bytes in the buffer.
    fn buffered(&self) -> usize {
        narrow(((self.count >> 3) & 7).into())
    }

    /// Whether more bits were taken than the input has.
    fn are_overdrawn(&self) -> bool {
        self.beyond > self.buffered()
    }

    #[inline(always)]
    fn available(&self) -> u8 {
        let [available, ..] = self.count.to_le_bytes();
        available
    }

    /// Takes the number of bits in the lowest 8 bits of `count`, which must be available. The other
    /// bits of `count` have no effect.
    #[inline(always)]
    fn skip(&mut self, count: u32) {
        self.buffer = self.buffer.wrapping_shr(count);
        self.count = self.count.wrapping_sub(count);
    }

    #[inline(always)]
    fn take(&mut self, count: u32) -> u64 {
        let taken = self.buffer & 1_u64.wrapping_shl(count).wrapping_sub(1);
        self.skip(count);
        taken
    }

    /// Takes a code and its extra bits, and returns the length or distance.
    #[inline(always)]
    fn take_value(&mut self, entry: Entry) -> usize {
        let extra = self.take(entry).wrapping_shr(entry >> CODE_SHIFT);
        narrow(u64::from(entry >> VALUE_SHIFT).wrapping_add(extra))
    }

    #[inline(always)]
    fn distance(&mut self, codes: &Codes) -> Option<usize> {
        let mut entry = self.look_up(&codes.distances, DISTANCE_BITS)?;
        if entry & IS_TABLE != 0 {
            entry = self.look_further(&codes.distances, entry)?;
        }
        Some(self.take_value(entry))
    }

    /// Returns the entry of the next code, which may refer to a second table.
    #[inline(always)]
    fn look_up<const N: usize>(&self, table: &[Entry; N], bits: u32) -> Option<Entry> {
        let mask = 1_u64.wrapping_shl(bits).wrapping_sub(1);
        table.get(narrow(self.buffer & mask)).copied()
    }

    /// Returns the entry of the next code: `entry`, or that of the second table it refers to.
    /// `None` if the code is invalid.
    #[inline(always)]
    fn look_further<const N: usize>(&mut self, table: &[Entry; N], entry: Entry) -> Option<Entry> {
        if entry & IS_TABLE == 0 {
            return Some(entry);
        }
        if entry & IS_END != 0 {
            return None;
        }
        self.skip(entry);
        let second = (entry >> CODE_SHIFT) & CODE_MASK;
        let within = self.buffer & 1_u64.wrapping_shl(second).wrapping_sub(1);
        let at = u64::from(entry >> VALUE_SHIFT).wrapping_add(within);
        let entry = table.get(narrow(at)).copied()?;
        (entry & IS_TABLE == 0).then_some(entry)
    }

    /// Copies a block that is not compressed to `output[done..]`, and returns where it ends there.
    fn stored(&mut self, output: &mut [u8], done: usize) -> Option<usize> {
        self.skip(self.count & 7);
        let taken = self.input.len().checked_sub(self.rest.len())?;
        let at = taken
            .checked_add(self.beyond)?
            .checked_sub(self.buffered())?;
        let ([a, b, c, d], data) = self.input.get(at..)?.split_first_chunk()?;
        let length = u16::from_le_bytes([*a, *b]);
        if length != !u16::from_le_bytes([*c, *d]) {
            return None;
        }
        let free = output.get_mut(done..)?;
        let wanted = clamp_len(free.len(), length.into());
        free.get_mut(..wanted)?.copy_from_slice(data.get(..wanted)?);
        // The rest of the block does not matter once the output is full.
        *self = Self::new(data.get(wanted..)?);
        done.checked_add(wanted)
    }
}
