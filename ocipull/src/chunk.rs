//! Buffers that travel between threads and are used again.

use std::io::{self, Read};
use std::ops::{Deref, Range};
use std::sync::Arc;

/// The size of a chunk.
const CHUNK: usize = 128 << 10;

/// A source of bytes, which may have some of them in buffers that it shares, so that they need not
/// be copied.
pub(crate) trait Stream: Read + Send {
    /// Returns the next bytes, at least one, in a buffer of the source; `None` if they can only be
    /// read.
    fn chunk(&mut self) -> Option<io::Result<Chunk>> {
        None
    }
}

/// A source that shares no buffers.
pub(crate) struct Unshared<R>(pub(crate) R);

impl<R: Read> Read for Unshared<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

impl<R: Read + Send> Stream for Unshared<R> {}

/// Some bytes, shared by the stages that look at them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Chunk {
    buffer: Arc<Buffer>,
    part: Range<usize>,
}

/// The bytes of chunks.
#[derive(Debug, Default)]
pub(crate) struct Buffer {
    bytes: Vec<u8>,
    /// The number of valid bytes in `bytes`.
    len: usize,
}

impl Chunk {
    /// All valid bytes of a buffer.
    fn of(buffer: Arc<Buffer>) -> Self {
        let part = 0..buffer.len;
        Self { buffer, part }
    }
}

impl Deref for Chunk {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.buffer.bytes[self.part.clone()]
    }
}

#[cfg(feature = "registry")]
impl Chunk {
    /// Splits off the first bytes, at most `most`.
    pub(crate) fn split_to(&mut self, most: usize) -> Self {
        let end = self.part.end.min(self.part.start.saturating_add(most));
        let first = Self {
            buffer: self.buffer.clone(),
            part: self.part.start..end,
        };
        self.part.start = end;
        first
    }

    /// Returns the buffer, unless other chunks have parts of it.
    pub(crate) fn into_buffer(self) -> Result<Buffer, Self> {
        let Self { buffer, part } = self;
        Arc::try_unwrap(buffer).map_err(|buffer| Self { buffer, part })
    }
}

#[cfg(feature = "registry")]
impl From<Buffer> for Chunk {
    fn from(buffer: Buffer) -> Self {
        Self::of(Arc::new(buffer))
    }
}

#[cfg(feature = "registry")]
impl Buffer {
    /// The bytes for which a buffer has room at first.
    const FIRST: usize = 64 << 10;

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn clear(&mut self) {
        self.len = 0;
    }

    /// Where the next of `size` bytes go; [`filled`](Self::filled) adds them. The buffer grows with
    /// received bytes, not with the requested length.
    pub(crate) fn room(&mut self, size: usize) -> &mut [u8] {
        if self.len >= self.bytes.len() {
            let longer = self.len.saturating_mul(2).max(Self::FIRST).min(size);
            self.bytes.resize(longer, 0);
        }
        let end = self.bytes.len().min(size);
        self.bytes.get_mut(self.len..end).unwrap_or_default()
    }

    /// Adds the first `bytes` of [`room`](Self::room).
    pub(crate) fn filled(&mut self, bytes: usize) {
        self.len = self.len.saturating_add(bytes).min(self.bytes.len());
    }
}

/// The buffers of one stage. One that no other stage holds any more is filled again, so there are
/// never more of them than the channels after the stage can hold.
#[derive(Debug, Default)]
pub(crate) struct Pool {
    buffers: Vec<Arc<Buffer>>,
}

impl Pool {
    /// Returns the next chunk of `input`, as [`fill`](Self::fill) does.
    pub(crate) fn next(&mut self, input: &mut dyn Stream) -> (Chunk, io::Result<()>) {
        match input.chunk() {
            None => self.fill(&mut { input }),
            Some(Ok(chunk)) => (chunk, Ok(())),
            Some(Err(error)) => (Chunk::default(), Err(error)),
        }
    }

    /// Reads a chunk; empty at the end of `input`, and shorter than others there or before an error
    /// only.
    pub(crate) fn fill(&mut self, input: &mut impl Read) -> (Chunk, io::Result<()>) {
        let free = self
            .buffers
            .iter()
            .position(|buffer| Arc::strong_count(buffer) == 1);
        let mut buffer = match free {
            Some(free) => self.buffers.swap_remove(free),
            None => Arc::new(Buffer {
                bytes: vec![0; CHUNK],
                len: 0,
            }),
        };
        let mut result = Ok(());
        if let Some(Buffer { bytes, len }) = Arc::get_mut(&mut buffer) {
            *len = 0;
            while *len < bytes.len() {
                match input.read(&mut bytes[*len..]) {
                    Ok(0) => break,
                    Ok(read) => *len += read,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => {
                        result = Err(error);
                        break;
                    }
                }
            }
        }
        self.buffers.push(buffer.clone());
        (Chunk::of(buffer), result)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(feature = "registry")]
    #[test]
    fn a_shared_buffer_comes_back_only_after_its_last_chunk() {
        let mut buffer = Buffer::default();
        while buffer.len() < 10 {
            let room = buffer.room(10);
            let (read, byte) = (room.len().min(4), 7);
            room[..read].fill(byte);
            buffer.filled(read);
        }
        let mut rest = Chunk::from(buffer);
        let first = rest.split_to(6);
        assert_eq!((first.len(), rest.len()), (6, 4));
        let last = rest.split_to(100);
        assert!(first.iter().chain(&*last).all(|&byte| byte == 7));
        assert!(last.len() == 4 && rest.is_empty());
        let rest = rest.into_buffer().unwrap_err();
        drop((first, last));
        assert_eq!(rest.into_buffer().unwrap().len(), 10);
    }

    #[test]
    fn a_buffer_is_reused_only_after_its_last_reader() {
        let mut pool = Pool::default();
        let mut input = io::repeat(7).take(3 * CHUNK as u64 - 1);
        let (first, _) = pool.fill(&mut input);
        let (second, _) = pool.fill(&mut input);
        assert_eq!(
            (first.len(), second.len(), pool.buffers.len()),
            (CHUNK, CHUNK, 2)
        );
        drop(first);
        let (third, _) = pool.fill(&mut input);
        assert_eq!((third.len(), pool.buffers.len()), (CHUNK - 1, 2));
        assert!(pool.fill(&mut input).0.is_empty());
        assert!(second.iter().chain(&*third).all(|&byte| byte == 7));
    }
}
