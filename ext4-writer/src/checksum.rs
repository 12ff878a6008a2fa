//! The CRC-32C values of the metadata_csum feature.

/// A running CRC-32C as `ext4_chksum` computes it: without the usual inversion before and after.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Checksum(u32);

impl Checksum {
    /// The start of checksums that are not seeded: the superblock's, the journal superblock's, and
    /// the seed's own.
    pub(crate) const START: Self = Self(!0);

    /// Continues from a seed that is stored on disk.
    pub(crate) fn from_seed(seed: u32) -> Self {
        Self(seed)
    }

    /// The checksum of what has been added so far, followed by `bytes`.
    #[must_use]
    pub(crate) fn add(self, bytes: &[u8]) -> Self {
        Self(!crc32c::crc32c_append(!self.0, bytes))
    }

    /// What blocks and inodes that belong to inode `ino` of generation 0 start from
    /// (`i_csum_seed`).
    #[must_use]
    pub(crate) fn inode(self, ino: u32) -> Self {
        self.add(&ino.to_le_bytes()).add(&0_u32.to_le_bytes())
    }

    pub(crate) fn value(self) -> u32 {
        self.0
    }

    /// The low and the high half, for fields that were widened.
    pub(crate) fn halves(self) -> (u16, u16) {
        (self.0 as u16, (self.0 >> 16) as u16)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_are_crc32c_without_the_final_inversion() {
        assert_eq!(Checksum::START.add(b"123456789").value(), !0xe306_9283);
        let parts = Checksum::START.add(b"1234").add(b"56789");
        assert_eq!(parts, Checksum::START.add(b"123456789"));
    }
}
