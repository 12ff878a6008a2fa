//! Finding where a block begins, at any bit.

use super::WINDOW;
use super::bits::Bits;
use super::block::{Blocks, Marked};

/// Finds starts of blocks.
pub(super) struct Finder {
    blocks: Blocks,
    scratch: Marked,
}

impl Finder {
    pub(super) fn new() -> Self {
        Self {
            blocks: Blocks::new(),
            // Larger blocks than any compressor writes are not found.
            scratch: Marked::new(8 << 20),
        }
    }

    /// Returns the first bit, from byte `from` on, at which a dynamic block seems to begin, or a
    /// stored one after another. Who decodes what is before it learns whether it does.
    pub(super) fn find(&mut self, bytes: &[u8], from: usize) -> Option<usize> {
        for (start, window) in bytes.windows(16).enumerate().skip(from) {
            let word = window
                .first_chunk()
                .map_or(0, |word| u64::from_le_bytes(*word));
            for bit in 0..8 {
                if precode(word >> bit) && self.holds(bytes, start * 8 + bit) {
                    return Some(start * 8 + bit);
                }
            }
            // The bit at which a stored block begins cannot be told from zeros before it; the byte
            // at which it ends can.
            if let Some(end) = stored(bytes, start)
                && bytes.get(end) == Some(&0)
                && stored(bytes, end + 1).is_some_and(|end| end <= bytes.len())
            {
                return Some(end * 8);
            }
        }
        None
    }

    /// Whether a block can be decoded at `bit`, and another may follow.
    fn holds(&mut self, bytes: &[u8], bit: usize) -> bool {
        if !kraft(bytes, bit) {
            return false;
        }
        let mut bits = Bits::at(bytes, bit);
        if self.blocks.plausible(&mut bits).is_err() {
            return false;
        }
        self.scratch.values.truncate(WINDOW);
        let mut bits = Bits::at(bytes, bit);
        self.blocks.block(&mut bits, &mut self.scratch).is_ok()
            && self.blocks.plausible(&mut bits).is_ok()
    }
}

/// Whether `bits` may begin a dynamic block that is not the last.
fn precode(bits: u64) -> bool {
    bits & 7 == 4 && (bits >> 3) & 31 <= 29 && (bits >> 8) & 31 <= 29
}

/// Whether the code of lengths of the dynamic block at `bit` is complete.
fn kraft(bytes: &[u8], bit: usize) -> bool {
    let mut bits = Bits::at(bytes, bit + 13);
    let sum = bits.take(4).and_then(|count| {
        (0..count + 4).try_fold(0_usize, |sum, _| {
            let length = bits.take(3)?;
            Ok(if length == 0 {
                sum
            } else {
                sum + (128 >> length)
            })
        })
    });
    matches!(sum, Ok(128))
}

/// The end of the stored block whose length is at byte `at`.
fn stored(bytes: &[u8], at: usize) -> Option<usize> {
    let &[a, b, c, d] = bytes.get(at..)?.first_chunk()?;
    let (len, not) = (u16::from_le_bytes([a, b]), u16::from_le_bytes([c, d]));
    (len == !not).then_some(at + 4 + usize::from(len))
}
