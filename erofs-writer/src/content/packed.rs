//! The packed inode: a hidden file of which other files' contents are fragments.

use hashbrown::HashTable;

use crate::compress::{
    Compression, Cutter, Extent, Fingerprint, Hasher, Rest, Run, Secret, Ticket,
};

/// The packed inode's contents, of which most are in the image or on their way there.
///
/// They are cut into pieces as large files are. A piece is written when the next one is full: that is at the same place among the
/// other contents whatever the number of threads.
#[derive(Debug)]
pub(super) struct Packed {
    pub(super) cutter: Cutter,
    pub(super) compression: Compression,
    /// The length of everything.
    pub(super) size: u64,
    /// What is not given away.
    pub(super) bytes: Vec<u8>,
    pub(super) under_way: Option<Ticket>,
    pub(super) extents: Vec<Extent>,
    pub(super) runs: Vec<Run>,
    /// What of the last piece is to stand after the inode.
    pub(super) rest: Rest,
    pub(super) known: Known,
}

/// Where which fragment is. Fragments are not kept.
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

    /// Where the fragment `bytes` is, or `None` after noting that it will be at `offset`.
    pub(super) fn find_or_add(&mut self, bytes: &[u8], offset: u64) -> Option<u64> {
        let mut hasher = Hasher::new(&self.secret);
        hasher.update(bytes);
        let fingerprint = hasher.get();
        let fragments = &self.fragments;
        let same = |&i: &u32| fragments[i as usize].0 == fingerprint;
        if let Some(&i) = self.index.find(hash(&fingerprint), same) {
            return Some(fragments[i as usize].1);
        }
        // What comes after so many is not looked for.
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
