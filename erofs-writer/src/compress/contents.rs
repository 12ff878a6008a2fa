//! The results of compressing contents.

use super::compressed::{Compressed, Tail};
use super::options::Compression;
use super::record;
use crate::BlockSize;

/// The features that contents use, for the superblock.
#[derive(Debug, Default)]
pub(crate) struct Used {
    /// By algorithm's number: the largest cluster in bytes.
    pub(crate) clusters: [Option<u32>; 4],
    pub(crate) inline: bool,
    /// Whether extents use parts of clusters.
    pub(crate) partial: bool,
}

impl Used {
    fn note(&mut self, contents: &Compressed, compression: Compression, block_size: BlockSize) {
        let largest = &mut self.clusters[usize::from(compression.algorithm.number())];
        *largest = (*largest).max(Some(compression.cluster(block_size)));
        self.partial |= contents.extents.iter().any(|extent| extent.partial);
        self.inline |= matches!(contents.tail, Tail::Inline { .. });
    }

    /// A bit for each algorithm (`available_compr_algs`).
    pub(crate) fn algorithms(&self) -> u16 {
        let used = (0..).zip(&self.clusters).filter(|(_, used)| used.is_some());
        used.map(|(number, _)| 1_u16 << number).sum()
    }
}

/// All contents that were submitted to the threads, in a few bytes each, since there may be as many
/// as inodes.
#[derive(Debug, Default)]
pub(crate) struct Contents {
    list: Vec<Kept>,
    /// Those that are compressed.
    records: Vec<u8>,
    used: Used,
}

#[derive(Clone, Copy, Debug)]
struct Kept {
    /// Bytes.
    size: u64,
    place: Place,
}

/// The state or place of such contents.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Place {
    /// Not known yet.
    Pending,
    /// In one piece, not compressed: nothing shrank.
    Flat { block: u64 },
    /// In one piece, except for the partial last block, which is in the builder's list of tails.
    Tail { index: u64 },
    /// Compressed; the record begins at this position.
    Compressed { record: u64 },
}

impl Contents {
    /// Adds contents of `size` bytes; gives their index.
    pub(crate) fn add(&mut self, size: u64, place: Place) -> usize {
        self.list.push(Kept { size, place });
        self.list.len() - 1
    }

    /// The index of the contents that will be added next.
    pub(crate) fn next_index(&self) -> usize {
        self.list.len()
    }

    /// The length of contents, if there are any with this index.
    pub(crate) fn size(&self, index: u64) -> Option<u64> {
        Some(self.get(index)?.size)
    }

    /// Where contents are.
    pub(crate) fn place(&self, index: u64) -> Option<Place> {
        Some(self.get(index)?.place)
    }

    pub(crate) fn set_place(&mut self, index: usize, place: Place) {
        self.list[index].place = place;
    }

    /// Records compressed contents.
    pub(crate) fn record(
        &mut self,
        contents: &Compressed,
        compression: Compression,
        block_size: BlockSize,
    ) -> Place {
        self.used.note(contents, compression, block_size);
        let record = self.records.len() as u64;
        record::put(&mut self.records, contents);
        Place::Compressed { record }
    }

    /// Contents, if they are compressed.
    pub(crate) fn compressed(&self, index: u64) -> Option<Compressed> {
        let Kept { size, place } = *self.get(index)?;
        let Place::Compressed { record } = place else {
            return None;
        };
        Some(record::get(self.records.get(record as usize..)?, size))
    }

    pub(crate) fn used(&self) -> &Used {
        &self.used
    }

    fn get(&self, index: u64) -> Option<&Kept> {
        self.list.get(usize::try_from(index).ok()?)
    }
}
