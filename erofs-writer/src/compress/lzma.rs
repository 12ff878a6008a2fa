//! MicroLZMA: raw LZMA without an end mark, whose first byte, always 0, is the complement of the
//! properties (`xz_dec_microlzma` in the kernel).

use std::fmt;
use std::io;

use lzma_rust2::{LzmaOptions, MicroLzmaEncoder};

use super::algorithm::Algorithm;
use super::encode::{Encode, Packed};

/// Kernels refuse dictionaries larger than `Z_EROFS_LZMA_MAX_DICT_SIZE` and smaller than 4096
/// bytes.
const DICTIONARY_MAX: u32 = 8 << 20;
const DICTIONARY_MIN: u32 = 32 << 10;

/// The bytes that a decoder of clusters of `cluster` bytes keeps.
pub(crate) fn dictionary_size(cluster: u32) -> u32 {
    (cluster * 8)
        .next_power_of_two()
        .clamp(DICTIONARY_MIN, DICTIONARY_MAX)
}

pub(crate) struct Encoder {
    encoder: MicroLzmaEncoder,
}

impl fmt::Debug for Encoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Encoder").finish_non_exhaustive()
    }
}

impl Encoder {
    pub(crate) fn new(level: u8, cluster: u32) -> io::Result<Self> {
        let mut options = LzmaOptions::with_preset(level.into());
        options.dict_size = dictionary_size(cluster);
        if level == Algorithm::Lzma.default_level() {
            // A tenth less time than with liblzma's 64 and 48, and two thousandths more bytes at
            // most.
            options.nice_len = 36;
            options.depth_limit = 16;
        }
        Ok(Self {
            encoder: MicroLzmaEncoder::new(&options)?,
        })
    }
}

impl Encode for Encoder {
    fn pack(&mut self, input: &[u8], capacity: usize) -> io::Result<Packed> {
        let mut bytes = vec![0; capacity];
        let (consumed, written) = self.encoder.compress_prefix(input, &mut bytes)?;
        bytes.truncate(written);
        Ok(Packed { consumed, bytes })
    }
}
