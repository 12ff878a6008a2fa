//! One interface to all encoders: as much of the input as fits into a cluster.

use std::fmt;
use std::io;

#[cfg(feature = "compression")]
use super::options::Algorithm;
use super::options::Compression;
use crate::BlockSize;

/// A cluster's bytes, and how much of the input they hold.
#[derive(Debug, Default)]
pub(crate) struct Packed {
    pub(crate) consumed: usize,
    pub(crate) bytes: Vec<u8>,
}

/// An encoder, which can be used any number of times: no cluster depends on another.
pub(crate) trait Encode: fmt::Debug + Send + Sync {
    /// Encodes as much of the beginning of `input` as fits into `capacity` bytes, or nothing where that saves nothing.
    fn pack(&mut self, input: &[u8], capacity: usize) -> io::Result<Packed>;

    /// Forgets what it has learnt from contents before, so that what follows does not depend on them.
    fn reset(&mut self) {}
}

/// Makes an encoder.
pub(crate) fn encoder(
    compression: &Compression,
    block_size: BlockSize,
) -> io::Result<Box<dyn Encode>> {
    let levels = compression.algorithm.levels();
    let level = compression.level.clamp(*levels.start(), *levels.end());
    let cluster = compression.cluster(block_size);
    match (compression.algorithm, level, cluster) {
        #[cfg(feature = "lz4")]
        (Algorithm::Lz4, level, _) => Ok(Box::new(super::lz4::Encoder::new(level))),
        #[cfg(feature = "lzma")]
        (Algorithm::Lzma, level, cluster) => {
            Ok(Box::new(super::lzma::Encoder::new(level, cluster)?))
        }
        #[cfg(feature = "deflate")]
        (Algorithm::Deflate, level, _) => Ok(Box::new(super::deflate::Encoder::new(level))),
        #[cfg(feature = "zstd")]
        (Algorithm::Zstd, level, cluster) => {
            Ok(Box::new(super::zstd::Encoder::new(level, cluster)?))
        }
        #[cfg(not(all(
            feature = "lz4",
            feature = "lzma",
            feature = "deflate",
            feature = "zstd"
        )))]
        (algorithm, ..) => Err(io::Error::other(crate::Error::AlgorithmNotBuilt(algorithm))),
    }
}
