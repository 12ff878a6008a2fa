//! Encoded extents: a table of extents of any position and length (Linux 6.15).

use zerocopy::FromBytes;
use zerocopy::little_endian::{U32, U64};

use super::header::{
    ADVISE_FRAGMENT_PCLUSTER, ADVISE_INTERLACED_PCLUSTER, Header, interlaced, known_algorithm,
};
use super::window::Window;
use crate::areas::Areas;
use crate::corruption::Detail;
use crate::error::Error;
use crate::extent::{Extent, Source};
use crate::inode::Inode;
use crate::num::align_up;

/// `Z_EROFS_EXTENT_PLEN_MASK`.
const PLEN_MASK: u32 = (1 << 21) - 1;
/// `Z_EROFS_EXTENT_PLEN_FMT_BIT`.
const PLEN_FORMAT_SHIFT: u32 = 28;

#[derive(Debug)]
pub(super) struct EncodedExtents {
    /// Where the table begins in the inode's area.
    start: u64,
    /// Bytes in a record: 4, 8, 16 or 32.
    record: u64,
    /// How many records there are, where they say where they begin in the file.
    count: u64,
    cluster_bits: u32,
    /// Records of 4 bytes: the cluster that comes next, and where its data begins.
    next: Option<(u64, u64)>,
}

/// A record, with the part of the file it covers.
struct Found {
    plen: u32,
    pstart: u64,
    start: u64,
    end: u64,
    last: bool,
}

impl EncodedExtents {
    pub(super) fn new(header: &Header, inode: &Inode) -> Result<Self, Error> {
        let record = 4_u64.wrapping_shl(u32::from(header.advise >> 1) & 3);
        let start = align_up(header.end(), record)
            .ok_or_else(|| inode.corrupt(header.position, Detail::AddressOverflow))?;
        Ok(Self {
            start,
            record,
            count: u64::from(header.low) | u64::from(header.high).wrapping_shl(32),
            cluster_bits: header.cluster_bits,
            next: None,
        })
    }

    /// Where the table of a file of `size` bytes ends.
    pub(super) fn end(&self, size: u64) -> u64 {
        let clusters = size.div_ceil(1_u64.wrapping_shl(self.cluster_bits));
        let (first, count) = match self.record {
            4 => (8, clusters),
            8 => (0, clusters),
            _ => (0, self.count),
        };
        self.start
            .saturating_add(first)
            .saturating_add(count.saturating_mul(self.record))
    }

    pub(super) fn at<A: Areas>(
        &mut self,
        image: &A,
        window: &mut Window,
        inode: &Inode,
        header: &Header,
        offset: u64,
    ) -> Result<Extent, Error> {
        let found = match self.record {
            4 => self.summed(image, window, inode, offset)?,
            8 => self.by_cluster(image, window, inode, offset)?,
            _ => self.by_position(image, window, inode, offset)?,
        };
        let mut extent = Extent {
            logical: found.start,
            length: found.end.saturating_sub(found.start),
            source: Source::Hole,
        };
        if found.last && header.has(ADVISE_FRAGMENT_PCLUSTER) {
            let high = if self.record > 4 { found.pstart } else { 0 };
            let offset = u64::from(found.plen) | high.wrapping_shl(32);
            extent.source = Source::Fragment { offset };
            return Ok(extent);
        }
        let length = u64::from(found.plen & PLEN_MASK);
        if length == 0 {
            return Ok(extent);
        }
        let unit = image.superblock().block_size;
        let (device, block) = image
            .storage()
            .locate(inode.nid, 0, found.pstart >> unit.bits())?;
        let position = block.saturating_add(unit.within(found.pstart));
        let data = Source::Data {
            device,
            offset: position,
        };
        extent.source = match found.plen >> PLEN_FORMAT_SHIFT {
            0 => {
                if extent.length > length {
                    let what =
                        Detail::CompressionHeader("more bytes than an uncompressed extent has");
                    return Err(inode.corrupt(self.start, what));
                }
                extent.source = data;
                if header.has(ADVISE_INTERLACED_PCLUSTER) && unit.within(found.pstart) == 0 {
                    return Ok(interlaced(extent, unit.bytes(), offset));
                }
                data
            }
            format => {
                let number = u8::try_from(format.saturating_sub(1)).unwrap_or(u8::MAX);
                Source::Compressed {
                    device,
                    offset: position,
                    length,
                    algorithm: known_algorithm(image, inode, self.start, number)?,
                }
            }
        };
        Ok(extent)
    }

    /// One record of 4 bytes for each cluster: lengths, of data that lies together.
    fn summed<A: Areas>(
        &mut self,
        image: &A,
        window: &mut Window,
        inode: &Inode,
        offset: u64,
    ) -> Result<Found, Error> {
        let wanted = offset >> self.cluster_bits;
        let (mut cluster, mut pstart) = match self.next {
            // Going on from the last one, so that reading in order takes linear time.
            Some(next) if next.0 <= wanted => next,
            _ => {
                let raw: [u8; 8] = window.array(image, self.start)?;
                (0, U64::from_bytes(raw).get())
            }
        };
        loop {
            let at = self
                .start
                .saturating_add(8)
                .saturating_add(cluster.saturating_mul(4));
            let raw: [u8; 4] = window.array(image, at)?;
            let plen = U32::from_bytes(raw).get();
            if cluster == wanted {
                self.next = Some((cluster, pstart));
                return Ok(self.cluster(inode, cluster, plen, pstart));
            }
            pstart = pstart.saturating_add((plen & PLEN_MASK).into());
            cluster = cluster.saturating_add(1);
        }
    }

    /// One record of 8 bytes for each cluster.
    fn by_cluster<A: Areas>(
        &self,
        image: &A,
        window: &mut Window,
        inode: &Inode,
        offset: u64,
    ) -> Result<Found, Error> {
        let cluster = offset >> self.cluster_bits;
        let at = self.start.saturating_add(cluster.saturating_mul(8));
        let raw: [u8; 8] = window.array(image, at)?;
        let whole = U64::from_bytes(raw).get();
        let plen = u32::try_from(whole & 0xffff_ffff).unwrap_or(0);
        Ok(self.cluster(inode, cluster, plen, whole >> 32))
    }

    fn cluster(&self, inode: &Inode, cluster: u64, plen: u32, pstart: u64) -> Found {
        let size = 1_u64.wrapping_shl(self.cluster_bits);
        let start = cluster.saturating_mul(size);
        let end = start.saturating_add(size);
        Found {
            plen,
            pstart,
            start,
            end: end.min(inode.size),
            last: end >= inode.size,
        }
    }

    /// Records that say where they begin in the file, in order: the last one that begins at or
    /// before `offset`.
    fn by_position<A: Areas>(
        &self,
        image: &A,
        window: &mut Window,
        inode: &Inode,
        offset: u64,
    ) -> Result<Found, Error> {
        let mut found = None;
        let mut end = inode.size;
        let (mut low, mut high) = (0, self.count);
        while low < high {
            let middle = low.midpoint(high);
            let at = self
                .start
                .saturating_add(middle.saturating_mul(self.record));
            // `struct z_erofs_extent`, of which a record of 16 bytes is the first part.
            let raw: [u8; 16] = window.array(image, at)?;
            let word = |index: usize| {
                let bytes = raw.get(index.saturating_mul(4)..).unwrap_or_default();
                U32::read_from_prefix(bytes).map_or(0, |(word, _)| word.get())
            };
            let mut start = u64::from(word(3));
            if self.record > 16 {
                let raw: [u8; 4] = window.array(image, at.saturating_add(16))?;
                start |= u64::from(U32::from_bytes(raw).get()).wrapping_shl(32);
            }
            if start > offset {
                high = middle;
                if start > end {
                    let what = Detail::CompressionHeader("extents out of order");
                    return Err(inode.corrupt(at, what));
                }
                end = start;
            } else {
                low = middle.saturating_add(1);
                let pstart = u64::from(word(1)) | u64::from(word(2)).wrapping_shl(32);
                found = Some((word(0), pstart, start));
            }
        }
        let Some((plen, pstart, start)) = found else {
            let what = Detail::CompressionHeader("no extent at the file's beginning");
            return Err(inode.corrupt(self.start, what));
        };
        Ok(Found {
            plen,
            pstart,
            start,
            end,
            last: low >= self.count,
        })
    }
}
