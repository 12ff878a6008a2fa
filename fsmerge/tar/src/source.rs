//! The archive as bytes with a position.

use crate::error::Error;
use std::io::{self, BufRead, Read, Seek, SeekFrom};

/// Bytes of a tar block.
pub const BLOCK: usize = 512;

/// One block.
pub(crate) type Block = [u8; BLOCK];

/// Reads the archive, counts the bytes, and keeps the cause of a failure, since a sink sees only an
/// `io::Error`.
#[derive(Debug)]
pub struct Source<R> {
    inner: R,
    /// Bytes read or passed over so far.
    offset: u64,
    /// The bytes of a block in whose middle the archive ends.
    partial: Vec<u8>,
    failure: Option<Error>,
    seeking: Option<Seeking<R>>,
}

/// How to pass over bytes without reading them.
#[derive(Debug)]
struct Seeking<R> {
    by: fn(&mut R, i64) -> io::Result<()>,
    /// The archive's length, since a source can seek beyond its end.
    len: u64,
}

impl<R: BufRead + Seek> Source<R> {
    /// A source that does not read what it passes over.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] if the archive cannot be sought in.
    pub fn seeking(mut inner: R) -> Result<Self, Error> {
        let mut len = || {
            let start = inner.stream_position()?;
            let end = inner.seek(SeekFrom::End(0))?;
            inner.seek(SeekFrom::Start(start))?;
            Ok(end.saturating_sub(start))
        };
        let len = len().map_err(|source| Error::Io { offset: 0, source })?;
        Ok(Self {
            seeking: Some(Seeking {
                by: R::seek_relative,
                len,
            }),
            ..Self::new(inner)
        })
    }
}

impl<R: BufRead> Source<R> {
    /// A source that reads what it passes over.
    pub fn new(inner: R) -> Self {
        Self {
            inner,
            offset: 0,
            partial: Vec::new(),
            failure: None,
            seeking: None,
        }
    }

    /// Bytes read or passed over so far.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// The error that ended reading a body through [`Read`] or [`BufRead`], if any.
    pub fn take_failure(&mut self) -> Option<Error> {
        self.failure.take()
    }

    fn io_error(&self, source: io::Error) -> Error {
        if source.kind() == io::ErrorKind::UnexpectedEof {
            return Error::Truncated {
                offset: self.offset,
            };
        }
        Error::Io {
            offset: self.offset,
            source,
        }
    }

    /// Keeps the reason why the archive cannot be read further (its end, if none is given), and
    /// returns an error for the sink.
    fn fail(&mut self, reason: Option<io::Error>) -> io::Error {
        let reason = reason.unwrap_or_else(|| io::ErrorKind::UnexpectedEof.into());
        let kind = reason.kind();
        self.failure = Some(self.io_error(reason));
        kind.into()
    }

    fn read_some(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.inner.read(buffer) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
                Ok(n) => {
                    self.offset = self.offset.saturating_add(n as u64);
                    return Ok(n);
                }
            }
        }
    }

    /// Fills `buffer`.
    pub(crate) fn exactly(&mut self, buffer: &mut [u8]) -> Result<(), Error> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.read_some(&mut buffer[filled..]) {
                Ok(0) => {
                    return Err(Error::Truncated {
                        offset: self.offset,
                    });
                }
                Ok(n) => filled += n,
                Err(e) => return Err(self.io_error(e)),
            }
        }
        Ok(())
    }

    /// The next block, or None where the archive ends before it. A last block of zeros may be
    /// short: some writers end an archive at an odd length.
    pub(crate) fn block(&mut self) -> Result<Option<Block>, Error> {
        let mut block = [0; BLOCK];
        let mut filled = 0;
        while filled < BLOCK {
            match self.read_some(&mut block[filled..]) {
                Ok(0) if filled == 0 => return Ok(None),
                Ok(0) if block.iter().all(|&byte| byte == 0) => break,
                Ok(0) => {
                    self.partial = block[..filled].to_vec();
                    return Err(Error::Truncated {
                        offset: self.offset,
                    });
                }
                Ok(n) => filled += n,
                Err(e) => return Err(self.io_error(e)),
            }
        }
        Ok(Some(block))
    }

    /// The bytes of the block in whose middle the archive ended.
    pub(crate) fn partial(&self) -> &[u8] {
        &self.partial
    }

    /// Passes over `bytes` bytes.
    ///
    /// # Errors
    ///
    /// [`Error::Truncated`] if the archive ends before, [`Error::Io`] if it cannot be read.
    pub fn skip(&mut self, mut bytes: u64) -> Result<(), Error> {
        if let Some(seeking) = &self.seeking {
            let end = self.offset.checked_add(bytes);
            let (Some(end), Ok(by)) = (end.filter(|&end| end <= seeking.len), bytes.try_into())
            else {
                // The position at which reading would have met the end.
                return Err(Error::Truncated {
                    offset: seeking.len,
                });
            };
            (seeking.by)(&mut self.inner, by).map_err(|e| self.io_error(e))?;
            self.offset = end;
            return Ok(());
        }
        while bytes > 0 {
            let there = match self.fill_buf() {
                Ok(there) => there.len(),
                Err(e) => return Err(self.failure.take().unwrap_or_else(|| self.io_error(e))),
            };
            let n = usize::try_from(bytes).map_or(there, |left| left.min(there));
            self.consume(n);
            bytes -= n as u64;
        }
        Ok(())
    }

    /// Passes over the zeros after a body of `size` bytes. The archive may end there: some writers
    /// leave out the zeros after the last body, and Go's reader accepts that.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] if the archive cannot be read.
    pub fn padding(&mut self, size: u64) -> Result<(), Error> {
        let over = size % BLOCK as u64;
        let zeros = if over == 0 { 0 } else { BLOCK as u64 - over };
        let left = match &self.seeking {
            Some(seeking) => seeking.len.saturating_sub(self.offset),
            None => zeros,
        };
        match self.skip(zeros.min(left)) {
            Err(Error::Truncated { .. }) => Ok(()),
            done => done,
        }
    }

    /// A whole body of `size` bytes, which the caller has checked to be small, and its padding.
    pub(crate) fn body(&mut self, size: u64) -> Result<Vec<u8>, Error> {
        let mut body = Vec::new();
        let mut left = size;
        // The buffer grows as bytes arrive, because a header may announce more than the archive
        // has.
        while left > 0 {
            let n = usize::try_from(left).map_or(1 << 16, |left| left.min(1 << 16));
            let start = body.len();
            body.resize(start + n, 0);
            self.exactly(&mut body[start..])?;
            left -= n as u64;
        }
        self.padding(size)?;
        Ok(body)
    }
}

/// For a file's contents: the end of the archive is an error.
impl<R: BufRead> Read for Source<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.read_some(buffer) {
            Ok(0) if !buffer.is_empty() => Err(self.fail(None)),
            Ok(n) => Ok(n),
            Err(e) => Err(self.fail(Some(e))),
        }
    }
}

impl<R: BufRead> BufRead for Source<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        loop {
            match self.inner.fill_buf() {
                Ok([]) => return Err(self.fail(None)),
                Ok(_) => break,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(self.fail(Some(e))),
            }
        }
        // Bytes are buffered, so this does not read.
        self.inner.fill_buf()
    }

    fn consume(&mut self, bytes: usize) {
        self.inner.consume(bytes);
        self.offset = self.offset.saturating_add(bytes as u64);
    }
}
