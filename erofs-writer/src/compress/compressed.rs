//! The layout of compressed contents in the image.

use super::algorithm::Algorithm;
use super::extent::Extent;

/// Compressed contents that are in the image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Compressed {
    pub(crate) size: u64,
    pub(crate) algorithm: Algorithm,
    /// Clusters have several blocks, so that each says how many.
    pub(crate) big: bool,
    pub(crate) extents: Vec<Extent>,
    /// Where the extents' blocks lie, one after the other, in order.
    pub(crate) runs: Vec<Run>,
    pub(crate) tail: Tail,
}

/// Extents whose blocks lie one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    /// The first extent's index.
    pub(crate) first: u32,
    /// Its first block.
    pub(crate) block: u64,
}

/// How compressed contents end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tail {
    /// With a cluster like the others.
    Cluster,
    /// With a cluster of `length` bytes after the indexes (`h_idata_size`), kept with the tails.
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

    /// The offset of the contents in the packed inode, if all of them are there.
    pub(crate) fn whole_fragment(&self) -> Option<u64> {
        match self.tail {
            Tail::Fragment { offset } if self.extents.len() <= 1 => Some(offset),
            _ => None,
        }
    }

    /// Whether packed indexes cannot express where the contents are.
    pub(crate) fn needs_full_indexes(&self) -> bool {
        let far = matches!(self.tail, Tail::Fragment { offset } if offset > u32::MAX.into());
        let partial = self.extents.iter().any(|extent| extent.partial);
        far || partial || self.runs.len() > 1
    }

    /// Bytes after the indexes, which must not cross a block border.
    pub(crate) fn inline_length(&self) -> u64 {
        match self.tail {
            Tail::Inline { length, .. } => length.into(),
            _ => 0,
        }
    }
}
