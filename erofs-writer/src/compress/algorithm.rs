//! Compression algorithms.

use std::fmt;
use std::ops::RangeInclusive;

/// An algorithm that kernels read (`Z_EROFS_COMPRESSION_*`). Each is a cargo feature of this crate,
/// by its [name](Self::name); none is on by default.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Algorithm {
    /// LZ4 blocks: the fastest to read. Linux 5.4, and 5.13 for clusters of several blocks.
    Lz4,
    /// MicroLZMA, raw LZMA with a byte of header: the smallest, and the slowest. Linux 5.16.
    Lzma,
    /// Raw DEFLATE. Linux 6.6.
    Deflate,
    /// Zstandard frames. Linux 6.10.
    Zstd,
}

impl Algorithm {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Lz4, Self::Lzma, Self::Deflate, Self::Zstd];

    /// The name in lower case, as of the cargo feature.
    pub fn name(self) -> &'static str {
        match self {
            Self::Lz4 => "lz4",
            Self::Lzma => "lzma",
            Self::Deflate => "deflate",
            Self::Zstd => "zstd",
        }
    }

    /// The levels it has, fastest first.
    ///
    /// ```
    /// use erofs_writer::Algorithm;
    ///
    /// assert_eq!(Algorithm::Zstd.levels(), 1..=22);
    /// ```
    pub fn levels(self) -> RangeInclusive<u8> {
        match self {
            Self::Lz4 => 0..=12,
            Self::Lzma => 0..=9,
            Self::Deflate => 1..=9,
            Self::Zstd => 1..=22,
        }
    }

    /// The level that [`Compression::new`](crate::Compression::new) takes.
    pub fn default_level(self) -> u8 {
        match self {
            Self::Lz4 => 0,
            Self::Lzma | Self::Deflate => 6,
            Self::Zstd => 3,
        }
    }

    /// Whether its cargo feature is on.
    pub fn is_available(self) -> bool {
        match self {
            Self::Lz4 => cfg!(feature = "lz4"),
            Self::Lzma => cfg!(feature = "lzma"),
            Self::Deflate => cfg!(feature = "deflate"),
            Self::Zstd => cfg!(feature = "zstd"),
        }
    }

    /// `h_algorithmtype`, and the bit of `available_compr_algs`.
    pub(crate) fn number(self) -> u8 {
        match self {
            Self::Lz4 => 0,
            Self::Lzma => 1,
            Self::Deflate => 2,
            Self::Zstd => 3,
        }
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
