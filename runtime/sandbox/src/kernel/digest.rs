//! Digests of files and downloads.

use std::fs::File;
use std::io::{self, Seek};

use ocipull::Digest;

use super::error::{Error, Result};

/// Checks that the file at `place` has the digest that is expected.
pub(super) fn verify(expected: &Digest, actual: Digest, place: &str) -> Result<()> {
    match *expected == actual {
        true => Ok(()),
        false => Err(Error::Digest {
            place: place.to_owned(),
            expected: expected.clone(),
            actual,
        }),
    }
}

/// Returns the SHA-256 digest of a file, and seeks to its beginning.
pub(super) fn digest_of(file: &mut File) -> io::Result<Digest> {
    let digest = Digest::sha256_of(file)?;
    file.rewind()?;
    Ok(digest)
}
