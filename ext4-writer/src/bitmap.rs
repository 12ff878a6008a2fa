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
        let (start, end) = (bits.start as usize, bits.end as usize);
        // Whole bytes at once: a bitmap has 4,096, and a filesystem many.
        let first = start.next_multiple_of(8).min(end);
        let whole = first..(end / 8 * 8).max(first);
        self.0[whole.start / 8..whole.end / 8].fill(0xff);
        for bit in (start..whole.start).chain(whole.end..end) {
            self.0[bit / 8] |= 1 << (bit % 8);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn setting_a_range_changes_no_other_bit() {
        for start in 0..40 {
            for end in start..40 {
                let mut bitmap = Bitmap::new(40);
                bitmap.set(start..end);
                for bit in 0..40 {
                    let set = bitmap.count(bit..bit + 1) == 1;
                    assert_eq!(set, (start..end).contains(&bit), "{start}..{end}: {bit}");
                }
            }
        }
    }
}
