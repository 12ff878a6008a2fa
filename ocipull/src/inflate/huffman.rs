//! Canonical prefix codes.

use super::Bad;
use super::bits::Bits;

/// Codes of up to so many bits are looked up at once.
const DIRECT: u32 = 10;

/// A decoder of one code.
pub(super) struct Huffman {
    /// The symbol and, in the low four bits, the length of each code by the bits that begin with
    /// it; 0 if it is longer.
    direct: Box<[u16]>,
    /// How many codes have each length.
    counts: [u16; 16],
    /// The symbols, in the order of their codes.
    symbols: [u16; 288],
}

/// How many symbols a code may lack.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Gaps {
    /// All bits are a code.
    None,
    /// There may be one code of one bit, or no code: distances.
    Distances,
}

impl Huffman {
    pub(super) fn new() -> Self {
        Self {
            direct: vec![0; 1 << DIRECT].into(),
            counts: [0; 16],
            symbols: [0; 288],
        }
    }

    /// Makes this the code whose symbols have `lengths`, at most 288 of at most 15.
    pub(super) fn set(&mut self, lengths: &[u8], gaps: Gaps) -> Result<(), Bad> {
        let mut counts = [0_u16; 16];
        for &length in lengths {
            *counts.get_mut(usize::from(length)).ok_or(Bad)? += 1;
        }
        counts[0] = 0;
        let mut left = 1_i32;
        let mut next = [(0_u16, 0_u16); 16];
        let (mut code, mut index) = (0_u16, 0_u16);
        for length in 1..16 {
            left = left * 2 - i32::from(counts[length]);
            if left < 0 {
                return Err(Bad);
            }
            code = (code + counts[length - 1]) << 1;
            next[length] = (code, index);
            index += counts[length];
        }
        let single = index == 0 || (index == 1 && counts[1] == 1);
        if left != 0 && !(gaps == Gaps::Distances && single) {
            return Err(Bad);
        }
        self.counts = counts;
        self.direct.fill(0);
        for (symbol, &length) in lengths.iter().enumerate() {
            let (code, index) = &mut next[usize::from(length)];
            if length == 0 {
                continue;
            }
            let symbol = symbol as u16;
            *self.symbols.get_mut(usize::from(*index)).ok_or(Bad)? = symbol;
            if u32::from(length) <= DIRECT {
                let first = code.reverse_bits() >> (16 - length);
                let places = self.direct.iter_mut().skip(first.into());
                for place in places.step_by(1 << length) {
                    *place = symbol << 4 | u16::from(length);
                }
            }
            *code += 1;
            *index += 1;
        }
        Ok(())
    }

    /// Reads a symbol. The bits of it are held.
    #[inline]
    pub(super) fn read(&self, bits: &mut Bits<'_>) -> Result<usize, Bad> {
        let peeked = bits.peek();
        let entry = self.direct[peeked as usize & ((1 << DIRECT) - 1)];
        if entry != 0 {
            bits.skip(u32::from(entry & 15))?;
            return Ok(usize::from(entry >> 4));
        }
        let (mut code, mut first, mut index) = (0_u32, 0_u32, 0_u32);
        for length in 1..16 {
            code |= (peeked >> (length - 1)) as u32 & 1;
            let count = u32::from(self.counts[length]);
            if code < first + count {
                bits.skip(length as u32)?;
                let symbol = self.symbols.get((index + code - first) as usize);
                return symbol.map(|&symbol| symbol.into()).ok_or(Bad);
            }
            index += count;
            first = (first + count) << 1;
            code <<= 1;
        }
        Err(Bad)
    }
}
