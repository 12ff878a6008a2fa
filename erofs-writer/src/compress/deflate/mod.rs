//! Raw DEFLATE streams (RFC 1951), written into a given number of bytes.

mod block;
mod huffman;
mod parse;
mod stream;

pub(crate) use parse::WINDOW_BITS;

use std::io;

use super::encode::{Encode, Packed};
use parse::Finder;
use stream::Stream;

/// Fills clusters.
#[derive(Debug)]
pub(crate) struct Encoder {
    finder: Finder,
    stream: Stream,
}

impl Encoder {
    /// Levels from 1, the fastest, to 9.
    pub(crate) fn new(level: u8) -> Self {
        Self {
            finder: Finder::new(level),
            stream: Stream::default(),
        }
    }
}

impl Encode for Encoder {
    fn pack(&mut self, input: &[u8], capacity: usize) -> io::Result<Packed> {
        let stream = &mut self.stream;
        stream.begin(capacity);
        let mut parse = self.finder.parse(input);
        while let Some(sequence) = parse.next() {
            if !stream.push(input, sequence) {
                break;
            }
        }
        parse.end();
        Ok(stream.end(input))
    }
}

#[cfg(test)]
mod tests;
