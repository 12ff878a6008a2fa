//! A cache of recently decoded clusters.

use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec::Vec;

use crate::nid::Nid;
use crate::sync::Lock;

/// Bytes that the cache holds, unless a single cluster has more.
const CACHE_BYTES: usize = 8 << 20;

/// Clusters that the cache holds, so that looking for one stays cheap where they are small.
const CACHE_CLUSTERS: usize = 256;

/// Clusters by inode and position in its data: many files have their ends in one of the packed
/// inode's.
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
