//! Decoding physical clusters.

#[cfg(feature = "zstd")]
use alloc::vec;
use alloc::vec::Vec;
use core::fmt;

use crate::algorithm::Algorithm;
use crate::corruption::Detail;
use crate::error::{Error, Unsupported};
use crate::nid::Nid;
use crate::sync::Lock;

/// The decoders of all built-in algorithms, with the state that they keep between clusters.
#[derive(Default)]
pub(crate) struct Decoders {
    #[cfg(feature = "deflate")]
    deflate: super::deflate::Decoder,
    #[cfg(feature = "lzma")]
    lzma: Option<super::lzma::Decoder>,
    #[cfg(feature = "zstd")]
    zstd: Option<zstd::zstd_safe::DCtx<'static>>,
}

/// Decoders that are not in use, kept so that small reads need not create new ones.
#[derive(Debug, Default)]
pub(crate) struct SpareDecoders(Lock<Vec<Decoders>>);

/// Decoders that are kept: about as many as threads read at once.
const SPARE: usize = 16;

impl SpareDecoders {
    /// Lends decoders to `f`.
    pub(crate) fn with<O>(&self, f: impl FnOnce(&mut Decoders) -> O) -> O {
        let mut decoders = self.0.with(Vec::pop).unwrap_or_default();
        let result = f(&mut decoders);
        self.0.with(|spare| {
            if spare.len() < SPARE {
                spare.push(decoders);
            }
        });
        result
    }
}

/// The algorithm was not built in.
struct NotBuiltIn;

impl fmt::Debug for Decoders {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Decoders").finish_non_exhaustive()
    }
}

impl Decoders {
    /// Decodes `input`, a cluster of the inode `nid` at `position`, until `output` is full. A
    /// cluster may hold more: files that begin alike then share it.
    pub(crate) fn decode(
        &mut self,
        (nid, position): (Nid, u64),
        algorithm: Algorithm,
        padded: bool,
        input: &[u8],
        output: &mut [u8],
    ) -> Result<(), Error> {
        // The data ends where the cluster does, and zeros fill up its beginning; in images from
        // before that feature it is the other way round, and where the data ends shows when it is
        // decoded.
        let input = if padded {
            without_padding(input)
        } else {
            input
        };
        let decoded = self.run(algorithm, input, output).map_err(|NotBuiltIn| {
            let what = Unsupported::Compression(algorithm.name());
            Error::unsupported(nid, what)
        })?;
        decoded.ok_or_else(|| {
            let what = Detail::Decompression(algorithm.name());
            Error::corrupt(nid, position, what)
        })
    }

    /// Decodes `input` until `output` is full, or returns `None`.
    #[cfg_attr(
        not(any(
            feature = "deflate",
            feature = "lz4",
            feature = "lzma",
            feature = "zstd"
        )),
        expect(unused_variables, reason = "there is nothing to decode with")
    )]
    fn run(
        &mut self,
        algorithm: Algorithm,
        input: &[u8],
        output: &mut [u8],
    ) -> Result<Option<()>, NotBuiltIn> {
        match algorithm {
            #[cfg(feature = "lz4")]
            Algorithm::Lz4 => Ok(super::lz4::decode(input, output)),
            #[cfg(feature = "lzma")]
            Algorithm::Lzma => {
                let decoder = self.lzma.get_or_insert_default();
                Ok(decoder.decode(input, output))
            }
            #[cfg(feature = "deflate")]
            Algorithm::Deflate => Ok(self.deflate.decode(input, output)),
            #[cfg(feature = "zstd")]
            Algorithm::Zstd => Ok(self.zstd(input, output)),
            #[allow(unreachable_patterns, reason = "with all features there is no other")]
            _ => Err(NotBuiltIn),
        }
    }

    #[cfg(feature = "zstd")]
    fn zstd(&mut self, input: &[u8], output: &mut [u8]) -> Option<()> {
        if output.is_empty() {
            return Some(());
        }
        let decoder = match &mut self.zstd {
            Some(decoder) => decoder,
            None => self.zstd.insert(zstd::zstd_safe::DCtx::try_create()?),
        };
        match decoder.decompress(output, input) {
            Ok(length) => return (length == output.len()).then_some(()),
            Err(ZSTD_TOO_SMALL) => {}
            Err(_) => return None,
        }
        // The cluster holds more than was requested. A larger buffer shows how much.
        let mut room = output.len();
        let most = crate::num::narrow(crate::format::PCLUSTER_MAX_DSIZE);
        while room < most {
            room = room.saturating_mul(4).min(most);
            let mut whole = vec![0; room];
            match decoder.decompress(&mut whole[..], input) {
                Ok(length) => {
                    output.copy_from_slice(whole.get(..length)?.get(..output.len())?);
                    return Some(());
                }
                Err(ZSTD_TOO_SMALL) => {}
                Err(_) => return None,
            }
        }
        None
    }
}

/// Returns the bytes after the leading zeros of a cluster, of which there may be almost a block.
fn without_padding(input: &[u8]) -> &[u8] {
    let (words, _) = input.as_chunks::<16>();
    let words = words.iter().take_while(|&&word| word == [0; 16]).count();
    let rest = input.get(words.wrapping_mul(16)..).unwrap_or_default();
    let zeros = rest.iter().take_while(|&&byte| byte == 0).count();
    rest.get(zeros..).unwrap_or_default()
}

/// `ZSTD_error_dstSize_tooSmall`, as libzstd returns it.
#[cfg(feature = "zstd")]
const ZSTD_TOO_SMALL: usize = 70_usize.wrapping_neg();

/// Decodes `input` until `output` is full, or returns `None`. For the fuzz targets, whose mutations
/// then reach only the decoders.
#[doc(hidden)]
pub fn decode_cluster(algorithm: Algorithm, input: &[u8], output: &mut [u8]) -> Option<()> {
    Decoders::default()
        .run(algorithm, input, output)
        .ok()
        .flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn padding_ends_where_the_data_begins() {
        for zeros in 0..70 {
            for length in 0..40 {
                let mut input = vec![0; zeros];
                input.extend((0..length).map(|byte| if byte % 3 == 0 { 7 } else { 0 }));
                assert_eq!(without_padding(&input), &input[zeros..]);
            }
        }
    }
}
