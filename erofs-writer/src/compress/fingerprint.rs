//! Fingerprints that distinguish contents which are no longer in memory, by a collision-resistant
//! hash.

use std::collections::hash_map::RandomState;
use std::fmt;
use std::hash::BuildHasher;

/// A hash of contents.
pub(crate) type Fingerprint = [u8; 16];

/// The random key of an image's hashes. Contents with equal hashes cannot be prepared without it,
/// and chance collisions do not occur, so the image does not depend on it.
#[derive(Clone, Copy)]
pub(crate) struct Secret([u8; 16]);

impl Secret {
    pub(crate) fn new() -> Self {
        let random = RandomState::new();
        let halves = [0_u8, 1].map(|half| random.hash_one(half).to_le_bytes());
        let mut secret = [0; 16];
        secret.copy_from_slice(halves.as_flattened());
        Self(secret)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Secret").finish_non_exhaustive()
    }
}

/// Hashes contents piece by piece.
#[cfg(feature = "compression")]
#[derive(Clone, Debug)]
pub(crate) struct Hasher(sha2::Sha256);

#[cfg(feature = "compression")]
impl Hasher {
    pub(crate) fn new(secret: &Secret) -> Self {
        Self(sha2::Digest::new_with_prefix(secret.0))
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) {
        sha2::Digest::update(&mut self.0, bytes);
    }

    /// The hash of everything so far.
    pub(crate) fn get(&self) -> Fingerprint {
        let digest: [u8; 32] = sha2::Digest::finalize(self.0.clone()).into();
        std::array::from_fn(|i| digest[i])
    }
}

/// Nothing is compressed without an algorithm, so all contents are distinct here.
#[cfg(not(feature = "compression"))]
#[derive(Clone, Debug)]
pub(crate) struct Hasher(Secret, u64);

#[cfg(not(feature = "compression"))]
impl Hasher {
    pub(crate) fn new(secret: &Secret) -> Self {
        Self(*secret, 0)
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.1 += bytes.len() as u64;
    }

    /// The hash of everything so far.
    pub(crate) fn get(&self) -> Fingerprint {
        let mut fingerprint = self.0.0;
        fingerprint[..8].copy_from_slice(&self.1.to_le_bytes());
        fingerprint
    }
}
