//! Uploads of blobs in one request or several, resumed after interruptions.

use std::io::Read;

use ureq::http::Method;

use super::ask::Ask;
use super::endpoint::{Access, Endpoint};
use super::retry::Failure;
use super::transport::{Answer, Body};
use super::url::{Url, encode};
use crate::{Digest, Error, Pushed};

/// A blob to push.
pub(super) struct Blob<'a, F> {
    pub(super) digest: &'a Digest,
    pub(super) size: u64,
    /// The most bytes of one request; 0 for no limit.
    pub(super) chunk: u64,
    /// Returns its bytes from an offset on.
    pub(super) open: F,
}

/// The size of a blob that the repository has.
pub(super) fn size(endpoint: &Endpoint, digest: &Digest, access: Access) -> Result<u64, Failure> {
    let url = endpoint.url(&format!("/blobs/{digest}"));
    let answer = endpoint.ask(Ask::new(Method::HEAD, &url, access))?;
    let length = answer
        .header("content-length")
        .and_then(|text| text.parse().ok());
    length.ok_or_else(|| endpoint.protocol(&url, "the answer does not say how large the blob is"))
}

/// The response to the start of an upload.
enum Session {
    /// The blob exists already.
    Mounted,
    /// Bytes are to be sent here.
    At(Url),
}

/// Pushes `blob`, or mounts it from the repository `from`.
pub(super) fn push<R: Read, F: FnMut(u64) -> std::io::Result<R>>(
    endpoint: &Endpoint,
    blob: &mut Blob<'_, F>,
    from: Option<&str>,
) -> Result<Pushed, Error> {
    let access = match from {
        Some(from) => Access::Mount(from.to_owned()),
        None => Access::Push,
    };
    match endpoint.retrying(|| size(endpoint, blob.digest, access.clone())) {
        Ok(_) => return Ok(Pushed::Existed),
        Err(Error::NotFound { .. } | Error::Protocol { .. }) => {}
        Err(error) => return Err(error),
    }
    let mut session = match endpoint.retrying(|| begin(endpoint, blob.digest, from, &access))? {
        Session::Mounted => return Ok(Pushed::Mounted),
        Session::At(url) => url,
    };
    // The bytes that the registry has, and the most that it ever had, so that a registry which
    // loses bytes is not sent them endlessly.
    let mut offset = 0;
    let mut furthest = 0;
    let mut failures = 0;
    // Whether the upload continues one that broke off.
    let mut resumed = false;
    loop {
        let (failure, after) = match send(endpoint, blob, &session, offset, &access) {
            Ok(Sent::All) => return Ok(Pushed::Uploaded),
            Ok(Sent::Part {
                next,
                offset: reached,
            }) => {
                (session, offset) = (next, reached);
                if offset > furthest {
                    (furthest, failures) = (offset, 0);
                }
                continue;
            }
            Err(failed) => failed,
        };
        let status = match resumed && failure.is_refusal() {
            // The registry reports offsets but does not continue there, or it kept other bytes than
            // it was sent.
            true => None,
            false => {
                endpoint.wait(&failure, failures).ok_or(*failure.error)?;
                failures += 1;
                Some(endpoint.retrying(|| status(endpoint, &after, &access)))
            }
        };
        // The registry reports the offset. If it has forgotten the upload, a new one is started.
        match status {
            Some(Ok((next, reached))) if reached <= blob.size => {
                (session, offset, resumed) = (next, reached, true);
            }
            None
            | Some(
                Ok(_) | Err(Error::NotFound { .. } | Error::Http { .. } | Error::Protocol { .. }),
            ) => {
                // The upload may be complete, and only its answer lost.
                if endpoint
                    .retrying(|| size(endpoint, blob.digest, access.clone()))
                    .is_ok()
                {
                    return Ok(Pushed::Uploaded);
                }
                match endpoint.retrying(|| begin(endpoint, blob.digest, None, &access))? {
                    Session::Mounted => return Ok(Pushed::Mounted),
                    Session::At(url) => (session, offset, resumed) = (url, 0, false),
                }
            }
            Some(Err(error)) => return Err(error),
        }
    }
}

fn begin(
    endpoint: &Endpoint,
    digest: &Digest,
    from: Option<&str>,
    access: &Access,
) -> Result<Session, Failure> {
    let mut url = endpoint.url("/blobs/uploads/");
    if let Some(from) = from {
        url = url.with_query(&format!(
            "mount={}&from={}",
            encode(digest.as_str()),
            encode(from)
        ));
    }
    let ask = Ask::new(Method::POST, &url, access.clone()).body(Body::Bytes(b""));
    let answer = endpoint.ask(ask)?;
    match answer.status.as_u16() {
        201 => Ok(Session::Mounted),
        202 => location(endpoint, &url, &answer).map(Session::At),
        _ => Err(endpoint.protocol(&url, "an upload is neither accepted nor refused")),
    }
}

/// The address at which the upload continues.
fn location(endpoint: &Endpoint, url: &Url, answer: &Answer) -> Result<Url, Failure> {
    let location = answer.header("location").ok_or_else(|| {
        endpoint.protocol(url, "the answer does not say where the upload goes on")
    })?;
    endpoint.follow(url, location)
}

/// The offset of an upload, as the registry reports it.
fn status(endpoint: &Endpoint, session: &Url, access: &Access) -> Result<(Url, u64), Failure> {
    let answer = endpoint.ask(Ask::new(Method::GET, session, access.clone()))?;
    let next = match answer.header("location") {
        Some(_) => location(endpoint, session, &answer)?,
        None => session.clone(),
    };
    let reached = match answer.header("range") {
        None => 0,
        Some(range) => end_of_range(range).ok_or_else(|| {
            endpoint.protocol(session, "the answer does not say how far the upload is")
        })?,
    };
    Ok((next, reached))
}

/// The number of bytes in `0-LAST`. Registries say `0-0` of an upload without any.
fn end_of_range(range: &str) -> Option<u64> {
    let (first, last) = range.trim_start_matches("bytes=").split_once('-')?;
    match (first.trim().parse().ok()?, last.trim().parse().ok()?) {
        (0_u64, 0_u64) => Some(0),
        (0, last) => last.checked_add(1),
        _ => None,
    }
}

enum Sent {
    All,
    Part { next: Url, offset: u64 },
}

/// Sends the next bytes from `offset` on, and closes the upload with the last of them. A failure
/// contains the address that reports the offset of the upload.
fn send<R: Read, F: FnMut(u64) -> std::io::Result<R>>(
    endpoint: &Endpoint,
    blob: &mut Blob<'_, F>,
    session: &Url,
    offset: u64,
    access: &Access,
) -> Result<Sent, (Failure, Url)> {
    let failed = |failure| (failure, session.clone());
    let rest = blob.size.saturating_sub(offset);
    let chunked = blob.chunk > 0 && rest > blob.chunk;
    // Only the first and only request of an upload may close it with a body: not every registry
    // takes it from later ones.
    let closes = !chunked && (offset == 0 || rest == 0);
    let bytes = if chunked { blob.chunk } else { rest };
    let reader =
        (blob.open)(offset).map_err(|source| failed(Failure::last(Error::Read { source })))?;
    let mut source = Source {
        reader: reader.take(bytes),
        left: bytes,
        error: None,
    };
    let url = match closes {
        true => session.with_query(&format!("digest={}", encode(blob.digest.as_str()))),
        false => session.clone(),
    };
    let method = if closes { Method::PUT } else { Method::PATCH };
    let mut ask = Ask::new(method, &url, access.clone());
    ask.offset = offset;
    ask = ask.header("content-type", "application/octet-stream");
    if !closes {
        let last = (offset + bytes).saturating_sub(1);
        ask = ask.header("content-range", format!("{offset}-{last}"));
    }
    let body = match bytes {
        0 => Body::Bytes(b""),
        _ => Body::Stream(&mut source, bytes),
    };
    let result = endpoint.ask(ask.body(body));
    if let Some(source) = source.error {
        return Err(failed(Failure::last(Error::Read { source })));
    }
    let answer = result.map_err(failed)?;
    if closes {
        return Ok(Sent::All);
    }
    let next = location(endpoint, session, &answer).map_err(failed)?;
    Ok(Sent::Part {
        next,
        offset: offset + bytes,
    })
}

/// The blob's bytes; keeps its own error apart from the network's.
struct Source<R> {
    reader: std::io::Take<R>,
    left: u64,
    error: Option<std::io::Error>,
}

impl<R: Read> Read for Source<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let problem = match self.reader.read(buffer) {
            Ok(0) if self.left > 0 && !buffer.is_empty() => std::io::Error::new(
                std::io::ErrorKind::UnexpectedEof,
                "the blob is shorter than its size",
            ),
            Ok(bytes) => {
                self.left -= bytes as u64;
                return Ok(bytes);
            }
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => return Err(error),
            Err(error) => error,
        };
        let kind = problem.kind();
        self.error = Some(problem);
        Err(kind.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn upload_offset_is_one_past_the_last_byte_of_the_range() {
        assert_eq!(end_of_range("0-0"), Some(0));
        assert_eq!(end_of_range("0-99"), Some(100));
        assert_eq!(end_of_range("bytes=0-99"), Some(100));
        for text in ["", "-", "5-9", "0-18446744073709551615", "0-x"] {
            assert_eq!(end_of_range(text), None, "{text}");
        }
    }
}
