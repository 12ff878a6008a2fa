//! One interface to all encoders: as much of the input as fits into a cluster.

use std::fmt;
use std::io;

/// A cluster's bytes, and how much of the input they hold.
#[derive(Debug, Default)]
pub(crate) struct Packed {
    pub(crate) consumed: usize,
    pub(crate) bytes: Vec<u8>,
}

/// An encoder, which can be used any number of times: no cluster depends on another.
pub(crate) trait Encode: fmt::Debug + Send + Sync {
    /// Encodes as much of the beginning of `input` as fits into `capacity` bytes, or nothing where
    /// that saves nothing.
    fn pack(&mut self, input: &[u8], capacity: usize) -> io::Result<Packed>;

    /// Resets the state, so that the output does not depend on earlier contents.
    fn reset(&mut self) {}
}
