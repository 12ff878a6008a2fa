use crate::NO_PARENT;

/// The unit in which zeros are left out: the smallest grain.
const BLOCK: usize = 4096;

/// Makes a [`cid`](crate::Descriptor::cid) of a disk's contents: CRC-32C over every 4096-byte block
/// that is not all zeros, each after its number (64 bits, little-endian).
///
/// Disks of equal contents have equal ids, of whatever kind they are, and a hole is the same as
/// zeros.
///
/// ```
/// let mut id = vmdk::ContentId::new();
/// id.update(&[7; 512]);
/// id.zeros(1 << 40);
/// assert_eq!(id.finish(), {
///     let mut same = vmdk::ContentId::new();
///     same.update(&[7; 512]);
///     same.update(&[0; 3584]);
///     same.finish()
/// });
/// ```
#[derive(Clone, Debug)]
pub struct ContentId {
    checksum: u32,
    /// Blocks before this one.
    number: u64,
    block: [u8; BLOCK],
    filled: usize,
}

impl ContentId {
    /// Returns the hash of an empty disk.
    pub fn new() -> Self {
        Self {
            checksum: 0,
            number: 0,
            block: [0; BLOCK],
            filled: 0,
        }
    }

    /// Adds the next bytes.
    ///
    /// ```
    /// use vmdk::ContentId;
    ///
    /// let mut hash = ContentId::new();
    /// hash.update(b"the first bytes, ");
    /// hash.update(b"and the rest");
    /// let mut at_once = ContentId::new();
    /// at_once.update(b"the first bytes, and the rest");
    /// assert_eq!(hash.finish(), at_once.finish());
    /// ```
    pub fn update(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.filled == 0
                && let Some((block, rest)) = bytes.split_first_chunk()
            {
                self.checksum = append(self.checksum, self.number, block);
                self.number += 1;
                bytes = rest;
                continue;
            }
            let (part, rest) = bytes.split_at(bytes.len().min(BLOCK - self.filled));
            self.block[self.filled..][..part.len()].copy_from_slice(part);
            self.advance(part.len());
            bytes = rest;
        }
    }

    /// Adds `bytes` zeros, in constant time.
    ///
    /// ```
    /// use vmdk::ContentId;
    ///
    /// let (mut skipped, mut read) = (ContentId::new(), ContentId::new());
    /// skipped.zeros(1 << 20);
    /// read.update(&vec![0; 1 << 20]);
    /// assert_eq!(skipped.finish(), read.finish());
    /// ```
    pub fn zeros(&mut self, mut bytes: u64) {
        if self.filled > 0 {
            let part = bytes.min((BLOCK - self.filled) as u64);
            self.block[self.filled..][..part as usize].fill(0);
            self.advance(part as usize);
            bytes -= part;
        }
        if self.filled == 0 {
            self.number = self.number.wrapping_add(bytes / BLOCK as u64);
            let rest = (bytes % BLOCK as u64) as usize;
            self.block[..rest].fill(0);
            self.filled = rest;
        }
    }

    /// Returns the ID. It is never [`NO_PARENT`], nor the number before it, which some readers take
    /// for "not set".
    pub fn finish(mut self) -> u32 {
        self.block[self.filled..].fill(0);
        append(self.checksum, self.number, &self.block).min(NO_PARENT - 2)
    }

    fn advance(&mut self, bytes: usize) {
        self.filled += bytes;
        if self.filled == BLOCK {
            self.checksum = append(self.checksum, self.number, &self.block);
            self.number = self.number.wrapping_add(1);
            self.filled = 0;
        }
    }
}

impl Default for ContentId {
    fn default() -> Self {
        Self::new()
    }
}

fn append(checksum: u32, number: u64, block: &[u8; BLOCK]) -> u32 {
    if *block == [0; BLOCK] {
        return checksum;
    }
    let checksum = crc32c::crc32c_append(checksum, &number.to_le_bytes());
    crc32c::crc32c_append(checksum, block)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Parts of zeros and of other bytes.
    fn parts() -> impl Strategy<Value = Vec<(bool, usize)>> {
        proptest::collection::vec((any::<bool>(), 0..3 * BLOCK), 0..8)
    }

    proptest! {
        #[test]
        fn neither_pieces_nor_holes_nor_zeros_at_the_end_change_the_id(parts in parts(), cut in 1..10_000_usize) {
            let mut in_parts = ContentId::new();
            let mut bytes = Vec::new();
            for (holes, length) in parts {
                if holes {
                    in_parts.zeros(length as u64);
                    bytes.resize(bytes.len() + length, 0);
                } else {
                    let data = vec![length as u8 | 1; length];
                    in_parts.update(&data);
                    bytes.extend(data);
                }
            }
            let mut in_pieces = ContentId::new();
            bytes.chunks(cut).for_each(|piece| in_pieces.update(piece));
            in_pieces.zeros(cut as u64);
            prop_assert_eq!(in_parts.finish(), in_pieces.finish());
        }

        #[test]
        fn any_changed_byte_and_any_moved_block_changes_the_id(
            mut bytes in proptest::collection::vec(any::<u8>(), 1..2 * BLOCK), at: prop::sample::Index, change in 1..=255_u8,
        ) {
            let id = |bytes: &[u8], before: u64| {
                let mut id = ContentId::new();
                id.zeros(before);
                id.update(bytes);
                id.finish()
            };
            bytes[0] |= 1;
            let was = id(&bytes, 0);
            prop_assert_ne!(was, id(&bytes, BLOCK as u64));
            *at.get_mut(&mut bytes) ^= change;
            prop_assert_ne!(was, id(&bytes, 0));
        }
    }
}
