//! The packed inode: a hidden file of which other files' contents are fragments.

use hashbrown::HashTable;

use crate::compress::{
    Compression, Cutter, Extent, Fingerprint, Hasher, Rest, Run, Secret, Ticket,
};

/// The contents of the packed inode, most of which are written or submitted already.
///
/// They are cut into pieces like large files. A piece is written when the next one is full, so that
/// its place among the other contents does not depend on the number of threads.
#[derive(Debug)]
pub(super) struct Packed {
    pub(super) cutter: Cutter,
    pub(super) compression: Compression,
    /// The length of everything.
    pub(super) size: u64,
    /// The part that is not submitted yet.
    pub(super) bytes: Vec<u8>,
    pub(super) under_way: Option<Ticket>,
    pub(super) extents: Vec<Extent>,
    pub(super) runs: Vec<Run>,
    /// The part of the last piece that is to follow the inode.
    pub(super) rest: Rest,
    pub(super) known: Known,
}

/// The offsets of fragments by fingerprint. Fragments themselves are not kept.
#[derive(Debug)]
pub(super) struct Known {
    secret: Secret,
    fragments: Vec<(Fingerprint, u64)>,
    index: HashTable<u32>,
}

impl Known {
    pub(super) fn new() -> Self {
        Self {
            secret: Secret::new(),
            fragments: Vec::new(),
            index: HashTable::new(),
        }
    }

    /// Returns the offset of the fragment `bytes`, or records that it will be at `offset` and
    /// returns `None`.
    pub(super) fn find_or_add(&mut self, bytes: &[u8], offset: u64) -> Option<u64> {
        let mut hasher = Hasher::new(&self.secret);
        hasher.update(bytes);
        let fingerprint = hasher.get();
        let fragments = &self.fragments;
        let same = |&i: &u32| fragments[i as usize].0 == fingerprint;
        if let Some(&i) = self.index.find(hash(&fingerprint), same) {
            return Some(fragments[i as usize].1);
        }
        // Fragments beyond this number are not indexed.
        let i = u32::try_from(fragments.len()).ok()?;
        self.fragments.push((fingerprint, offset));
        let hash_of = |&i: &u32| hash(&self.fragments[i as usize].0);
        self.index.insert_unique(hash(&fingerprint), i, hash_of);
        None
    }
}

/// Any part of a fingerprint will do.
fn hash(fingerprint: &Fingerprint) -> u64 {
    fingerprint
        .first_chunk()
        .map_or(0, |bytes| u64::from_le_bytes(*bytes))
}
