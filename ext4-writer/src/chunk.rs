//! A piece of a file, between being read and being written.

use std::io::{self, Read};

/// How much of a file is read before it is written, in bytes: a multiple of every block size.
const SIZE: usize = 1 << 20;

#[derive(Debug, Default)]
pub(crate) struct Chunk {
    /// Where in the file it begins: always at a block's start.
    pub(crate) at: u64,
    /// How many of the buffer's bytes belong to it.
    pub(crate) len: usize,
    /// Zeroed once, and overwritten by each read.
    buffer: Vec<u8>,
}

impl Chunk {
    /// An empty one at a file's start.
    pub(crate) fn reset(&mut self) {
        self.buffer.resize(SIZE, 0);
        self.at = 0;
        self.len = 0;
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.buffer[..self.len]
    }

    /// Where in the file it ends.
    pub(crate) fn end(&self) -> u64 {
        self.at + self.len as u64
    }

    pub(crate) fn is_full(&self) -> bool {
        self.len == self.buffer.len()
    }

    /// Appends zeros up to byte `to` of the file, which is less than a block away.
    pub(crate) fn fill_up_to(&mut self, to: u64) {
        let len = (to - self.at) as usize;
        self.buffer[self.len..len].fill(0);
        self.len = len;
    }

    /// Reads from `data` until the chunk is full, at most `most` bytes, and returns the number of
    /// bytes.
    pub(crate) fn read(&mut self, data: &mut impl Read, most: u64) -> io::Result<usize> {
        let before = self.len;
        let end = before + most.min((self.buffer.len() - before) as u64) as usize;
        while self.len < end {
            match data.read(&mut self.buffer[self.len..end]) {
                Ok(0) => break,
                Ok(read) => self.len += read,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => (),
                Err(e) => return Err(e),
            }
        }
        Ok(self.len - before)
    }
}
