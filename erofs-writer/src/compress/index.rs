//! Indexes of logical clusters, one for each block of contents: the extent that begins in it, and
//! its address.

use zerocopy::IntoBytes;

use super::compressed::{Compressed, Tail};
use crate::BlockSize;
use crate::format::{LclusterIndex, MapHeader};

/// `Z_EROFS_ADVISE_*`.
const ADVISE_COMPACTED_2B: u16 = 0x1;
const ADVISE_BIG_PCLUSTER_1: u16 = 0x2;
const ADVISE_BIG_PCLUSTER_2: u16 = 0x4;
const ADVISE_INLINE_PCLUSTER: u16 = 0x8;
const ADVISE_FRAGMENT_PCLUSTER: u16 = 0x20;
/// `Z_EROFS_FRAGMENT_INODE_BIT`, the highest of the header: the rest of it is where in the packed
/// inode all contents are.
const FRAGMENT_INODE: u64 = 1 << 63;

/// `Z_EROFS_LCLUSTER_TYPE_*`.
const PLAIN: u16 = 0;
const HEAD1: u16 = 1;
const NONHEAD: u16 = 2;

/// `Z_EROFS_LI_D0_CBLKCNT`: a distance is a number of blocks instead.
const D0_CBLKCNT: u16 = 1 << 11;
/// `Z_EROFS_LI_PARTIAL_REF`, of a full index.
const PARTIAL_REF: u16 = 1 << 15;
/// Packed indexes have 12 bits of position at least, above them two of type.
const PACKED_LOW_BITS: u32 = 12;

/// Bytes of header and indexes, which begin at `start`, a multiple of 8.
pub(crate) fn map_length(
    contents: &Compressed,
    start: u64,
    block_size: BlockSize,
    full: bool,
) -> u64 {
    let header = size_of::<MapHeader>() as u64;
    if contents.whole_fragment().is_some() {
        return header;
    }
    let clusters = block_size.count(contents.size);
    if full {
        return header + 8 + clusters * size_of::<LclusterIndex>() as u64;
    }
    let packs = Packs::new(start + header, clusters);
    header + packs.initial * 4 + packs.middle * 2 + packs.last.next_multiple_of(2) * 4
}

/// How many indexes are in packs of two, then of 16, then of two again.
#[derive(Debug)]
struct Packs {
    initial: u64,
    middle: u64,
    last: u64,
}

impl Packs {
    /// Packs of 16 are aligned to their 32 bytes.
    fn new(start: u64, clusters: u64) -> Self {
        let initial = start.next_multiple_of(32) - start;
        let initial = (initial / 4).min(clusters.next_multiple_of(2));
        let rest = clusters.saturating_sub(initial);
        Self {
            initial,
            middle: rest & !15,
            last: rest & 15,
        }
    }
}

/// The index of a logical cluster.
#[derive(Clone, Copy, Debug)]
struct Cluster {
    kind: u16,
    /// Where in it the extent begins.
    offset: u16,
    /// The extent's first block.
    block: u64,
    partial: bool,
    /// The distance to the extent's beginning, or its number of blocks; and the distance to the
    /// next extent.
    distances: [u16; 2],
}

/// Writes header and indexes to `map`, whose first byte is at `start` of the metadata area.
pub(crate) fn put_map(
    map: &mut [u8],
    start: u64,
    contents: &Compressed,
    block_size: BlockSize,
    full: bool,
) {
    let (head, rest) = map.split_at_mut(size_of::<MapHeader>());
    if let Some(offset) = contents.whole_fragment() {
        head.copy_from_slice(&(offset | FRAGMENT_INODE).to_le_bytes());
        return;
    }
    let big = contents.big;
    head.copy_from_slice(header(contents, big, full).as_bytes());
    if full {
        let mut entries = rest[8..].chunks_exact_mut(8);
        each_cluster(contents, block_size, full, |cluster| {
            if let Some(entry) = entries.next() {
                entry.copy_from_slice(full_index(&cluster).as_bytes());
            }
        });
        return;
    }
    let clusters = block_size.count(contents.size);
    let mut packer = Packer {
        packs: Packs::new(start + size_of::<MapHeader>() as u64, clusters),
        rest,
        done: 0,
        group: Vec::with_capacity(16),
        big,
    };
    each_cluster(contents, block_size, full, |cluster| packer.push(cluster));
    packer.end_pack();
}

/// Writes packs as they become full.
struct Packer<'a> {
    packs: Packs,
    rest: &'a mut [u8],
    /// What was written.
    done: u64,
    group: Vec<Cluster>,
    big: bool,
}

impl Packer<'_> {
    fn push(&mut self, cluster: Cluster) {
        self.group.push(cluster);
        if self.group.len() == self.pack() {
            self.end_pack();
        }
    }

    /// How many indexes the pack that is being filled has.
    fn pack(&self) -> usize {
        let middle = self.packs.initial..self.packs.initial + self.packs.middle;
        if middle.contains(&self.done) { 16 } else { 2 }
    }

    fn end_pack(&mut self) {
        let pack = self.pack();
        let bytes = if pack == 16 { 32 } else { 8 };
        if self.group.is_empty() {
            return;
        }
        let (out, behind) = std::mem::take(&mut self.rest).split_at_mut(bytes);
        put_pack(out, &self.group, pack, self.big);
        self.rest = behind;
        self.done += self.group.len() as u64;
        self.group.clear();
    }
}

fn header(contents: &Compressed, big: bool, full: bool) -> MapHeader {
    let mut advise = if full { 0 } else { ADVISE_COMPACTED_2B };
    if big {
        advise |= ADVISE_BIG_PCLUSTER_1 | ADVISE_BIG_PCLUSTER_2;
    }
    let mut header = MapHeader {
        h_algorithmtype: contents.algorithm.number(),
        ..MapHeader::default()
    };
    match contents.tail {
        Tail::Cluster => {}
        Tail::Inline { length, .. } => {
            advise |= ADVISE_INLINE_PCLUSTER;
            header.h_idata_size = length.into();
        }
        Tail::Fragment { offset } => {
            advise |= ADVISE_FRAGMENT_PCLUSTER;
            // The lower half of `h_fragmentoff`, in the same place.
            header.h_reserved1 = (offset as u16).into();
            header.h_idata_size = ((offset >> 16) as u16).into();
        }
    }
    header.h_advise = advise.into();
    header
}

fn full_index(cluster: &Cluster) -> LclusterIndex {
    let [low, high] = match cluster.kind {
        NONHEAD => cluster.distances,
        _ => [cluster.block as u16, (cluster.block >> 16) as u16],
    };
    LclusterIndex {
        di_advise: match cluster.partial {
            true => cluster.kind | PARTIAL_REF,
            false => cluster.kind,
        }
        .into(),
        di_clusterofs: cluster.offset.into(),
        di_u: [low.into(), high.into()],
    }
}

/// Produces the index of each logical cluster, in order. If no extent begins in the last, partial
/// cluster, an extent without data is placed at the end of the contents.
fn each_cluster(
    contents: &Compressed,
    block_size: BlockSize,
    full: bool,
    mut tell: impl FnMut(Cluster),
) {
    let bits = block_size.bits();
    let mask = u64::from(block_size.bytes()) - 1;
    let count = block_size.count(contents.size);
    let mut told = 0;
    let mut runs = contents.runs.iter().peekable();
    let mut block = 0;
    let mut position = 0;
    for (i, extent) in contents.extents.iter().enumerate() {
        if let Some(run) = runs.next_if(|run| run.first as usize == i) {
            block = run.block;
        }
        let end = position + u64::from(extent.length);
        let first = position >> bits;
        // Of the last extent: the cluster in which the contents end.
        let next = (end >> bits).max(first + 1);
        tell(Cluster {
            kind: if extent.plain { PLAIN } else { HEAD1 },
            offset: (position & mask) as u16,
            block: match contents.tail {
                // Of what is a fragment, the upper half of `h_fragmentoff`.
                Tail::Fragment { offset } if full && i + 1 == contents.extents.len() => {
                    offset >> 32
                }
                _ => block,
            },
            partial: extent.partial,
            distances: [0; 2],
        });
        for cluster in first + 1..next {
            let back = (cluster - first) as u16;
            let distance = match back {
                1 if contents.big => D0_CBLKCNT | extent.blocks.max(1),
                _ => back.min(D0_CBLKCNT - 1),
            };
            tell(Cluster {
                kind: NONHEAD,
                offset: 0,
                block: 0,
                partial: false,
                distances: [distance, (next - cluster) as u16],
            });
        }
        block += u64::from(extent.blocks);
        position = end;
        told = next;
    }
    if told < count {
        tell(Cluster {
            kind: PLAIN,
            offset: (position & mask) as u16,
            block,
            partial: false,
            distances: [0; 2],
        });
    }
}

/// Writes a pack: codewords of equal width, then the block from which its extents' are counted.
fn put_pack(out: &mut [u8], group: &[Cluster], count: usize, big: bool) {
    let width = (out.len() - 4) * 8 / count;
    for (i, cluster) in group.iter().enumerate() {
        let low = match cluster.kind {
            NONHEAD if cluster.distances[0] & D0_CBLKCNT != 0 => cluster.distances[0],
            // The last entry of a pack says how far the next extent is instead.
            NONHEAD if i + 1 == count => cluster.distances[1].min(D0_CBLKCNT - 1),
            NONHEAD => cluster.distances[0],
            _ => cluster.offset,
        };
        let word = u32::from(low) | u32::from(cluster.kind) << PACKED_LOW_BITS;
        let bit = i * width;
        let shifted = (word << (bit % 8)).to_le_bytes();
        for (byte, part) in out[bit / 8..].iter_mut().zip(&shifted[..3]) {
            *byte |= part;
        }
    }
    let first = group.iter().find(|cluster| cluster.kind != NONHEAD);
    // Readers go back from an extent to the pack's start and add up blocks on the way: one for
    // each, itself included, or with clusters of several blocks what the entries before it say.
    let before = match group[0].distances[0] {
        _ if !big => 1,
        blocks if blocks & D0_CBLKCNT != 0 => u64::from(blocks & !D0_CBLKCNT),
        _ => 0,
    };
    let base = first.map_or(0, |cluster| cluster.block.wrapping_sub(before) as u32);
    let at = out.len() - 4;
    out[at..].copy_from_slice(&base.to_le_bytes());
}
