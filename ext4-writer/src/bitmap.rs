//! Which blocks or inodes of a group are in use.

use std::ops::Range;

/// A block of bits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Bitmap(pub(crate) Vec<u8>);

impl Bitmap {
    /// One with all bits clear.
    pub(crate) fn new(bits: usize) -> Self {
        Self(vec![0; bits / 8])
    }

    pub(crate) fn set(&mut self, bits: Range<u64>) {
        let mut bit = bits.start as usize;
        let end = bits.end as usize;
        while bit < end {
            if bit.is_multiple_of(8) && end - bit >= 8 {
                self.0[bit / 8] = 0xff;
                bit += 8;
            } else {
                self.0[bit / 8] |= 1 << (bit % 8);
                bit += 1;
            }
        }
    }

    pub(crate) fn clear(&mut self, bits: Range<u64>) {
        for bit in bits {
            self.0[bit as usize / 8] &= !(1 << (bit % 8));
        }
    }

    /// How many bits are set.
    pub(crate) fn count(&self, bits: Range<u64>) -> u64 {
        bits.map(|bit| u64::from(self.0[bit as usize / 8] >> (bit % 8) & 1))
            .sum()
    }
}
