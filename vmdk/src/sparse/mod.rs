//! Sparse images: grains that are not all zeros, found through a grain directory and grain tables.

mod format;
mod plan;
mod read;
mod stream;
mod write;

pub(crate) use read::{SparseExtent, embedded_descriptor, is_sparse};
pub use stream::write_stream_optimized;
pub use write::write_monolithic_sparse;

use crate::Progress;

/// How [`write_monolithic_sparse`] and [`write_stream_optimized`] write.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SparseOptions {
    /// The name of the image file, as its embedded descriptor says it. Readers ignore it.
    pub name: String,
    /// The size of a grain, in 512-byte sectors: a power of two from 8 to 8192. Every VMware
    /// product writes 128.
    pub grain_sectors: u64,
    /// The descriptor's `CID`; without it [`write_monolithic_sparse`] takes the
    /// [`ContentId`](crate::ContentId), and [`write_stream_optimized`], which writes the descriptor
    /// before it knows the contents, a hash of name and size.
    pub cid: Option<u32>,
    /// How hard to compress, from 1 to 9; streamOptimized only.
    pub compression: u32,
    /// Reports how much of the disk is written.
    pub progress: Option<Progress>,
}

impl Default for SparseOptions {
    fn default() -> Self {
        Self {
            name: "disk.vmdk".to_owned(),
            grain_sectors: 128,
            cid: None,
            compression: 6,
            progress: None,
        }
    }
}

impl SparseOptions {
    /// Sets [`name`](Self::name).
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// Sets [`grain_sectors`](Self::grain_sectors).
    #[must_use]
    pub fn grain_sectors(mut self, sectors: u64) -> Self {
        self.grain_sectors = sectors;
        self
    }

    /// Sets [`cid`](Self::cid).
    #[must_use]
    pub fn cid(mut self, cid: impl Into<Option<u32>>) -> Self {
        self.cid = cid.into();
        self
    }

    /// Sets [`compression`](Self::compression).
    #[must_use]
    pub fn compression(mut self, level: u32) -> Self {
        self.compression = level;
        self
    }

    /// Sets [`progress`](Self::progress).
    #[must_use]
    pub fn progress(mut self, progress: impl Into<Option<Progress>>) -> Self {
        self.progress = progress.into();
        self
    }
}

/// What was written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct SparseSummary {
    /// Grains stored.
    pub grains: u64,
    /// Grains of zeros only, which are not stored.
    pub zero_grains: u64,
    /// The size of the image file in bytes.
    pub bytes: u64,
}
