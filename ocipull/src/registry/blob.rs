//! Downloads that go on where they broke off, from the next mirror if need be.

use std::io::{self, Read};
use std::sync::Arc;

use ureq::http::{Method, StatusCode};

use super::endpoint::{Access, Ask, Endpoint};
use super::mirrors::Mirrors;
use super::retry::Failure;
use super::transport::{Answer, Incoming};
use crate::digest::Hasher;
use crate::{Cause, Digest, Document, Error};

/// Bytes that must come between two interruptions for the second to count as the first again.
const PROGRESS: u64 = 1 << 20;

/// The bytes of a blob, not verified.
pub(super) struct BlobReader {
    mirrors: Arc<Mirrors>,
    /// The mirror asked.
    mirror: usize,
    digest: Digest,
    /// Where to go on.
    offset: u64,
    /// Where to end.
    end: u64,
    /// Whether `end` is the end of the blob.
    whole: bool,
    answer: Option<Incoming>,
    /// Bytes that come again, from a server that cannot begin in the middle.
    skip: u64,
    /// Interruptions since `mark`.
    failures: u32,
    mark: u64,
    ended: bool,
}

impl BlobReader {
    /// Of all of a blob of `size` bytes.
    pub(super) fn new(mirrors: Arc<Mirrors>, digest: &Digest, size: u64) -> Self {
        Self::range(mirrors, digest, 0..size, true)
    }

    /// Of the bytes in `range`, with which the blob ends if it is `whole`.
    pub(super) fn range(
        mirrors: Arc<Mirrors>,
        digest: &Digest,
        range: std::ops::Range<u64>,
        whole: bool,
    ) -> Self {
        Self {
            mirror: 0,
            mirrors,
            digest: digest.clone(),
            offset: range.start,
            end: range.end,
            whole,
            answer: None,
            skip: 0,
            failures: 0,
            mark: range.start,
            ended: range.is_empty(),
        }
    }

    /// The next bytes; 0 at the end.
    fn receive(&mut self, buffer: &mut [u8]) -> Result<usize, Error> {
        while !self.ended {
            let mirrors = self.mirrors.clone();
            let Some((index, endpoint)) = mirrors.by_digest(self.mirror, None) else {
                return Err(Error::Failed);
            };
            let failure = match self.advance(endpoint, buffer) {
                Ok(Some(bytes)) => return Ok(bytes),
                Ok(None) => continue,
                Err(failure) => failure,
            };
            self.answer = None;
            if self.offset >= self.end {
                // Everything is here; how the connection ended does not matter.
                break;
            }
            if self.offset - self.mark >= PROGRESS {
                (self.failures, self.mark) = (0, self.offset);
            }
            if endpoint.wait(&failure, self.failures).is_some() {
                self.failures += 1;
                continue;
            }
            let Some((next, endpoint)) = mirrors.by_digest(index + 1, Some(&failure.error)) else {
                return Err(*failure.error);
            };
            endpoint.tell_next(&failure.error);
            (self.mirror, self.failures, self.mark) = (next, 0, self.offset);
        }
        self.ended = true;
        Ok(0)
    }

    /// One step: a request (`None`), or one run of bytes of its answer.
    fn advance(
        &mut self,
        endpoint: &Endpoint,
        buffer: &mut [u8],
    ) -> Result<Option<usize>, Failure> {
        let url = endpoint.url(&format!("/blobs/{}", self.digest));
        let Some(answer) = &mut self.answer else {
            return self.begin(endpoint).map(|()| None);
        };
        let broken = |offset| move |broken| endpoint.broken(&url, offset, broken);
        let mut window = buffer;
        if self.skip > 0 || !self.whole {
            let left = match self.skip {
                0 => self.end - self.offset,
                skip => skip,
            };
            let most = usize::try_from(left)
                .unwrap_or(usize::MAX)
                .min(window.len());
            window = &mut window[..most];
        }
        let bytes = answer.read(window).map_err(broken(self.offset))?;
        if bytes == 0 {
            self.ended = true;
            return Ok(Some(0));
        }
        if self.skip > 0 {
            self.skip -= bytes as u64;
            return Ok(None);
        }
        self.offset += bytes as u64;
        self.ended = !self.whole && self.offset >= self.end;
        Ok(Some(bytes))
    }

    fn begin(&mut self, endpoint: &Endpoint) -> Result<(), Failure> {
        let url = endpoint.url(&format!("/blobs/{}", self.digest));
        let mut ask = Ask::new(Method::GET, &url, Access::Pull);
        ask.offset = self.offset;
        if !self.whole {
            ask = ask.header("range", format!("bytes={}-{}", self.offset, self.end - 1));
        } else if self.offset > 0 {
            ask = ask.header("range", format!("bytes={}-", self.offset));
        }
        let answer = match endpoint.ask(ask) {
            Ok(answer) => answer,
            Err(failure) => match &*failure.error {
                // There is nothing from here on: the blob is shorter than its descriptor says.
                Error::Http { status: 416, .. } => {
                    self.ended = true;
                    return Ok(());
                }
                _ => return Err(failure),
            },
        };
        self.skip = if answer.status == StatusCode::PARTIAL_CONTENT {
            let begins = begin_of_range(&answer);
            if begins != Some(self.offset) {
                let source = Cause::new(format!("asked for byte {}, got {begins:?}", self.offset));
                return Err(Failure::transient(Error::Interrupted {
                    url: url.to_string(),
                    offset: self.offset,
                    source,
                }));
            }
            0
        } else {
            self.offset
        };
        self.answer = Some(answer.body);
        Ok(())
    }
}

/// The first byte that a partial answer has.
fn begin_of_range(answer: &Answer) -> Option<u64> {
    let range = answer.header("content-range")?.strip_prefix("bytes ")?;
    range.split('-').next()?.parse().ok()
}

impl Read for BlobReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match buffer.is_empty() {
            true => Ok(0),
            false => Ok(self.receive(buffer)?),
        }
    }
}

/// The bytes of a blob, with an error in the place of their end where they are not those that the digest names.
pub(super) struct VerifiedReader {
    inner: BlobReader,
    document: Document,
    hasher: Option<Hasher>,
    expected: (Digest, u64),
    read: u64,
}

impl VerifiedReader {
    pub(super) fn new(mirrors: Arc<Mirrors>, digest: &Digest, size: u64) -> Self {
        Self {
            inner: BlobReader::new(mirrors, digest, size),
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
