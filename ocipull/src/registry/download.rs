//! A file by its address: without a repository, and without credentials.

use std::io::{self, Write};

use ureq::http::Method;

use super::endpoint::MAX_ERROR;
use super::retry::{Failure, retry_after};
use super::transport::{Answer, Body, Request, Transport};
use super::url::{Scheme, Url};
use crate::digest::Hasher;
use crate::{Digest, Document, Error, Options};

/// How often a server may send us elsewhere.
const MAX_REDIRECTS: usize = 10;

/// Downloads the file at `url`, which begins with `https://` or `http://`, into `output`, and returns the SHA-256 digest of its
/// bytes, of which there are at most `limit`.
///
/// Proxies, certificates, time limits, retries, progress and events are those of `options`, as for an image. A download that
/// breaks off goes on where it broke off. Redirects are followed, but never from TLS to plain HTTP.
///
/// # Errors
///
/// [`Error::Address`], [`Error::Connect`], [`Error::Http`], [`Error::Redirect`], [`Error::Interrupted`];
/// [`Error::TooLarge`] where there are more bytes; [`Error::Read`] where `output` does not take them.
pub fn download(
    url: &str,
    output: &mut impl Write,
    limit: u64,
    options: &Options,
) -> Result<Digest, Error> {
    let url = Url::parse(url).map_err(|problem| Error::Address { problem })?;
    let mut download = Download {
        transport: Transport::new(options),
        options,
        limit,
        hasher: Hasher::sha256(),
        offset: 0,
    };
    let host = url.origin.host();
    let mut attempt = 0;
    loop {
        let before = download.offset;
        let Err(failure) = download.attempt(&url, output) else {
            return Ok(download.hasher.finish());
        };
        if download.offset > before {
            attempt = 0;
        }
        failure
            .wait(attempt, &host, options.retries, options.events.as_ref())
            .ok_or(*failure.error)?;
        attempt += 1;
    }
}

struct Download<'a> {
    transport: Transport,
    options: &'a Options,
    limit: u64,
    hasher: Hasher,
    /// Bytes that are in the output.
    offset: u64,
}

impl Download<'_> {
    /// Asks for the rest of the file, and reads it.
    fn attempt(&mut self, url: &Url, output: &mut impl Write) -> Result<(), Failure> {
        let (mut answer, url) = self.ask(url)?;
        // A server that does not know ranges begins at the beginning.
        let mut skip = match answer.status.as_u16() {
            206 => 0,
            // There is no rest.
            416 if self.offset > 0 => return Ok(()),
            _ => self.offset,
        };
        let mut buffer = vec![0; 64 << 10];
        loop {
            let read = answer.body.read(&mut buffer);
            let count = read.map_err(|broken| self.broken(&url, broken))?;
            if count == 0 {
                return Ok(());
            }
            let known = usize::try_from(skip).unwrap_or(usize::MAX).min(count);
            skip -= known as u64;
            let new = buffer.get(known..count).unwrap_or_default();
            if self.offset + new.len() as u64 > self.limit {
                return Err(Failure::last(Error::TooLarge {
                    document: Document::Blob,
                    limit: self.limit,
                }));
            }
            let refused = |source: io::Error| Failure::last(Error::Read { source });
            output.write_all(new).map_err(refused)?;
            self.hasher.update(new);
            self.offset += new.len() as u64;
            if let Some(progress) = &self.options.progress {
                progress.tell(new.len() as u64);
            }
        }
    }

    /// Makes a request that succeeds, and returns the answer with the address that it came from in the end.
    fn ask(&self, url: &Url) -> Result<(Answer, Url), Failure> {
        let mut url = url.clone();
        for _ in 0..=MAX_REDIRECTS {
            let headers = match self.offset {
                0 => Vec::new(),
                offset => vec![("range", format!("bytes={offset}-"))],
            };
            let request = Request {
                method: Method::GET,
                url: &url,
                headers,
                body: Body::None,
                insecure: false,
            };
            let sent = self.transport.send(request).map_err(Failure::last)?;
            let mut answer = sent.map_err(|broken| self.broken(&url, broken))?;
            let status = answer.status.as_u16();
            if answer.status.is_redirection() && status != 304 {
                url = redirect(&url, &answer)?;
            } else if answer.status.is_success() || (status == 416 && self.offset > 0) {
                return Ok((answer, url));
            } else {
                let after = answer.header("retry-after").and_then(retry_after);
                // The page that comes with an error is for a browser.
                let _ = answer.bounded(MAX_ERROR);
                return Err(Failure::status(&url, status, String::new()).after(after));
            }
        }
        Err(bad_redirect(&url, "there were too many before it"))
    }

    fn broken(&self, url: &Url, broken: super::transport::Broken) -> Failure {
        let host = url.origin.host();
        self.transport.failure(url, host, self.offset, broken)
    }
}

fn redirect(from: &Url, answer: &Answer) -> Result<Url, Failure> {
    let location = answer.header("location");
    let location = location.ok_or_else(|| bad_redirect(from, "it is not given"))?;
    let to = from.join(location);
    let to = to.map_err(|problem| bad_redirect(from, problem))?;
    match from.origin.scheme == Scheme::Https && to.origin.scheme == Scheme::Http {
        true => Err(bad_redirect(from, "TLS does not protect it")),
        false => Ok(to),
    }
}

fn bad_redirect(url: &Url, problem: &str) -> Failure {
    Failure::last(Error::Redirect {
        url: url.to_string(),
        problem: problem.to_owned(),
    })
}
