//! A buffered output that can be rewound. It writes large pieces in sequence, and seeks over zeros
//! where nothing was written yet.

use std::fs::File;
use std::io::{self, Cursor, Seek, SeekFrom, Write};

/// The size of the buffer.
const BUFFER: usize = 1 << 20;
/// Pieces of this size are not copied into the buffer, because writing them directly costs less.
const DIRECT: usize = 128 << 10;

pub(crate) type ReadExact<W> = fn(&mut W, &mut [u8]) -> io::Result<()>;
pub(crate) type Read<W> = fn(&mut W, &mut [u8]) -> io::Result<usize>;
pub(crate) type Truncate<W> = fn(&mut W, u64) -> io::Result<()>;

/// An output whose length can be set, as that of a file and of a buffer in memory.
///
/// [`Builder::with_dedupe`](crate::Builder::with_dedupe) requires it: contents are written before
/// they are compared, and the output is truncated if the last ones equal earlier ones.
pub trait SetLen {
    /// Makes the output `length` bytes long. The builder only calls this to make it shorter.
    ///
    /// # Errors
    ///
    /// Those of the output.
    fn set_len(&mut self, length: u64) -> io::Result<()>;
}

/// A block device keeps its length.
impl SetLen for File {
    fn set_len(&mut self, length: u64) -> io::Result<()> {
        SetLen::set_len(&mut &*self, length)
    }
}

/// A block device keeps its length.
impl SetLen for &File {
    fn set_len(&mut self, length: u64) -> io::Result<()> {
        match self.metadata()?.is_file() {
            true => File::set_len(self, length),
            false => Ok(()),
        }
    }
}

impl SetLen for Cursor<Vec<u8>> {
    fn set_len(&mut self, length: u64) -> io::Result<()> {
        set_vec_len(self.get_mut(), length)
    }
}

impl SetLen for Cursor<&mut Vec<u8>> {
    fn set_len(&mut self, length: u64) -> io::Result<()> {
        set_vec_len(self.get_mut(), length)
    }
}

impl<T: SetLen + ?Sized> SetLen for &mut T {
    fn set_len(&mut self, length: u64) -> io::Result<()> {
        (**self).set_len(length)
    }
}

impl<T: SetLen + ?Sized> SetLen for Box<T> {
    fn set_len(&mut self, length: u64) -> io::Result<()> {
        (**self).set_len(length)
    }
}

fn set_vec_len(bytes: &mut Vec<u8>, length: u64) -> io::Result<()> {
    let length = usize::try_from(length).map_err(io::Error::other)?;
    bytes.resize(length, 0);
    Ok(())
}

#[derive(Debug)]
pub(crate) struct Output<W> {
    inner: W,
    /// The position of `inner`.
    at: u64,
    /// Bytes still to be written, and their position.
    buffer: Vec<u8>,
    start: u64,
    /// The end of the bytes ever written. Bytes after it read as zeros once the output is long
    /// enough.
    clean: u64,
    /// The end of the bytes written through this value.
    written: u64,
}

impl<W: Write + Seek> Output<W> {
    /// An output whose first byte will be at `start`.
    pub(crate) fn new(mut inner: W) -> io::Result<Self> {
        let end = inner.seek(SeekFrom::End(0))?;
        Ok(Self {
            inner,
            at: end,
            buffer: Vec::new(),
            start: 0,
            clean: end,
            written: 0,
        })
    }

    /// Checks that the output can be read.
    pub(crate) fn check_readable(&mut self, read: Read<W>) -> io::Result<()> {
        // Nothing is there, which a file that is open for writing only does not report, but an
        // error.
        self.at = self.inner.seek(SeekFrom::End(0))?;
        read(&mut self.inner, &mut [0]).map(drop)
    }

    /// The position of the next byte.
    pub(crate) fn position(&self) -> u64 {
        self.start + self.buffer.len() as u64
    }

    /// The end of everything that was ever written, including rewound bytes.
    pub(crate) fn written(&self) -> u64 {
        self.written.max(self.position())
    }

    /// Appends `bytes`.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        if bytes.len() >= DIRECT || self.buffer.len() + bytes.len() > BUFFER {
            self.flush()?;
        }
        if bytes.len() >= DIRECT {
            self.emit(bytes)
        } else {
            if self.buffer.capacity() == 0 {
                self.buffer.reserve_exact(BUFFER);
            }
            self.buffer.extend_from_slice(bytes);
            Ok(())
        }
    }

    /// Appends zeros up to `to`, which is not before the position. A long run is seeked over, which
    /// leaves a hole in a file.
    pub(crate) fn zeros_to(&mut self, to: u64) -> io::Result<()> {
        let pad = to.saturating_sub(self.position());
        if pad <= BUFFER as u64 {
            if self.buffer.len() + pad as usize > BUFFER {
                self.flush()?;
            }
            self.buffer.resize(self.buffer.len() + pad as usize, 0);
            return Ok(());
        }
        self.flush()?;
        let zeros = vec![0; BUFFER];
        while self.start < self.clean.min(to) {
            let n = (self.clean.min(to) - self.start).min(BUFFER as u64);
            self.emit(&zeros[..n as usize])?;
        }
        self.start = to;
        Ok(())
    }

    /// Seeks to `to`: back to bytes that are to be overwritten, or to a place that was not written
    /// yet.
    pub(crate) fn seek(&mut self, to: u64) -> io::Result<()> {
        if to >= self.start && to <= self.position() {
            self.buffer.truncate((to - self.start) as usize);
        } else {
            if to > self.position() {
                self.flush()?;
            }
            self.buffer.clear();
            self.start = to;
        }
        Ok(())
    }

    /// Reads back the bytes written at `from`.
    pub(crate) fn read(
        &mut self,
        from: u64,
        into: &mut [u8],
        read: ReadExact<W>,
    ) -> io::Result<()> {
        let stored = self.start.saturating_sub(from).min(into.len() as u64) as usize;
        let (stored, buffered) = into.split_at_mut(stored);
        if !stored.is_empty() {
            self.at = self.inner.seek(SeekFrom::Start(from))?;
            read(&mut self.inner, stored)?;
            self.at += stored.len() as u64;
        }
        if !buffered.is_empty() {
            let at = (from.max(self.start) - self.start) as usize;
            let source = self.buffer.get(at..at + buffered.len());
            buffered.copy_from_slice(source.ok_or(io::ErrorKind::UnexpectedEof)?);
        }
        Ok(())
    }

    /// Flushes the buffer, writes `head` at `head_at`, truncates the output to `end` if possible,
    /// and returns it.
    pub(crate) fn finish_with(
        mut self,
        head_at: u64,
        head: &[u8],
        end: u64,
        truncate: Option<Truncate<W>>,
    ) -> io::Result<W> {
        self.flush()?;
        let written = self.written;
        if written < end {
            // A hole at the very end does not make the output longer.
            self.start = end - 1;
            self.emit(&[0])?;
        }
        self.start = head_at;
        self.emit(head)?;
        if let Some(truncate) = truncate.filter(|_| written > end) {
            truncate(&mut self.inner, end)?;
        }
        self.inner.flush()?;
        Ok(self.inner)
    }

    fn flush(&mut self) -> io::Result<()> {
        let mut buffer = std::mem::take(&mut self.buffer);
        if !buffer.is_empty() {
            self.emit(&buffer)?;
        }
        buffer.clear();
        self.buffer = buffer;
        Ok(())
    }

    /// Writes past the buffer, which is empty.
    fn emit(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.at != self.start {
            self.at = self.inner.seek(SeekFrom::Start(self.start))?;
        }
        self.inner.write_all(bytes)?;
        self.start += bytes.len() as u64;
        self.at = self.start;
        self.written = self.written.max(self.start);
        self.clean = self.clean.max(self.start);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Cursor, Read};

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Step {
        Write(usize, u8),
        Zeros(u64),
        Back(f64),
    }

    fn step() -> impl Strategy<Value = Step> {
        let size = prop_oneof![4 => 0..3000_usize, 1 => 0..BUFFER * 2];
        prop_oneof![
            4 => (size.clone(), any::<u8>()).prop_map(|(n, byte)| Step::Write(n, byte)),
            2 => size.prop_map(|n| Step::Zeros(n as u64)),
            1 => (0.0..1.0).prop_map(Step::Back),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn written_bytes_survive_rewinding(steps in vec(step(), 0..30), old in 0..3 * BUFFER) {
            let mut output = Output::new(Cursor::new(vec![0xEE; old])).unwrap();
            let mut expected = Vec::new();
            for step in steps {
                match step {
                    Step::Write(n, byte) => {
                        output.write(&vec![byte; n]).unwrap();
                        expected.resize(expected.len() + n, byte);
                    }
                    Step::Zeros(n) => {
                        output.zeros_to(output.position() + n).unwrap();
                        expected.resize(expected.len() + n as usize, 0);
                    }
                    Step::Back(part) => {
                        let to = (expected.len() as f64 * part) as usize;
                        output.seek(to as u64).unwrap();
                        expected.truncate(to);
                    }
                }
                prop_assert_eq!(output.position(), expected.len() as u64);
            }
            let half = expected.len() / 2;
            let mut read = vec![1; expected.len() - half];
            // A hole at the very end cannot be read yet.
            if output.clean >= output.start {
                output.read(half as u64, &mut read, |inner, into| inner.read_exact(into)).unwrap();
                prop_assert!(read == expected[half..]);
            }
            let length = expected.len();
            let found = output.finish_with(0, b"", length as u64, None).unwrap().into_inner();
            prop_assert!(found[..length] == expected[..]);
        }
    }
}
