//! Indexes of logical clusters: of 8 bytes each, or packed.

use zerocopy::FromBytes;
use zerocopy::little_endian::{U16, U32};

use super::header::{ADVISE_BIG_PCLUSTER_1, ADVISE_BIG_PCLUSTER_2, ADVISE_COMPACTED_2B, Header};
use super::window::Window;
use crate::areas::Areas;
use crate::corruption::Detail;
use crate::error::{Error, Unsupported};
use crate::format::PCLUSTER_MAX_DSIZE;
use crate::inode::{Inode, Layout};

/// `Z_EROFS_LI_D0_CBLKCNT`: a non-head cluster's distance is a number of blocks instead.
const D0_CBLKCNT: u32 = 1 << 11;

/// The kind of extent that begins in a logical cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Data that is not compressed.
    Plain,
    /// Data of the first algorithm.
    Head1,
    /// Data of the second algorithm.
    Head2,
}

/// The beginning of an extent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Head {
    pub(super) kind: Kind,
    /// The logical cluster it is in.
    pub(super) cluster: u64,
    /// Where it is in the file, in bytes.
    pub(super) logical: u64,
    /// The block its data begins with.
    pub(super) block: u64,
}

/// A logical cluster's index.
#[derive(Clone, Copy, Debug)]
enum Index {
    /// An extent begins here, `offset` bytes into the cluster.
    Head { kind: Kind, offset: u64, block: u64 },
    /// The extent began `back` clusters before.
    Inside {
        back: u64,
        /// The blocks of the extent's data; only in the first of these clusters.
        blocks: Option<u64>,
    },
}

/// Where the index of a cluster is.
#[derive(Clone, Copy, Debug)]
enum Place {
    Full(u64),
    /// Number `index` of the pack at `pack`, which has 2 entries or 16.
    Pack {
        pack: u64,
        index: u32,
        wide: bool,
    },
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Indexes {
    layout: Layout,
    header: Header,
    clusters: u64,
    /// Packed indexes: how many are in packs of two, so that the larger packs after them are
    /// aligned.
    initial: u64,
    /// And how many are in packs of 16.
    middle: u64,
}

impl Indexes {
    pub(super) fn new(header: &Header, inode: &Inode) -> Result<Self, Error> {
        let clusters = header.clusters(inode.size);
        let compact = inode.layout == Layout::CompressedCompact;
        let large_packs = compact && header.has(ADVISE_COMPACTED_2B);
        if (compact && header.cluster_bits > 14) || (large_packs && header.cluster_bits > 12) {
            let what = Unsupported::Compression("packed indexes of such large clusters");
            return Err(Error::unsupported(inode.nid, what));
        }
        let both = ADVISE_BIG_PCLUSTER_1 | ADVISE_BIG_PCLUSTER_2;
        let big = header.advise & both;
        if compact && big != 0 && big != both {
            let what = Detail::CompressionHeader("big clusters of one algorithm only");
            return Err(inode.corrupt(header.position, what));
        }
        // Both are multiples of 4, as the header ends at a multiple of 8.
        let misaligned = header.end() & 31;
        let initial = (32_u64.saturating_sub(misaligned) & 31) >> 2;
        let middle = if large_packs && initial < clusters {
            clusters.saturating_sub(initial) & !15
        } else {
            0
        };
        Ok(Self {
            layout: inode.layout,
            header: *header,
            clusters,
            initial,
            middle,
        })
    }

    /// Returns the position of the index of `cluster`, and the end of the pack or index that holds
    /// it.
    fn place(&self, cluster: u64) -> (Place, u64) {
        let base = self.header.end();
        if self.layout == Layout::CompressedFull {
            // The legacy header takes 8 bytes more.
            let at = base
                .saturating_add(8)
                .saturating_add(cluster.saturating_mul(8));
            return (Place::Full(at), at.saturating_add(8));
        }
        let pack = |start: u64, cluster: u64, wide: bool| {
            let (shift, size) = if wide { (4, 32) } else { (1, 8) };
            let pack = start.saturating_add((cluster >> shift).saturating_mul(size));
            let index = cluster & 1_u64.wrapping_shl(shift).wrapping_sub(1);
            let index = u32::try_from(index).unwrap_or(0);
            let place = Place::Pack { pack, index, wide };
            (place, pack.saturating_add(size))
        };
        if self.middle == 0 || cluster < self.initial {
            return pack(base, cluster, false);
        }
        let start = base.saturating_add(self.initial.saturating_mul(4));
        let cluster = cluster.saturating_sub(self.initial);
        if cluster < self.middle {
            return pack(start, cluster, true);
        }
        let start = start.saturating_add(self.middle.saturating_mul(2));
        pack(start, cluster.saturating_sub(self.middle), false)
    }

    /// Where the indexes of `size` bytes of data end.
    pub(super) fn end(&self, size: u64) -> u64 {
        match self.header.clusters(size).checked_sub(1) {
            Some(last) => self.place(last).1,
            None => self.header.end(),
        }
    }

    fn corrupt(&self, inode: &Inode, cluster: u64, what: &'static str) -> Error {
        inode.corrupt(
            self.header.position,
            Detail::CompressionIndex { cluster, what },
        )
    }

    fn load<A: Areas>(
        &self,
        image: &A,
        window: &mut Window,
        inode: &Inode,
        cluster: u64,
    ) -> Result<Index, Error> {
        let cluster_size = 1_u64.wrapping_shl(self.header.cluster_bits);
        let index = match self.place(cluster).0 {
            Place::Full(at) => {
                let raw: [u8; 8] = window.array(image, at)?;
                self.full(inode, cluster, raw)?
            }
            Place::Pack {
                pack,
                index,
                wide: true,
            } => {
                let raw: [u8; 32] = window.array(image, pack)?;
                self.packed(inode, cluster, &raw, index, 16)?
            }
            Place::Pack { pack, index, .. } => {
                let raw: [u8; 8] = window.array(image, pack)?;
                self.packed(inode, cluster, &raw, index, 2)?
            }
        };
        match index {
            Index::Head { offset, .. } if offset >= cluster_size => {
                Err(self.corrupt(inode, cluster, "offset past the cluster"))
            }
            Index::Inside { back: 0, .. } => {
                Err(self.corrupt(inode, cluster, "lookback distance of 0"))
            }
            index => Ok(index),
        }
    }

    fn big(&self, kind: Kind) -> bool {
        match kind {
            Kind::Plain => false,
            Kind::Head1 => self.header.has(ADVISE_BIG_PCLUSTER_1),
            Kind::Head2 => self.header.has(ADVISE_BIG_PCLUSTER_2),
        }
    }

    /// `struct z_erofs_lcluster_index`.
    fn full(&self, inode: &Inode, cluster: u64, raw: [u8; 8]) -> Result<Index, Error> {
        let word = |at: usize| {
            let bytes = raw.get(at..).unwrap_or_default();
            U16::read_from_prefix(bytes).map_or(0, |(word, _)| word.get())
        };
        let Some(kind) = kind_of(word(0).into()) else {
            let distance = u32::from(word(4));
            if distance & D0_CBLKCNT == 0 {
                return Ok(Index::Inside {
                    back: distance.into(),
                    blocks: None,
                });
            }
            return self.block_count(inode, cluster, distance);
        };
        Ok(Index::Head {
            kind,
            offset: word(2).into(),
            block: u64::from(word(4)) | u64::from(word(6)).wrapping_shl(16),
        })
    }

    fn block_count(&self, inode: &Inode, cluster: u64, low: u32) -> Result<Index, Error> {
        if !self
            .header
            .has(ADVISE_BIG_PCLUSTER_1 | ADVISE_BIG_PCLUSTER_2)
        {
            return Err(self.corrupt(inode, cluster, "block count without big clusters"));
        }
        Ok(Index::Inside {
            back: 1,
            blocks: Some((low & !D0_CBLKCNT).into()),
        })
    }

    /// Entry `index` of a pack of `count`: codewords of equal width, and the block before the
    /// pack's first head.
    fn packed(
        &self,
        inode: &Inode,
        cluster: u64,
        pack: &[u8],
        index: u32,
        count: u32,
    ) -> Result<Index, Error> {
        let low_bits = self.header.cluster_bits.max(12);
        // 16 or 14.
        let width = if count == 2 { 16 } else { 14 };
        let word = |index: u32| {
            let bit = index.saturating_mul(width);
            let at = usize::try_from(bit >> 3).unwrap_or(usize::MAX);
            let bytes = pack.get(at..).unwrap_or_default();
            let bits = U32::read_from_prefix(bytes).map_or(0, |(bits, _)| bits.get()) >> (bit & 7);
            let low = bits & 1_u32.wrapping_shl(low_bits).wrapping_sub(1);
            (low, kind_of(bits >> low_bits))
        };
        let (low, kind) = word(index);
        let Some(kind) = kind else {
            if low & D0_CBLKCNT != 0 {
                return self.block_count(inode, cluster, low);
            }
            let back = if index.saturating_add(1) != count {
                low
            } else {
                // The last entry of a pack holds the distance to the next head instead.
                match index.checked_sub(1).map(word) {
                    Some((previous, None)) if previous & D0_CBLKCNT != 0 => 2,
                    Some((previous, None)) => previous.saturating_add(1),
                    _ => 1,
                }
            };
            return Ok(Index::Inside {
                back: back.into(),
                blocks: None,
            });
        };
        // The blocks of the heads before this one in the pack.
        let big = self.header.has(ADVISE_BIG_PCLUSTER_1);
        let mut blocks = u32::from(!big);
        let mut at = index;
        while let Some(before) = at.checked_sub(1) {
            at = before;
            let (low, kind) = word(at);
            match (kind, big) {
                (Some(_), _) => blocks = blocks.saturating_add(1),
                (None, false) => {
                    // To that extent's head, if that is in the pack.
                    match at.checked_sub(low) {
                        Some(head) => {
                            at = head;
                            blocks = blocks.saturating_add(1);
                        }
                        None => at = 0,
                    }
                }
                (None, true) if low & D0_CBLKCNT != 0 => {
                    at = at.saturating_sub(1);
                    blocks = blocks.saturating_add(low & !D0_CBLKCNT);
                }
                (None, true) => {
                    // To the cluster after the head, which has the number of blocks.
                    let Some(distance) = low.checked_sub(2) else {
                        return Err(self.corrupt(inode, cluster, "big cluster without its size"));
                    };
                    at = at.saturating_sub(distance);
                }
            }
        }
        let base = pack
            .last_chunk()
            .map_or(0, |bytes| U32::from_bytes(*bytes).get());
        Ok(Index::Head {
            kind,
            offset: low.into(),
            block: base.wrapping_add(blocks).into(),
        })
    }

    /// The beginning of the extent that byte `offset` of the file is in.
    pub(super) fn head<A: Areas>(
        &self,
        image: &A,
        window: &mut Window,
        inode: &Inode,
        offset: u64,
    ) -> Result<Head, Error> {
        let bits = self.header.cluster_bits;
        let mut cluster = offset >> bits;
        let furthest = offset.saturating_sub(PCLUSTER_MAX_DSIZE) >> bits;
        loop {
            let back = match self.load(image, window, inode, cluster)? {
                Index::Head {
                    kind,
                    offset: within,
                    block,
                } => {
                    let logical = cluster.wrapping_shl(bits).saturating_add(within);
                    if logical <= offset {
                        return Ok(Head {
                            kind,
                            cluster,
                            logical,
                            block,
                        });
                    }
                    1
                }
                Index::Inside { back, .. } => back,
            };
            cluster = match cluster.checked_sub(back) {
                // No valid extent is so long. Without this bound, long chains would take quadratic
                // time.
                Some(before) if before >= furthest => before,
                _ => return Err(self.corrupt(inode, cluster, "no extent begins before it")),
            };
        }
    }

    /// Where the extent that begins with `head` ends in the file: where the next one begins, or the
    /// file ends.
    pub(super) fn next_head<A: Areas>(
        &self,
        image: &A,
        window: &mut Window,
        inode: &Inode,
        head: &Head,
    ) -> Result<u64, Error> {
        let bits = self.header.cluster_bits;
        let furthest = head.logical.saturating_add(PCLUSTER_MAX_DSIZE);
        let mut cluster = head.cluster;
        loop {
            cluster = cluster.saturating_add(1);
            let start = cluster.wrapping_shl(bits);
            if cluster >= self.clusters {
                return Ok(inode.size);
            }
            if start > furthest {
                return Err(self.corrupt(inode, head.cluster, "extent too long"));
            }
            if let Index::Head { offset, .. } = self.load(image, window, inode, cluster)? {
                return Ok(start.saturating_add(offset).min(inode.size));
            }
        }
    }

    /// The bytes that the data of the extent that begins with `head` takes on the device.
    pub(super) fn physical_length<A: Areas>(
        &self,
        image: &A,
        window: &mut Window,
        inode: &Inode,
        head: &Head,
    ) -> Result<u64, Error> {
        let one = 1_u64.wrapping_shl(self.header.cluster_bits);
        let next = head.cluster.saturating_add(1);
        if !self.big(head.kind) || next >= self.clusters {
            return Ok(one);
        }
        match self.load(image, window, inode, next)? {
            Index::Head { .. } => Ok(one),
            Index::Inside {
                blocks: Some(blocks @ 1..),
                ..
            } => Ok(blocks.saturating_mul(image.superblock().block_size.bytes())),
            Index::Inside { .. } => Err(self.corrupt(inode, next, "big cluster without its size")),
        }
    }
}

/// Returns the kind of extent that begins in a cluster of type `bits`; none in type 2 (`NONHEAD`).
fn kind_of(bits: u32) -> Option<Kind> {
    match bits & 3 {
        0 => Some(Kind::Plain),
        1 => Some(Kind::Head1),
        3 => Some(Kind::Head2),
        _ => None,
    }
}
