//! Downloads that resume after interruptions, from the next mirror if necessary.

use std::io::{self, Read};
use std::sync::Arc;

use ureq::http::{Method, StatusCode};

use super::ask::Ask;
use super::endpoint::{Access, Endpoint};
use super::mirrors::Mirrors;
use super::retry::Failure;
use super::transport::{Answer, Incoming};
use crate::error::is_transient_status;
use crate::{Cause, Digest, Error};

/// The number of bytes between two interruptions after which the count of failures starts again.
pub(super) const PROGRESS: u64 = 1 << 20;

/// The requested part of a blob, and the meaning of another response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Extent {
    /// The blob to its end. If a server begins at the first byte, known bytes are skipped.
    Rest,
    /// A range. A server that begins elsewhere is treated likewise.
    Range,
    /// The first range of several, of a blob of so many bytes. From a server that responds
    /// otherwise, the rest is read.
    First(u64),
    /// A range from a server that has sent ranges before. Any other response is refused.
    Strict,
}

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
    extent: Extent,
    /// Whether the last answer was not the range that was asked for.
    refused: bool,
    answer: Option<Incoming>,
    /// Repeated bytes of a server that cannot begin in the middle.
    skip: u64,
    /// Interruptions since `mark`.
    failures: u32,
    mark: u64,
    ended: bool,
}

impl BlobReader {
    /// Of the bytes in `range`.
    pub(super) fn new(
        mirrors: Arc<Mirrors>,
        digest: &Digest,
        range: std::ops::Range<u64>,
        extent: Extent,
    ) -> Self {
        Self {
            mirror: 0,
            mirrors,
            digest: digest.clone(),
            offset: range.start,
            end: range.end,
            extent,
            refused: false,
            answer: None,
            skip: 0,
            failures: 0,
            mark: range.start,
            ended: range.is_empty(),
        }
    }

    /// Asks the mirror with this number first.
    pub(super) fn asking(self, mirror: usize) -> Self {
        Self { mirror, ..self }
    }

    /// The number of the mirror that was asked last.
    pub(super) fn mirror(&self) -> usize {
        self.mirror
    }

    pub(super) fn extent(&self) -> Extent {
        self.extent
    }

    /// Whether it failed because the answer was not the range that was asked for.
    pub(super) fn is_refused(&self) -> bool {
        self.refused
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
                // All bytes were received, so the end of the connection does not matter.
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
            endpoint.report_next(&failure.error);
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
        let whole = self.extent == Extent::Rest;
        if self.skip > 0 || !whole {
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
        if bytes == 0 && matches!(self.extent, Extent::First(_) | Extent::Strict) {
            return Err(self.refuse(endpoint, "the range is shorter than it says"));
        }
        if bytes == 0 {
            self.ended = true;
            return Ok(Some(0));
        }
        if self.skip > 0 {
            self.skip -= bytes as u64;
            return Ok(None);
        }
        self.offset += bytes as u64;
        self.ended = !whole && self.offset >= self.end;
        if self.ended
            && let Some(answer) = self.answer.take()
        {
            answer.release();
        }
        Ok(Some(bytes))
    }

    fn begin(&mut self, endpoint: &Endpoint) -> Result<(), Failure> {
        self.refused = false;
        let url = endpoint.url(&format!("/blobs/{}", self.digest));
        let mut ask = Ask::new(Method::GET, &url, Access::Pull);
        ask.offset = self.offset;
        // No `If-Range`: the address names the bytes by their digest, whichever mirror has them.
        if self.extent != Extent::Rest {
            ask = ask.header("range", format!("bytes={}-{}", self.offset, self.end - 1));
        } else if self.offset > 0 {
            ask = ask.header("range", format!("bytes={}-", self.offset));
        }
        let answer = match endpoint.ask(ask) {
            Ok(answer) => answer,
            Err(failure) => return self.no_answer(endpoint, failure),
        };
        let range = match answer.status {
            StatusCode::PARTIAL_CONTENT => Some(ContentRange::of(&answer)),
            _ => None,
        };
        self.skip = 0;
        match (self.extent, range) {
            (Extent::Rest | Extent::Range, None) => self.skip = self.offset,
            (Extent::Rest | Extent::Range, Some(range)) => {
                let begins = range.map(|range| range.first);
                if begins != Some(self.offset) {
                    let problem = format!("asked for byte {}, got {begins:?}", self.offset);
                    return Err(self.interrupted(endpoint, problem));
                }
            }
            (Extent::First(size), None) => {
                (self.extent, self.end) = (Extent::Rest, size);
                self.skip = self.offset;
            }
            (Extent::First(size), Some(range)) => {
                if !range.is_some_and(|range| range.is(self.offset, self.end, Some(size))) {
                    (self.extent, self.end) = (Extent::Rest, size);
                    return Ok(());
                }
            }
            (Extent::Strict, Some(Some(range))) if range.is(self.offset, self.end, None) => {}
            (Extent::Strict, _) => {
                return Err(self.refuse(endpoint, "another range than the one asked for"));
            }
        }
        self.answer = Some(answer.body);
        Ok(())
    }

    /// Converts the failure of a request.
    fn no_answer(&mut self, endpoint: &Endpoint, failure: Failure) -> Result<(), Failure> {
        let Error::Http { status, .. } = *failure.error else {
            return Err(failure);
        };
        match (self.extent, status) {
            // There are no bytes from here on: the blob is shorter than its descriptor says.
            (Extent::Rest | Extent::Range, 416) => {
                self.ended = true;
                Ok(())
            }
            // Not every server supports ranges.
            (Extent::First(size), status) if !is_transient_status(status) => {
                (self.extent, self.end) = (Extent::Rest, size);
                Ok(())
            }
            (Extent::Strict, 416) => Err(self.refuse(endpoint, "a range is refused")),
            _ => Err(failure),
        }
    }

    fn refuse(&mut self, endpoint: &Endpoint, problem: &str) -> Failure {
        self.refused = true;
        let failure = self.interrupted(endpoint, problem.to_owned());
        match self.extent {
            Extent::Strict => Failure::last(*failure.error),
            _ => failure,
        }
    }

    fn interrupted(&self, endpoint: &Endpoint, problem: String) -> Failure {
        let url = endpoint.url(&format!("/blobs/{}", self.digest));
        Failure::transient(Error::Interrupted {
            url: url.to_string(),
            offset: self.offset,
            source: Cause::new(problem),
        })
    }
}

/// The range in a partial response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ContentRange {
    pub(super) first: u64,
    last: u64,
    /// The size of the whole blob, if stated.
    size: Option<u64>,
}

impl ContentRange {
    pub(super) fn of(answer: &Answer) -> Option<Self> {
        Self::parse(answer.header("content-range")?)
    }

    /// The size of the whole blob in the refusal of a range: `bytes */SIZE`.
    pub(super) fn size_of(answer: &Answer) -> Option<u64> {
        let range = answer.header("content-range")?.strip_prefix("bytes ")?;
        range.trim().strip_prefix("*/")?.parse().ok()
    }

    /// RFC 9110, section 14.4: `bytes FIRST-LAST/SIZE`, in which SIZE may be `*`.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (range, size) = text.strip_prefix("bytes ")?.split_once('/')?;
        let (first, last) = range.split_once('-')?;
        let size = match size.trim() {
            "*" => None,
            size => Some(size.parse().ok()?),
        };
        Some(Self {
            first: first.trim().parse().ok()?,
            last: last.trim().parse().ok()?,
            size,
        })
    }

    /// Whether it is the range up to `end`, of `size` bytes where both are known.
    fn is(&self, first: u64, end: u64, size: Option<u64>) -> bool {
        let sizes = self.size.zip(size);
        self.first == first
            && self.last.checked_add(1) == Some(end)
            && sizes.is_none_or(|(is, should)| is == should)
    }
}

impl Read for BlobReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match buffer.is_empty() {
            true => Ok(0),
            false => Ok(self.receive(buffer)?),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_range_headers_are_parsed() {
        let parsed = ContentRange::parse;
        let range = parsed("bytes 5-9/20").unwrap();
        assert!(range.is(5, 10, Some(20)) && range.is(5, 10, None));
        for (first, end, size) in [(4, 10, 20), (5, 9, 20), (5, 11, 20), (5, 10, 21)] {
            assert!(!range.is(first, end, Some(size)));
        }
        assert!(parsed("bytes 0-18446744073709551615/*").is_some_and(|r| !r.is(0, 0, None)));
        for text in [
            "",
            "bytes",
            "bytes */20",
            "items 5-9/20",
            "bytes 5-9",
            "bytes -9/20",
        ] {
            assert_eq!(parsed(text), None, "{text}");
        }
    }
}
