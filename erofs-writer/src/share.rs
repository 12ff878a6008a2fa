//! Clusters of a file that others have already.
//!
//! Contents that were cut alike have equal clusters, wherever these are in them. Those of files that are in one piece are looked for
//! where there are fragments: kernels that read these read indexes that point anywhere, as mkfs.erofs makes them.

use std::io::{Seek, Write};

use xxhash_rust::xxh3::xxh3_128;

use crate::compress::{Cut, Extent, Fragments};
use crate::format::LclusterIndex;
use crate::{Builder, Error};

/// The clusters of one file.
#[derive(Debug, Default)]
pub(crate) struct Clusters {
    /// Extents whose blocks are others', by their numbers in the file, and where those begin.
    pub(crate) shared: Vec<(u32, u64)>,
    /// Those that have blocks of their own.
    pub(crate) own: Vec<Cluster>,
}

/// A cluster that others may share.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cluster {
    /// Its extent's number in the file.
    pub(crate) extent: u32,
    /// Bytes of its blocks.
    size: u64,
    digest: u128,
}

impl<W: Write + Seek> Builder<W> {
    /// Finds clusters that are stored already, and takes their blocks out of `cut`, which is all contents of a file of `size` bytes.
    pub(crate) fn share_clusters(&mut self, cut: &mut Cut, size: u64) -> Result<Clusters, Error> {
        let block_size = self.options.block_size;
        let mut clusters = Clusters::default();
        let Some(dedupe) = &self.dedupe else {
            return Ok(clusters);
        };
        let all = cut.blocks.len() as u64;
        if self.options.fragments == Fragments::None
            || dedupe.find(xxh3_128(&cut.blocks), all).is_some()
        {
            // All of it is better than parts.
            return Ok(clusters);
        }
        let length = |extent: &Extent| usize::from(extent.blocks) * block_size.bytes() as usize;
        let (mut start, mut saved) = (0, 0);
        for (extent, number) in cut.extents.iter().zip(0..) {
            let bytes = &cut.blocks[start..][..length(extent)];
            start += bytes.len();
            // What did not shrink may have no indexes at all.
            if extent.plain {
                continue;
            }
            let (digest, len) = (xxh3_128(bytes), bytes.len() as u64);
            match dedupe.find(digest, len) {
                Some(block)
                    if dedupe.holds(&mut self.output, block_size.position(block), bytes)? =>
                {
                    clusters.shared.push((number, block));
                    saved += len;
                }
                _ => clusters.own.push(Cluster {
                    extent: number,
                    size: len,
                    digest,
                }),
            }
        }
        // Only full indexes say where each cluster is.
        if saved <= block_size.count(size) * size_of::<LclusterIndex>() as u64 {
            clusters.shared.clear();
            return Ok(clusters);
        }
        self.deduplicated += saved;
        let mut shared = clusters.shared.iter().peekable();
        let (mut start, mut kept) = (0, 0);
        for (extent, number) in cut.extents.iter().zip(0..) {
            let end = start + length(extent);
            if shared.next_if(|(of, _)| *of == number).is_none() {
                cut.blocks.copy_within(start..end, kept);
                kept += end - start;
            }
            start = end;
        }
        cut.blocks.truncate(kept);
        Ok(clusters)
    }

    /// Notes a cluster that begins at `block`.
    pub(crate) fn add_cluster(&mut self, cluster: &Cluster, block: u64) {
        if let Some(dedupe) = &mut self.dedupe {
            dedupe.add(cluster.digest, cluster.size, block);
        }
    }
}
