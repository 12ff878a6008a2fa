//! Ranges of metadata and their owners.

use alloc::collections::BTreeMap;

use crate::corruption::Detail;
use crate::corruption::Structure;
use crate::nid::{Area, Nid};

/// The owner of a range of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Owner {
    Inode(Nid),
    Structure(Structure),
}

impl Owner {
    /// The corruption of metadata that overlaps this owner's bytes.
    pub(super) fn overlapped(self, start: u64, end: u64) -> Detail {
        match self {
            Self::Inode(other) => Detail::MetadataOverlap { start, end, other },
            Self::Structure(other) => Detail::StructureOverlap { start, end, other },
        }
    }

    /// The corruption of data that overlaps this owner's bytes.
    pub(super) fn holds_data(self, start: u64, end: u64) -> Detail {
        match self {
            Self::Inode(other) => Detail::DataInMetadata { start, end, other },
            Self::Structure(other) => Detail::StructureOverlap { start, end, other },
        }
    }
}

/// Disjoint ranges of bytes and their owners.
#[derive(Debug, Default)]
pub(super) struct Ranges(BTreeMap<(Area, u64), (u64, Owner)>);

impl Ranges {
    /// Claims `start..end` for `owner`, or returns the owner of a part that is claimed already.
    pub(super) fn claim(
        &mut self,
        area: Area,
        start: u64,
        end: u64,
        owner: Owner,
    ) -> Result<(), Owner> {
        if let Some(other) = self.overlapping(area, start, end) {
            return Err(other);
        }
        if start < end {
            self.0.insert((area, start), (end, owner));
        }
        Ok(())
    }

    /// An owner of a part of `start..end`.
    pub(super) fn overlapping(&self, area: Area, start: u64, end: u64) -> Option<Owner> {
        // Ranges are disjoint, so only the last one that begins before `end` can reach past
        // `start`.
        let (_, &(last, owner)) = self.0.range((area, 0)..(area, end)).next_back()?;
        (last > start && start < end).then_some(owner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_that_only_touch_do_not_overlap() {
        let mut ranges = Ranges::default();
        let one = Owner::Inode(Nid::new(1));
        let two = Owner::Structure(Structure::DeviceTable);
        assert_eq!(ranges.claim(Area::Primary, 32, 64, one), Ok(()));
        assert_eq!(ranges.claim(Area::Primary, 64, 96, two), Ok(()));
        assert_eq!(ranges.claim(Area::Primary, 0, 32, two), Ok(()));
        assert_eq!(ranges.claim(Area::Metabox, 40, 50, two), Ok(()));
        assert_eq!(ranges.claim(Area::Primary, 95, 100, one), Err(two));
        assert_eq!(ranges.claim(Area::Primary, 0, 200, one), Err(two));
        assert_eq!(ranges.claim(Area::Primary, 40, 41, two), Err(one));
        assert_eq!(ranges.overlapping(Area::Primary, 50, 50), None);
    }
}
