//! Blocks of a deflate stream whose window is not known: what would be copied out of it is a marker
//! of the place.

use super::bits::Bits;
use super::huffman::{Gaps, Huffman};
use super::{Bad, WINDOW};

/// The first marker, of the window's first byte. Lower values are bytes.
pub(super) const MARKER: u16 = 256;

/// The order in which the lengths of the code of lengths come.
const ORDER: [usize; 19] = [
    16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15,
];

/// Base and further bits of each length.
const LENGTHS: [(u16, u8); 29] = [
    (3, 0),
    (4, 0),
    (5, 0),
    (6, 0),
    (7, 0),
    (8, 0),
    (9, 0),
    (10, 0),
    (11, 1),
    (13, 1),
    (15, 1),
    (17, 1),
    (19, 2),
    (23, 2),
    (27, 2),
    (31, 2),
    (35, 3),
    (43, 3),
    (51, 3),
    (59, 3),
    (67, 4),
    (83, 4),
    (99, 4),
    (115, 4),
    (131, 5),
    (163, 5),
    (195, 5),
    (227, 5),
    (258, 0),
];

/// A decoder of blocks.
pub(super) struct Blocks {
    precode: Huffman,
    literals: Huffman,
    distances: Huffman,
}

/// The output: a window, at first of markers alone, and what was decoded.
pub(super) struct Marked {
    pub(super) values: Vec<u16>,
    /// The most values, the window included.
    most: usize,
}

impl Marked {
    pub(super) fn new(most: usize) -> Self {
        let mut marked = Self {
            values: Vec::new(),
            most: most.saturating_add(WINDOW),
        };
        marked.clear();
        marked
    }

    /// Begins again with a window of markers.
    pub(super) fn clear(&mut self) {
        self.values.clear();
        let markers = (0..WINDOW).map(|place| MARKER + place as u16);
        self.values.extend(markers);
    }

    /// The last bytes, if all of the window after them is known and was decoded.
    pub(super) fn window(&self) -> Option<Vec<u8>> {
        let decoded = self.values.get(WINDOW..)?;
        let last = decoded.get(decoded.len().checked_sub(WINDOW)?..)?;
        let known = last.iter().all(|&value| value < MARKER);
        known.then(|| last.iter().map(|&value| value as u8).collect())
    }

    fn room(&self, count: usize) -> Result<(), Bad> {
        match self.values.len() + count > self.most {
            true => Err(Bad),
            false => Ok(()),
        }
    }

    fn copy(&mut self, distance: usize, length: usize) -> Result<(), Bad> {
        self.room(length)?;
        let from = self.values.len().checked_sub(distance).ok_or(Bad)?;
        if distance >= length {
            self.values.extend_from_within(from..from + length);
        } else {
            for place in from..from + length {
                let value = self.values[place];
                self.values.push(value);
            }
        }
        Ok(())
    }
}

impl Blocks {
    pub(super) fn new() -> Self {
        Self {
            precode: Huffman::new(),
            literals: Huffman::new(),
            distances: Huffman::new(),
        }
    }

    /// Decodes one block; returns whether it is the last of the stream.
    pub(super) fn block(&mut self, bits: &mut Bits<'_>, out: &mut Marked) -> Result<bool, Bad> {
        let last = bits.take(1)? == 1;
        match bits.take(2)? {
            0 => {
                let body = bits.stored()?;
                out.room(body.len())?;
                out.values.extend(body.iter().map(|&byte| u16::from(byte)));
            }
            1 => {
                let mut lengths = [8; 288];
                lengths[144..256].fill(9);
                lengths[256..280].fill(7);
                self.literals.set(&lengths, Gaps::None)?;
                self.distances.set(&[5; 32], Gaps::None)?;
                self.symbols(bits, out)?;
            }
            2 => {
                self.codes(bits)?;
                self.symbols(bits, out)?;
            }
            _ => return Err(Bad),
        }
        Ok(last)
    }

    /// Whether a block may begin here: its type exists, and its codes are well-formed.
    pub(super) fn plausible(&mut self, bits: &mut Bits<'_>) -> Result<(), Bad> {
        bits.take(1)?;
        match bits.take(2)? {
            0 => bits.stored().map(drop),
            1 => Ok(()),
            2 => self.codes(bits),
            _ => Err(Bad),
        }
    }

    /// The codes of a dynamic block. Exactly those pass that zlib lets pass, but for a code of
    /// literals that has one code only.
    fn codes(&mut self, bits: &mut Bits<'_>) -> Result<(), Bad> {
        let literals = bits.take(5)? + 257;
        let distances = bits.take(5)? + 1;
        let precodes = bits.take(4)? + 4;
        if literals > 286 || distances > 30 {
            return Err(Bad);
        }
        let mut lengths = [0_u8; 19];
        for &place in &ORDER[..precodes] {
            lengths[place] = bits.take(3)? as u8;
        }
        self.precode.set(&lengths, Gaps::None)?;
        let mut lengths = [0_u8; 286 + 30];
        let lengths = &mut lengths[..literals + distances];
        let mut filled = 0;
        while filled < lengths.len() {
            bits.refill();
            let (value, count) = match self.precode.read(bits)? {
                16 => {
                    let before = filled.checked_sub(1).ok_or(Bad)?;
                    (lengths[before], 3 + bits.take(2)?)
                }
                17 => (0, 3 + bits.take(3)?),
                18 => (0, 11 + bits.take(7)?),
                length => (length as u8, 1),
            };
            let run = lengths.get_mut(filled..filled + count).ok_or(Bad)?;
            run.fill(value);
            filled += count;
        }
        let (literals, distances) = lengths.split_at(literals);
        if literals[256] == 0 {
            return Err(Bad);
        }
        self.literals.set(literals, Gaps::None)?;
        self.distances.set(distances, Gaps::Distances)
    }

    fn symbols(&self, bits: &mut Bits<'_>, out: &mut Marked) -> Result<(), Bad> {
        loop {
            // A length and a distance are 15 + 5 + 15 + 13 bits at most.
            bits.refill();
            let symbol = self.literals.read(bits)?;
            if symbol < 256 {
                out.room(1)?;
                out.values.push(symbol as u16);
                continue;
            }
            if symbol == 256 {
                return Ok(());
            }
            let &(base, further) = LENGTHS.get(symbol - 257).ok_or(Bad)?;
            let length = usize::from(base) + bits.take(further.into())?;
            let distance = match self.distances.read(bits)? {
                symbol @ 0..=3 => symbol + 1,
                symbol @ 4..=29 => {
                    let further = symbol / 2 - 1;
                    ((2 + symbol % 2) << further) + 1 + bits.take(further as u32)?
                }
                _ => return Err(Bad),
            };
            out.copy(distance, length)?;
        }
    }
}
