//! What became of contents that were compressed or to be compressed.

use super::cut::Extent;
use super::options::Compression;
use crate::BlockSize;

/// What the contents of an image make use of, which its superblock says.
#[derive(Debug, Default)]
pub(crate) struct Used {
    /// By algorithm's number: the largest cluster in bytes.
    pub(crate) clusters: [Option<u32>; 4],
    pub(crate) inline: bool,
    /// Clusters of which extents use a part alone.
    pub(crate) partial: bool,
}

impl Used {
    pub(crate) fn new(contents: &[Contents], block_size: BlockSize) -> Self {
        let mut used = Self::default();
        for contents in contents {
            if let Place::Compressed(contents) = &contents.place {
                let cluster = contents.compression.cluster(block_size);
                let largest =
                    &mut used.clusters[usize::from(contents.compression.algorithm.number())];
                *largest = (*largest).max(Some(cluster));
                used.partial |= contents.extents.iter().any(|extent| extent.partial);
                used.inline |= matches!(contents.tail, Tail::Inline { .. });
            }
        }
        used
    }

    /// A bit for each algorithm (`available_compr_algs`).
    pub(crate) fn algorithms(&self) -> u16 {
        let used = (0..).zip(&self.clusters).filter(|(_, used)| used.is_some());
        used.map(|(number, _)| 1_u16 << number).sum()
    }
}

/// Contents given to the threads, and where they are in the end.
#[derive(Clone, Debug)]
pub(crate) struct Contents {
    /// Bytes.
    pub(crate) size: u64,
    pub(crate) place: Place,
}

/// Where such contents are.
#[derive(Clone, Debug)]
pub(crate) enum Place {
    /// Not known yet.
    Pending,
    /// In one piece, not compressed: nothing shrank.
    Flat { block: u64 },
    /// The same, the partial last block being kept in the tree's arena.
    Tail { block: u64, kept: u64 },
    /// Compressed.
    Compressed(Box<Compressed>),
}

/// Compressed contents that are in the image.
#[derive(Clone, Debug)]
pub(crate) struct Compressed {
    pub(crate) size: u64,
    pub(crate) compression: Compression,
    pub(crate) extents: Box<[Extent]>,
    /// Where the extents' blocks lie, one behind the other.
    pub(crate) runs: Runs,
    pub(crate) tail: Tail,
}

/// Extents whose blocks lie one behind the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    /// The first extent's index.
    pub(crate) first: u32,
    /// Its first block.
    pub(crate) block: u64,
}

/// All runs of a file: mostly one.
#[derive(Clone, Debug)]
pub(crate) enum Runs {
    One { block: u64 },
    Many(Box<[Run]>),
}

impl Runs {
    pub(crate) fn new(runs: &[Run]) -> Self {
        match runs {
            [] => Self::One { block: 0 },
            [one] => Self::One { block: one.block },
            many => Self::Many(many.into()),
        }
    }

    /// The block that begins a run with extent `index`.
    pub(crate) fn start(&self, index: usize) -> Option<u64> {
        match self {
            Self::One { block } => (index == 0).then_some(*block),
            Self::Many(runs) => runs
                .binary_search_by_key(&index, |run| run.first as usize)
                .ok()
                .map(|i| runs[i].block),
        }
    }
}

/// How compressed contents end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tail {
    /// With a cluster like the others.
    Cluster,
    /// With a cluster of `length` bytes behind the indexes (`h_idata_size`), kept in the tree's arena.
    Inline { kept: u64, length: u16 },
    /// With what is at `offset` of the packed inode (`h_fragmentoff`).
    Fragment { offset: u64 },
}

impl Compressed {
    /// The blocks of all extents (`i_u.compressed_blocks`).
    pub(crate) fn blocks(&self) -> u64 {
        let blocks = self.extents.iter().map(|extent| u64::from(extent.blocks));
        blocks.sum()
    }

    /// Where in the packed inode all of the contents are, if they are.
    pub(crate) fn whole_fragment(&self) -> Option<u64> {
        match self.tail {
            Tail::Fragment { offset } if self.extents.len() <= 1 => Some(offset),
            _ => None,
        }
    }

    /// Whether packed indexes cannot tell where the contents are.
    pub(crate) fn needs_full_indexes(&self) -> bool {
        let far = matches!(self.tail, Tail::Fragment { offset } if offset > u32::MAX.into());
        let partial = self.extents.iter().any(|extent| extent.partial);
        far || partial || matches!(self.runs, Runs::Many(_))
    }

    /// Bytes behind the indexes, which must not cross a block border.
    pub(crate) fn inline_length(&self) -> u64 {
        match self.tail {
            Tail::Inline { length, .. } => length.into(),
            _ => 0,
        }
    }
}
