//! Tells contents apart that are not kept, by a hash for which nobody can find two.

/// A hash of contents.
pub(crate) type Fingerprint = [u8; 32];

/// Takes contents piece by piece.
#[cfg(feature = "compression")]
#[derive(Clone, Debug, Default)]
pub(crate) struct Hasher(sha2::Sha256);

#[cfg(feature = "compression")]
impl Hasher {
    pub(crate) fn update(&mut self, bytes: &[u8]) {
        sha2::Digest::update(&mut self.0, bytes);
    }

    /// The hash of everything so far.
    pub(crate) fn get(&self) -> Fingerprint {
        sha2::Digest::finalize(self.0.clone()).into()
    }
}

/// Without an algorithm nothing is compressed: this tells all apart.
#[cfg(not(feature = "compression"))]
#[derive(Clone, Debug, Default)]
pub(crate) struct Hasher(u64);

#[cfg(not(feature = "compression"))]
impl Hasher {
    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.0 += bytes.len() as u64;
    }

    /// The hash of everything so far.
    pub(crate) fn get(&self) -> Fingerprint {
        let mut fingerprint = [0; 32];
        fingerprint[..8].copy_from_slice(&self.0.to_le_bytes());
        fingerprint
    }
}
