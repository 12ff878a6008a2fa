//! Compressed data: locating and decoding physical clusters.

pub(crate) mod cache;
#[cfg(any(feature = "deflate", feature = "lz4", feature = "lzma"))]
mod copy;
pub(crate) mod decode;
#[cfg(feature = "deflate")]
mod deflate;
mod encoded;
mod header;
mod index;
#[cfg(feature = "lz4")]
mod lz4;
#[cfg(feature = "lzma")]
mod lzma;
mod mapper;
mod window;

pub(crate) use mapper::CompressedMapper;
