//! Bits of a deflate stream, the lowest of a byte first.

use super::Bad;

/// A reader that starts at any bit of `bytes`.
pub(super) struct Bits<'a> {
    bytes: &'a [u8],
    next: usize,
    hold: u64,
    held: u32,
}

impl<'a> Bits<'a> {
    pub(super) fn at(bytes: &'a [u8], bit: usize) -> Self {
        let mut bits = Self {
            bytes,
            next: (bit / 8).min(bytes.len()),
            hold: 0,
            held: 0,
        };
        bits.refill();
        bits.drop_held((bit % 8) as u32);
        bits
    }

    /// The bit that is read next.
    pub(super) fn position(&self) -> usize {
        (self.next * 8).saturating_sub(self.held as usize)
    }

    /// Holds at least 56 bits, unless fewer are left.
    pub(super) fn refill(&mut self) {
        if let Some(word) = self.bytes.get(self.next..).and_then(<[u8]>::first_chunk) {
            self.hold |= u64::from_le_bytes(*word) << self.held;
            let bytes = (63 - self.held) / 8;
            self.next += bytes as usize;
            self.held += bytes * 8;
            // The rest of the word is read again.
            self.hold &= u64::MAX >> (64 - self.held).min(63);
            return;
        }
        while self.held < 56 {
            let Some(&byte) = self.bytes.get(self.next) else {
                return;
            };
            self.hold |= u64::from(byte) << self.held;
            self.held += 8;
            self.next += 1;
        }
    }

    /// The bits that are held; zeros after the last.
    pub(super) fn peek(&self) -> u64 {
        self.hold
    }

    fn drop_held(&mut self, count: u32) {
        let count = count.min(self.held);
        self.hold >>= count;
        self.held -= count;
    }

    /// Passes over bits that were peeked at, which `refill` had to make sure of.
    pub(super) fn skip(&mut self, count: u32) -> Result<(), Bad> {
        if count > self.held {
            return Err(Bad);
        }
        self.drop_held(count);
        Ok(())
    }

    /// Reads at most 16 bits.
    pub(super) fn take(&mut self, count: u32) -> Result<usize, Bad> {
        if self.held < count {
            self.refill();
        }
        let value = self.hold & ((1 << count) - 1);
        self.skip(count)?;
        Ok(value as usize)
    }

    /// Passes over the rest of a byte and returns the bytes that follow, which it passes over too.
    pub(super) fn stored(&mut self) -> Result<&'a [u8], Bad> {
        self.skip(self.held % 8)?;
        let len = self.take(16)?;
        if self.take(16)? != !len & 0xffff {
            return Err(Bad);
        }
        let from = self.position() / 8;
        let body = self.bytes.get(from..from + len).ok_or(Bad)?;
        (self.next, self.hold, self.held) = (from + len, 0, 0);
        Ok(body)
    }
}
