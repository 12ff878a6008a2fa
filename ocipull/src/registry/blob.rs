//! Downloads that go on where they broke off.

use std::io::{self, Read};
use std::sync::Arc;

use bytes::{Buf, Bytes};
use reqwest::{Response, StatusCode, header};

use super::connection::{Connection, Failure};
use crate::{Cause, Digest, Error};

/// Bytes that must come between two interruptions for the second to count as the first again.
const PROGRESS: u64 = 1 << 20;

/// The bytes of a blob, not verified.
pub(super) struct BlobReader {
    connection: Arc<Connection>,
    url: String,
    size: u64,
    /// Bytes received, and so where to go on.
    offset: u64,
    response: Option<Response>,
    pending: Bytes,
    /// Bytes that come again, from a server that cannot begin in the middle.
    skip: u64,
    /// Interruptions since `mark`.
    failures: u32,
    mark: u64,
    ended: bool,
}

impl BlobReader {
    pub(super) fn new(connection: Arc<Connection>, digest: &Digest, size: u64) -> Self {
        Self {
            url: connection.blob_url(digest),
            connection,
            size,
            offset: 0,
            response: None,
            pending: Bytes::new(),
            skip: 0,
            failures: 0,
            mark: 0,
            ended: false,
        }
    }

    /// Receives the next bytes into `pending`; none at the end.
    fn receive(&mut self) -> Result<(), Error> {
        while self.pending.is_empty() && !self.ended {
            let connection = self.connection.clone();
            let Some(result) = connection.wait(self.advance()) else {
                return Err(Error::Failed);
            };
            let Err(failure) = result else { continue };
            self.response = None;
            if self.offset >= self.size {
                // Everything is here; how the connection ended does not matter.
                self.ended = true;
                break;
            }
            if self.offset - self.mark >= PROGRESS {
                (self.failures, self.mark) = (0, self.offset);
            }
            if !failure.retry || self.failures >= connection.retries {
                return Err(failure.error);
            }
            let delay = failure.delay(self.failures);
            tracing::debug!(url = self.url, offset = self.offset, error = %failure.error, "trying again");
            self.failures += 1;
            std::thread::sleep(delay);
        }
        Ok(())
    }

    /// One step: a request, or one run of bytes of its answer.
    async fn advance(&mut self) -> Result<(), Failure> {
        let Some(response) = &mut self.response else {
            return self.begin().await;
        };
        match response.chunk().await {
            Ok(Some(mut chunk)) => {
                let again = usize::try_from(self.skip)
                    .unwrap_or(usize::MAX)
                    .min(chunk.len());
                chunk.advance(again);
                self.skip -= again as u64;
                self.offset += chunk.len() as u64;
                self.pending = chunk;
                Ok(())
            }
            Ok(None) => {
                self.ended = true;
                Ok(())
            }
            Err(error) => Err(self.connection.broken(&self.url, self.offset, error)),
        }
    }

    async fn begin(&mut self) -> Result<(), Failure> {
        if self.size == 0 {
            self.ended = true;
            return Ok(());
        }
        let response = match self.connection.get(&self.url, None, self.offset).await {
            Ok(response) => response,
            // There is nothing from here on: the blob is shorter than its descriptor says.
            Err(Failure {
                error: Error::Http { status: 416, .. },
                ..
            }) => {
                self.ended = true;
                return Ok(());
            }
            Err(failure) => return Err(failure),
        };
        self.skip = if response.status() == StatusCode::PARTIAL_CONTENT {
            let begins = begin_of_range(&response);
            if begins != Some(self.offset) {
                let source = Cause::new(format!("asked for byte {}, got {begins:?}", self.offset));
                let (url, offset) = (self.url.clone(), self.offset);
                return Err(Failure::transient(Error::Interrupted {
                    url,
                    offset,
                    source,
                }));
            }
            0
        } else {
            self.offset
        };
        self.response = Some(response);
        Ok(())
    }
}

/// The first byte that a partial answer has.
fn begin_of_range(response: &Response) -> Option<u64> {
    let range = response
        .headers()
        .get(header::CONTENT_RANGE)?
        .to_str()
        .ok()?;
    range
        .strip_prefix("bytes ")?
        .split('-')
        .next()?
        .parse()
        .ok()
}

impl Read for BlobReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        self.receive()?;
        let bytes = self.pending.len().min(buffer.len());
        self.pending.copy_to_slice(&mut buffer[..bytes]);
        Ok(bytes)
    }
}
