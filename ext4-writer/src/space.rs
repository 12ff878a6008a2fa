//! Allocation of blocks.

use std::collections::VecDeque;
use std::ops::Range;

use crate::Error;

/// The number of runs, from the first, that are examined for one that is long enough.
const LOOKAHEAD: usize = 64;

/// The blocks that are free; all others are in use.
///
/// Blocks are first taken, and then committed when their contents are complete, or rolled back.
#[derive(Clone, Debug)]
pub(crate) struct Space {
    all: Range<u64>,
    /// Ascending, disjoint.
    free: VecDeque<Range<u64>>,
    /// Neither free nor committed, in the order in which they were taken.
    taken: Vec<Range<u64>>,
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
            all,
            free,
            taken: Vec::new(),
        }
    }

    /// How many blocks can still be taken.
    pub(crate) fn available(&self) -> u64 {
        self.free.iter().map(|run| run.end - run.start).sum()
    }

    /// Takes between one and `at_most` adjacent blocks: after `after` if they are free, else where
    /// `ideal` of them are free in a row, else the first.
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
        self.taken.push(start..end);
        Ok(start..end)
    }

    /// Marks all blocks taken since the last call as in use.
    pub(crate) fn commit(&mut self) {
        self.taken.clear();
    }

    /// Frees all blocks taken since they were committed last.
    pub(crate) fn roll_back(&mut self) {
        for range in std::mem::take(&mut self.taken).into_iter().rev() {
            self.free(range);
        }
    }

    /// Frees blocks in use.
    pub(crate) fn free(&mut self, range: Range<u64>) {
        if !range.is_empty() {
            let behind = self.free.partition_point(|run| run.start < range.start);
            match self.free.get_mut(behind) {
                Some(run) if run.start == range.end => run.start = range.start,
                _ => self.free.insert(behind, range),
            }
        }
    }

    /// Every block in use, as ranges in ascending order.
    pub(crate) fn into_used(self) -> Vec<Range<u64>> {
        let mut used = Vec::with_capacity(self.free.len() + 1);
        let mut next = self.all.start;
        for free in self.free {
            if next < free.start {
                used.push(next..free.start);
            }
            next = free.end;
        }
        if next < self.all.end {
            used.push(next..self.all.end);
        }
        used
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
    fn freed_blocks_are_taken_again() {
        let mut space = space();
        for _ in 0..3 {
            space.take(5, 5, None).unwrap();
        }
        space.commit();
        space.free(25..30);
        assert_eq!(space.clone().into_used(), [0..10, 12..25, 30..35, 50..60]);
        space.free(20..25);
        assert_eq!(space.take(10, 10, None).unwrap(), 20..30);
    }

    #[test]
    fn rolled_back_allocations_are_free_again() {
        let mut space = space();
        space.take(1, 1, None).unwrap();
        space.commit();
        let before = space.free.clone();
        for _ in 0..3 {
            space.take(30, 30, None).unwrap();
        }
        space.roll_back();
        assert_eq!(space.free, before);
        assert_eq!(space.into_used(), [0..11, 12..20, 50..60]);
    }
}
