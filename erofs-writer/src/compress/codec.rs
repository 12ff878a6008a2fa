//! The encoders by algorithm.

use std::io;

#[cfg(feature = "compression")]
use super::algorithm::Algorithm;
use super::encode::Encode;
use super::options::Compression;
use crate::block_size::BlockSize;

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
