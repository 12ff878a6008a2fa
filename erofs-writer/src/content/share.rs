//! Sharing clusters between files.
//!
//! Contents that were cut alike have equal clusters, at any position. Those of files that are in
//! one piece are looked for where there are fragments: kernels that read these read indexes that
//! point anywhere, as mkfs.erofs makes them.

use std::io::{Seek, Write};

use xxhash_rust::xxh3::xxh3_128;

use super::dedupe::Dedupe;
use crate::compress::{Cut, Extent, Fragments};
use crate::error::Error;
use crate::format::LclusterIndex;
use crate::options::Options;
use crate::output::Output;

/// The clusters of one file.
#[derive(Debug, Default)]
pub(super) struct Clusters {
    /// Extents that use the blocks of others, by their numbers in the file, and the addresses of
    /// those blocks.
    pub(super) shared: Vec<(u32, u64)>,
    /// Those that have blocks of their own.
    pub(super) own: Vec<Cluster>,
}

/// A cluster that others may share.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cluster {
    /// Its extent's number in the file.
    pub(super) extent: u32,
    /// Bytes of its blocks.
    pub(super) size: u64,
    pub(super) digest: u128,
}

/// Finds clusters that are stored already, and removes their blocks from `cut`, which has all
/// contents of a file of `size` bytes. Also returns how many bytes that saves.
pub(super) fn share_clusters<W: Write + Seek>(
    dedupe: Option<&Dedupe<W>>,
    output: &mut Output<W>,
    options: &Options,
    cut: &mut Cut,
    size: u64,
) -> Result<(Clusters, u64), Error> {
    let block_size = options.block_size;
    let mut clusters = Clusters::default();
    let Some(dedupe) = dedupe else {
        return Ok((clusters, 0));
    };
    let all = cut.blocks.len() as u64;
    if options.fragments == Fragments::None || dedupe.find(xxh3_128(&cut.blocks), all).is_some() {
        // Sharing the whole file is better than sharing parts.
        return Ok((clusters, 0));
    }
    let length = |extent: &Extent| usize::from(extent.blocks) * block_size.bytes() as usize;
    let (mut start, mut saved) = (0, 0);
    for (extent, number) in cut.extents.iter().zip(0..) {
        let bytes = &cut.blocks[start..][..length(extent)];
        start += bytes.len();
        // Contents that did not shrink may have no indexes.
        if extent.plain {
            continue;
        }
        let (digest, len) = (xxh3_128(bytes), bytes.len() as u64);
        match dedupe.find(digest, len) {
            Some(block) if dedupe.holds(output, block_size.position(block), bytes)? => {
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
        return Ok((clusters, 0));
    }
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
    Ok((clusters, saved))
}
