//! Which bytes belong to whose metadata.

use alloc::collections::BTreeMap;

use crate::image::Area;
use crate::inode::Nid;

/// Disjoint ranges of bytes and their owners.
#[derive(Debug, Default)]
pub(super) struct Ranges(BTreeMap<(Area, u64), (u64, Nid)>);

impl Ranges {
    /// Claims `start..end` for `nid`, or says whose a part of it is already.
    pub(super) fn claim(&mut self, area: Area, start: u64, end: u64, nid: Nid) -> Result<(), Nid> {
        if let Some(other) = self.overlapping(area, start, end) {
            return Err(other);
        }
        if start < end {
            self.0.insert((area, start), (end, nid));
        }
        Ok(())
    }

    /// An owner of a part of `start..end`.
    pub(super) fn overlapping(&self, area: Area, start: u64, end: u64) -> Option<Nid> {
        // Ranges are disjoint, so only the last one that begins before `end` can reach past `start`.
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
        let (one, two) = (Nid::new(1), Nid::new(2));
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
