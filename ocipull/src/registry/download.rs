//! Downloading a file by its address, without a repository and without credentials.

use std::io::{self, Read, Write};

use ureq::http::Method;

use super::blob::{ContentRange, PROGRESS};
use super::message::MAX_ERROR;
use super::retry::{Failure, retry_after};
use super::transport::{Answer, Body, Incoming, Request, Transport};
use super::url::{Scheme, Url};
use crate::digest::Hasher;
use crate::{Cause, Digest, Document, Error, Options};

/// The most redirects that are followed.
const MAX_REDIRECTS: usize = 10;

/// Downloads the file at `url`, which begins with `https://` or `http://`, into `output`, and
/// returns the SHA-256 digest of its bytes, of which there are at most `limit`.
///
/// Proxies, certificates, time limits, retries, progress and events are those of `options`, as for
/// an image. A download that breaks off goes on where it broke off, unless the file is another one
/// by then. Redirects are followed, but never from TLS to plain HTTP.
///
/// ```no_run
/// use ocipull::{Options, download};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let mut file = std::fs::File::create("kernel.tar")?;
/// let digest = download("https://example.org/kernel.tar", &mut file, 1 << 30, &Options::default())?;
/// println!("{digest}");
/// # Ok(())
/// # }
/// ```
///
/// # Errors
///
/// [`Error::Address`], [`Error::Connect`], [`Error::Http`], [`Error::Redirect`],
/// [`Error::Interrupted`]; [`Error::Protocol`] where the file changed meanwhile;
/// [`Error::TooLarge`] where there are more bytes; [`Error::Read`] where `output` does not take
/// them.
pub fn download(
    url: &str,
    output: &mut impl Write,
    limit: u64,
    options: &Options,
) -> Result<Digest, Error> {
    let mut file = FileReader::new(url, options)?;
    let mut hasher = Hasher::sha256();
    let mut total = 0_u64;
    let mut buffer = vec![0; 64 << 10];
    loop {
        let bytes = file.receive(&mut buffer)?;
        if bytes == 0 {
            return Ok(hasher.finish());
        }
        total += bytes as u64;
        if total > limit {
            let document = Document::Blob;
            return Err(Error::TooLarge { document, limit });
        }
        let new = buffer.get(..bytes).unwrap_or_default();
        output
            .write_all(new)
            .map_err(|source| Error::Read { source })?;
        hasher.update(new);
        if let Some(progress) = &options.progress {
            progress.add(bytes as u64);
        }
    }
}

/// The bytes of a file at an address.
pub(super) struct FileReader {
    transport: Transport,
    options: Options,
    url: Url,
    /// The number of bytes received.
    offset: u64,
    answer: Option<(Incoming, Url)>,
    /// The entity tag of the first response.
    version: Option<String>,
    /// Repeated bytes of a server that cannot begin in the middle.
    skip: u64,
    /// Interruptions since `mark`.
    failures: u32,
    mark: u64,
    ended: bool,
}

impl FileReader {
    pub(super) fn new(url: &str, options: &Options) -> Result<Self, Error> {
        let url = Url::parse(url).map_err(|problem| Error::Address { problem })?;
        Ok(Self {
            transport: Transport::new(options),
            options: options.clone(),
            url,
            offset: 0,
            answer: None,
            version: None,
            skip: 0,
            failures: 0,
            mark: 0,
            ended: false,
        })
    }

    /// Begins at byte `offset`.
    pub(super) fn at(self, offset: u64) -> Self {
        Self {
            offset,
            mark: offset,
            ..self
        }
    }

    /// The next bytes; 0 at the end.
    fn receive(&mut self, buffer: &mut [u8]) -> Result<usize, Error> {
        while !self.ended {
            let failure = match self.advance(buffer) {
                Ok(Some(bytes)) => return Ok(bytes),
                Ok(None) => continue,
                Err(failure) => failure,
            };
            self.answer = None;
            if self.offset - self.mark >= PROGRESS {
                (self.failures, self.mark) = (0, self.offset);
            }
            let Options {
                retries, events, ..
            } = &self.options;
            let host = self.url.origin.host();
            let waited = failure.wait(self.failures, &host, *retries, events.as_ref());
            waited.ok_or(*failure.error)?;
            self.failures += 1;
        }
        Ok(0)
    }

    /// One step: a request (`None`), or one run of bytes of its answer.
    fn advance(&mut self, buffer: &mut [u8]) -> Result<Option<usize>, Failure> {
        let Some((answer, url)) = &mut self.answer else {
            return self.begin().map(|()| None);
        };
        let most = match self.skip {
            0 => buffer.len(),
            skip => usize::try_from(skip)
                .unwrap_or(usize::MAX)
                .min(buffer.len()),
        };
        let window = buffer.get_mut(..most).unwrap_or_default();
        let bytes = match answer.read(window) {
            Ok(bytes) => bytes,
            Err(broken) => {
                let host = url.origin.host();
                return Err(self.transport.failure(url, host, self.offset, broken));
            }
        };
        if bytes == 0 {
            self.ended = true;
        } else if self.skip > 0 {
            self.skip -= bytes as u64;
            return Ok(None);
        }
        self.offset += bytes as u64;
        Ok(Some(bytes))
    }

    /// Asks for the rest of the file.
    fn begin(&mut self) -> Result<(), Failure> {
        let (answer, url) = self.ask()?;
        let range = ContentRange::of(&answer);
        match answer.status.as_u16() {
            206 if self.offset > 0 => {
                if range.map(|range| range.first) != Some(self.offset) {
                    return Err(Failure::transient(Error::Interrupted {
                        url: url.to_string(),
                        offset: self.offset,
                        source: Cause::new("another range than the one asked for"),
                    }));
                }
                self.skip = 0;
            }
            // All bytes were received before the connection broke.
            416 if ContentRange::size_of(&answer) == Some(self.offset) => {
                self.ended = true;
                return Ok(());
            }
            // A server without ranges begins at the first byte, and so does one whose file has
            // changed.
            200 => self.skip = self.offset,
            status => return Err(Failure::status(&url, status, String::new())),
        }
        let version = version(&answer);
        match &self.version {
            Some(known) if self.offset > 0 && version.as_ref() != Some(known) => {
                return Err(Failure::last(Error::Protocol {
                    url: url.to_string(),
                    problem: "the file changed while it was downloaded".to_owned(),
                }));
            }
            _ => self.version = version,
        }
        self.answer = Some((answer.body, url));
        Ok(())
    }

    /// Makes a request, and returns the response with the address that it finally came from.
    fn ask(&self) -> Result<(Answer, Url), Failure> {
        let mut url = self.url.clone();
        for _ in 0..=MAX_REDIRECTS {
            let mut headers = Vec::new();
            if self.offset > 0 {
                headers.push(("range", format!("bytes={}-", self.offset)));
                headers.extend(self.version.clone().map(|version| ("if-range", version)));
            }
            let request = Request {
                method: Method::GET,
                url: &url,
                headers,
                body: Body::None,
                insecure: false,
            };
            let sent = self.transport.send(request).map_err(Failure::last)?;
            let mut answer = match sent {
                Ok(answer) => answer,
                Err(broken) => {
                    let host = url.origin.host();
                    return Err(self.transport.failure(&url, host, self.offset, broken));
                }
            };
            let status = answer.status.as_u16();
            if answer.status.is_redirection() && status != 304 {
                url = redirect(&url, &answer)?;
            } else if answer.status.is_success() || (status == 416 && self.offset > 0) {
                return Ok((answer, url));
            } else {
                let after = answer.header("retry-after").and_then(retry_after);
                // The body of an error is a page for browsers.
                let _ = answer.bounded(MAX_ERROR);
                return Err(Failure::status(&url, status, String::new()).after(after));
            }
        }
        Err(bad_redirect(&url, "there were too many before it"))
    }
}

impl Read for FileReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match buffer.is_empty() {
            true => Ok(0),
            false => Ok(self.receive(buffer)?),
        }
    }
}

/// The strong entity tag of a response, which identifies its bytes.
fn version(answer: &Answer) -> Option<String> {
    let tag = answer.header("etag")?;
    (tag.starts_with('"') && tag.len() <= 256).then(|| tag.to_owned())
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
