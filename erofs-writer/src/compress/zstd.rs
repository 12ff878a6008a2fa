//! Zstandard frames, without checksum and size, which EROFS has no use for.

use std::fmt;
use std::io;

use zstd::bulk::Compressor;
use zstd::zstd_safe::{CParameter, compress_bound};

use super::encode::{Encode, Packed};
use super::fit::Fit;

/// `ZSTD_WINDOWLOG_ABSOLUTEMIN`, from which `z_erofs_zstd_cfgs`' `windowlog` counts.
pub(crate) const WINDOW_LOG_MIN: u32 = 10;
/// `Z_EROFS_ZSTD_MAX_DICT_SIZE`, 1 MiB.
const WINDOW_LOG_MAX: u32 = 20;

/// log2 of the bytes that a decoder of clusters of `cluster` bytes keeps.
pub(crate) fn window_log(cluster: u32) -> u32 {
    (cluster * 8)
        .next_power_of_two()
        .trailing_zeros()
        .clamp(WINDOW_LOG_MIN, WINDOW_LOG_MAX)
}

pub(crate) struct Encoder {
    compressor: Compressor<'static>,
    fit: Fit,
}

impl fmt::Debug for Encoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Encoder").finish_non_exhaustive()
    }
}

impl Encoder {
    pub(crate) fn new(level: u8, cluster: u32) -> io::Result<Self> {
        let mut compressor = Compressor::new(level.into())?;
        compressor.set_parameter(CParameter::WindowLog(window_log(cluster)))?;
        compressor.set_parameter(CParameter::ContentSizeFlag(false))?;
        compressor.set_parameter(CParameter::ChecksumFlag(false))?;
        Ok(Self {
            compressor,
            fit: Fit::new(if level > 9 { 8 } else { 6 }),
        })
    }
}

impl Encode for Encoder {
    fn reset(&mut self) {
        self.fit.reset();
    }

    fn pack(&mut self, input: &[u8], capacity: usize) -> io::Result<Packed> {
        let compressor = &mut self.compressor;
        self.fit.pack(input, capacity, |input, out| {
            out.resize(compress_bound(input.len()), 0);
            let size = compressor.compress_to_buffer(input, &mut out[..])?;
            out.truncate(size);
            Ok(())
        })
    }
}
