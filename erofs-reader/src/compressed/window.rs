//! A cache of the part of an inode's compression metadata that was read last.

use alloc::vec::Vec;

use crate::areas::Areas;
use crate::error::Error;
use crate::inode::Inode;
use crate::num::{narrow, wide};

/// Bytes to read at once, from a multiple of this on; and some more, so that no record crosses the
/// end.
const LENGTH: u64 = 4096;
const OVERLAP: u64 = 64;

#[derive(Debug)]
pub(super) struct Window {
    inode: Inode,
    start: u64,
    bytes: Vec<u8>,
}

impl Window {
    pub(super) fn new(inode: &Inode) -> Self {
        Self {
            inode: *inode,
            start: 0,
            bytes: Vec::new(),
        }
    }

    /// The `N` bytes at `position` of the inode's area; `N` is 64 at most.
    pub(super) fn array<const N: usize, A: Areas>(
        &mut self,
        image: &A,
        position: u64,
    ) -> Result<[u8; N], Error> {
        if let Some(found) = self.get(position) {
            return Ok(found);
        }
        let (area, nid) = (self.inode.area(), self.inode.nid);
        self.start = position & !LENGTH.wrapping_sub(1);
        self.bytes.resize(narrow(LENGTH.saturating_add(OVERLAP)), 0);
        let got = image.read_area_upto(area, nid, &mut self.bytes, self.start)?;
        self.bytes.truncate(got);
        self.get(position)
            .ok_or_else(|| image.beyond(area, nid, position, wide(N)))
    }

    fn get<const N: usize>(&self, position: u64) -> Option<[u8; N]> {
        let within = narrow(position.checked_sub(self.start)?);
        self.bytes.get(within..)?.first_chunk().copied()
    }
}
