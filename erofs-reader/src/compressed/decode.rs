//! From the bytes of a physical cluster to the file's.

use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;

use crate::error::{Corruption, Error, Unsupported};
use crate::extent::Algorithm;
use crate::inode::{Inode, Nid};
use crate::sync::Lock;

/// Decodes `input` to exactly `length` bytes, which the caller has bounded. A cluster may hold more: it is then shared by
/// files that begin alike.
pub(crate) fn decode(
    inode: &Inode,
    algorithm: Algorithm,
    padded: bool,
    input: &[u8],
    length: usize,
) -> Result<Vec<u8>, Error> {
    // The data ends where the cluster does, and zeros fill up its beginning; in images from before that feature it is the
    // other way round, and where the data ends shows when it is decoded.
    let zeros = input.iter().take_while(|&&byte| byte == 0).count();
    let input = if padded {
        input.get(zeros..).unwrap_or_default()
    } else {
        input
    };
    let Some(decoder) = decoder(algorithm) else {
        let what = Unsupported::Compression(algorithm.name());
        return Err(Error::unsupported(inode.nid, what));
    };
    let mut output = vec![0; length];
    match decoder(input, &mut output) {
        Some(()) => Ok(output),
        None => {
            let what = Corruption::Decompression(algorithm.name());
            Err(inode.corrupt(inode.position, what))
        }
    }
}

/// Decodes `input` until `output` is full, with what was built in; `None` where it cannot. For the fuzz targets, so that
/// mutations meet the decoders alone.
#[doc(hidden)]
pub fn decode_cluster(algorithm: Algorithm, input: &[u8], output: &mut [u8]) -> Option<()> {
    decoder(algorithm)?(input, output)
}

/// Decodes the first argument until the second is full; `None` where it cannot.
type Decoder = fn(&[u8], &mut [u8]) -> Option<()>;

/// The decoder of `algorithm`, if it was built in.
fn decoder(algorithm: Algorithm) -> Option<Decoder> {
    match algorithm {
        #[cfg(feature = "lz4")]
        Algorithm::Lz4 => Some(super::lz4::decode),
        #[cfg(feature = "lzma")]
        Algorithm::Lzma => Some(lzma),
        #[cfg(feature = "deflate")]
        Algorithm::Deflate => Some(deflate),
        #[cfg(feature = "zstd")]
        Algorithm::Zstd => Some(zstd),
        #[allow(unreachable_patterns, reason = "with all features there is no other")]
        _ => None,
    }
}

/// MicroLZMA: a raw LZMA stream whose first byte, always 0 otherwise, holds the properties, inverted.
#[cfg(feature = "lzma")]
fn lzma(input: &[u8], output: &mut [u8]) -> Option<()> {
    #[cfg(not(feature = "std"))]
    use lzma_rust2::Read;
    #[cfg(feature = "std")]
    use std::io::Read;
    /// Bytes that LZMA's longest match has.
    const LONGEST_MATCH: u64 = 273;
    let (&first, rest) = input.split_first()?;
    let properties = !first;
    // As of every LZMA stream: (pb * 5 + lp) * 9 + lc.
    if properties >= 225 {
        return None;
    }
    let lc = properties.checked_rem(9)?;
    let lp = properties.checked_div(9)?.checked_rem(5)?;
    let pb = properties.checked_div(45)?;
    // liblzma, which the kernel's decoder follows, allows no more.
    if lc.checked_add(lp)? > 4 {
        return None;
    }
    let length = crate::num::wide(output.len());
    // A match reaches back to the beginning of the output at most.
    let dictionary = u32::try_from(length).ok()?.max(4096);
    let stream = [&[0][..], rest].concat();
    // The decoder takes a match across the end for an error, but a cluster may hold more than is asked for.
    let mut reader = lzma_rust2::LzmaReader::new(
        &stream[..],
        length.saturating_add(LONGEST_MATCH),
        lc.into(),
        lp.into(),
        pb.into(),
        dictionary,
        None,
    )
    .ok()?;
    reader.read_exact(output).ok()
}

#[cfg(feature = "deflate")]
fn deflate(input: &[u8], output: &mut [u8]) -> Option<()> {
    use std::io::Read;
    flate2::bufread::DeflateDecoder::new(input)
        .read_exact(output)
        .ok()
}

#[cfg(feature = "zstd")]
fn zstd(input: &[u8], output: &mut [u8]) -> Option<()> {
    use std::io::Read;
    /// log2 of the window: twice `Z_EROFS_ZSTD_MAX_DICT_SIZE`.
    const WINDOW_LOG_MAX: u32 = 21;
    let mut decoder = zstd::stream::read::Decoder::with_buffer(input).ok()?;
    decoder.window_log_max(WINDOW_LOG_MAX).ok()?;
    decoder.read_exact(output).ok()
}

/// Bytes that the cache holds, unless a single cluster has more.
const CACHE_BYTES: usize = 8 << 20;

/// Clusters that the cache holds, so that looking for one stays cheap where they are small.
const CACHE_CLUSTERS: usize = 256;

/// Clusters decoded lately, by inode and position in its data: many files have their ends in one of the packed inode's.
#[derive(Debug, Default)]
pub(crate) struct PclusterCache(Lock<VecDeque<Entry>>);

#[derive(Debug)]
struct Entry {
    key: (Nid, u64),
    bytes: Arc<Vec<u8>>,
}

impl PclusterCache {
    pub(crate) fn get(&self, nid: Nid, logical: u64) -> Option<Arc<Vec<u8>>> {
        self.0.with(|entries| {
            let found = entries.iter().find(|entry| entry.key == (nid, logical));
            found.map(|entry| Arc::clone(&entry.bytes))
        })
    }

    pub(crate) fn put(&self, nid: Nid, logical: u64, bytes: &Arc<Vec<u8>>) {
        self.0.with(|entries| {
            entries.push_back(Entry {
                key: (nid, logical),
                bytes: Arc::clone(bytes),
            });
            let mut held = entries
                .iter()
                .fold(0, |sum: usize, entry| sum.saturating_add(entry.bytes.len()));
            while (held > CACHE_BYTES || entries.len() > CACHE_CLUSTERS) && entries.len() > 1 {
                let oldest = entries.pop_front().map_or(0, |entry| entry.bytes.len());
                held = held.saturating_sub(oldest);
            }
        });
    }
}
