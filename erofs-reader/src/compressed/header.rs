//! An inode's compression header, and what both kinds of block maps share.

use crate::algorithm::Algorithm;
use crate::areas::Areas;
use crate::corruption::Detail;
use crate::error::{Error, Unsupported};
use crate::extent::{Extent, Source};
use crate::inode::Inode;

pub(super) const ADVISE_COMPACTED_2B: u16 = 0x01;
/// The same bit, of inodes with full indexes.
pub(super) const ADVISE_EXTENTS: u16 = 0x01;
pub(super) const ADVISE_BIG_PCLUSTER_1: u16 = 0x02;
pub(super) const ADVISE_BIG_PCLUSTER_2: u16 = 0x04;
pub(super) const ADVISE_INLINE_PCLUSTER: u16 = 0x08;
pub(super) const ADVISE_INTERLACED_PCLUSTER: u16 = 0x10;
pub(super) const ADVISE_FRAGMENT_PCLUSTER: u16 = 0x20;

/// `struct z_erofs_map_header`, decoded.
#[derive(Clone, Copy, Debug)]
pub(super) struct Header {
    /// Where it begins in the inode's area.
    pub(super) position: u64,
    pub(super) advise: u16,
    /// Of HEAD1 and HEAD2 clusters.
    pub(super) algorithms: [u8; 2],
    /// log2 of the logical cluster size in bytes.
    pub(super) cluster_bits: u32,
    pub(super) inline_size: u16,
    /// `h_fragmentoff`, `h_extents_lo`.
    pub(super) low: u32,
    /// `h_extents_hi`.
    pub(super) high: u16,
}

impl Header {
    pub(super) fn has(&self, advise: u16) -> bool {
        self.advise & advise != 0
    }

    /// The position after the header.
    pub(super) fn end(&self) -> u64 {
        self.position.saturating_add(8)
    }

    /// The number of logical clusters of `size` bytes of data.
    pub(super) fn clusters(&self, size: u64) -> u64 {
        size.div_ceil(1_u64.wrapping_shl(self.cluster_bits))
    }
}

/// The part of an uncompressed cluster that byte `offset` of the file is in. The cluster is one
/// block, taken as a ring: a byte of the file lies at its own offset modulo the block size.
pub(super) fn interlaced(extent: Extent, block: u64, offset: u64) -> Extent {
    let Source::Data {
        device,
        offset: start,
    } = extent.source
    else {
        return extent;
    };
    let skip = extent.logical & block.wrapping_sub(1);
    let first = block.saturating_sub(skip).min(extent.length);
    let border = extent.logical.saturating_add(first);
    if offset < border {
        Extent {
            logical: extent.logical,
            length: first,
            source: Source::Data {
                device,
                offset: start.saturating_add(skip),
            },
        }
    } else {
        Extent {
            logical: border,
            length: extent.length.saturating_sub(first),
            source: extent.source,
        }
    }
}

/// The algorithm `number`, which the image must have declared.
pub(super) fn known_algorithm<A: Areas>(
    image: &A,
    inode: &Inode,
    position: u64,
    number: u8,
) -> Result<Algorithm, Error> {
    let algorithm = match number {
        0 => Algorithm::Lz4,
        1 => Algorithm::Lzma,
        2 => Algorithm::Deflate,
        3 => Algorithm::Zstd,
        _ => {
            return Err(Error::unsupported(
                inode.nid,
                Unsupported::Compression("unknown algorithm"),
            ));
        }
    };
    let declared = image.superblock().compression_algorithms;
    if declared & 1_u16.wrapping_shl(number.into()) == 0 {
        let what = Detail::CompressionHeader("an algorithm that the superblock does not list");
        return Err(inode.corrupt(position, what));
    }
    Ok(algorithm)
}
