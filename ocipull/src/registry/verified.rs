//! Blobs that are verified while they are read.

use std::io::{self, Read};
use std::sync::Arc;

use super::mirrors::Mirrors;
use super::ranges::{Download, Plan};
use crate::digest::Hasher;
use crate::{Digest, Document, Error};

/// Reads a blob, and returns an error at its end if the bytes do not match the digest.
pub(super) struct VerifiedReader {
    inner: Download,
    document: Document,
    hasher: Option<Hasher>,
    expected: (Digest, u64),
    read: u64,
}

impl VerifiedReader {
    pub(super) fn new(mirrors: Arc<Mirrors>, digest: &Digest, size: u64, plan: Plan) -> Self {
        Self {
            inner: Download::new(mirrors, digest, 0..size, plan),
            document: Document::Blob,
            hasher: Some(digest.hasher()),
            expected: (digest.clone(), size),
            read: 0,
        }
    }

    fn conclude(&mut self) -> Result<(), Error> {
        let (expected, size) = self.expected.clone();
        let document = self.document;
        if self.read != size {
            return Err(Error::SizeMismatch {
                document,
                digest: expected,
                expected: size,
                actual: self.read,
            });
        }
        // A second read at the end finds no hasher.
        match self.hasher.take().map(Hasher::finish) {
            Some(actual) if actual != expected => Err(Error::DigestMismatch {
                document,
                expected,
                actual,
            }),
            _ => Ok(()),
        }
    }
}

impl Read for VerifiedReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        if self.read > self.expected.1 {
            return Err(Error::Failed.into());
        }
        let bytes = self.inner.read(buffer)?;
        self.read += bytes as u64;
        if bytes == 0 || self.read > self.expected.1 {
            self.conclude()?;
            return Ok(0);
        }
        if let Some(hasher) = &mut self.hasher {
            hasher.update(&buffer[..bytes]);
        }
        Ok(bytes)
    }
}
