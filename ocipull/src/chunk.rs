//! Buffers that travel between threads and are used again.

use std::io::{self, Read};
use std::ops::Deref;
use std::sync::Arc;

/// The size of a chunk.
const CHUNK: usize = 128 << 10;

/// Some bytes, shared by the stages that look at them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Chunk(Arc<Buffer>);

#[derive(Debug, Default)]
struct Buffer {
    bytes: Box<[u8]>,
    /// The number of valid bytes in `bytes`.
    len: usize,
}

impl Deref for Chunk {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0.bytes[..self.0.len]
    }
}

/// The buffers of one stage. One that no other stage holds any more is filled again, so there are
/// never more of them than the channels after the stage can hold.
#[derive(Debug, Default)]
pub(crate) struct Pool {
    buffers: Vec<Arc<Buffer>>,
}

impl Pool {
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
                bytes: vec![0; CHUNK].into(),
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
        (Chunk(buffer), result)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
