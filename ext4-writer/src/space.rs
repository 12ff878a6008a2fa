//! Handing out blocks.

use std::collections::VecDeque;
use std::ops::Range;

use crate::Error;

/// How many runs from the front are looked at for one that is long enough.
const LOOKAHEAD: usize = 64;

/// The blocks that are free and those that are in use.
///
/// Blocks are first taken, then, once what they hold is complete, committed. Taken blocks that are never committed stay
/// free in the image.
#[derive(Clone, Debug)]
pub(crate) struct Space {
    free: VecDeque<Range<u64>>,
    used: Vec<Range<u64>>,
}

impl Space {
    /// All blocks of `all`, of which `reserved` (ascending, disjoint) are in use.
    pub(crate) fn new(all: Range<u64>, reserved: Vec<Range<u64>>) -> Self {
        let mut free = VecDeque::new();
        let mut next = all.start;
        for range in &reserved {
            if next < range.start {
                free.push_back(next..range.start);
            }
            next = range.end;
        }
        if next < all.end {
            free.push_back(next..all.end);
        }
        Self {
            free,
            used: reserved,
        }
    }

    /// How many blocks can still be taken.
    pub(crate) fn available(&self) -> u64 {
        self.free.iter().map(|run| run.end - run.start).sum()
    }

    /// Takes between one and `at_most` adjacent blocks: behind `behind` if they are free, else where `ideal` of them are
    /// free in a row, else the first.
    pub(crate) fn take(
        &mut self,
        at_most: u64,
        ideal: u64,
        behind: Option<u64>,
    ) -> Result<Range<u64>, Error> {
        let near = |run: &Range<u64>| Some(run.start) == behind;
        let long = |run: &Range<u64>| run.end - run.start >= ideal;
        let front = || self.free.iter().take(LOOKAHEAD);
        let at = front()
            .position(near)
            .or_else(|| front().position(long))
            .unwrap_or(0);
        let Some(run) = self.free.get_mut(at) else {
            return Err(Error::NoSpace {
                wanted: at_most,
                free: 0,
            });
        };
        let start = run.start;
        run.start = run.end.min(start + at_most);
        let end = run.start;
        if run.is_empty() {
            self.free.remove(at);
        }
        Ok(start..end)
    }

    /// Marks blocks that were taken as in use.
    pub(crate) fn commit(&mut self, range: Range<u64>) {
        match self.used.last_mut() {
            Some(last) if last.end == range.start => last.end = range.end,
            _ => self.used.push(range),
        }
    }

    /// Every block in use, as ranges in ascending order.
    pub(crate) fn into_used(mut self) -> Vec<Range<u64>> {
        self.used.sort_unstable_by_key(|range| range.start);
        self.used
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn space() -> Space {
        Space::new(0..100, vec![0..10, 12..20, 50..60])
    }

    #[test]
    fn a_run_that_holds_all_is_preferred_to_an_earlier_one() {
        let mut space = space();
        assert_eq!(space.take(5, 5, None).unwrap(), 20..25);
        assert_eq!(space.take(5, 30, Some(25)).unwrap(), 25..30);
        assert_eq!(space.take(2, 2, None).unwrap(), 10..12);
        assert_eq!(space.take(70, 70, None).unwrap(), 30..50);
        assert_eq!(space.take(70, 70, None).unwrap(), 60..100);
        assert!(space.take(1, 1, None).is_err());
    }

    #[test]
    fn what_is_not_committed_stays_free() {
        let mut space = space();
        let taken = space.take(1, 1, None).unwrap();
        let committed = space.take(1, 1, None).unwrap();
        assert_eq!((taken, committed.clone()), (10..11, 11..12));
        space.commit(committed);
        assert_eq!(space.into_used(), [0..10, 11..12, 12..20, 50..60]);
    }
}
