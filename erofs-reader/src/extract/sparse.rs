//! Maps of sparse files, as GNU tar's format 1.0 has them.
//!
//! See "Storing Sparse Files" in the GNU tar manual. The map is text at the beginning of an entry's
//! body: the number of ranges, then each one's offset and length, a number a line, padded to a
//! whole number of blocks.

use super::pieces::Pieces;
use crate::error::Error;
use crate::image::Image;
use crate::inode::Inode;
use crate::read_at::ReadAt;

/// A hole shorter than this is written as zeros: its entry in the map would save little.
const MIN_HOLE: u64 = 4096;

/// Ranges that a map has at most. Go's `archive/tar` refuses a map over 1 MiB, and no range takes
/// more than 40 bytes.
const MAX_RANGES: usize = 20_000;

/// Where a file has data. The rest are holes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SparseMap {
    /// Start and end of each range, ascending; they do not touch.
    ranges: Vec<(u64, u64)>,
    min_hole: u64,
    size: u64,
}

impl SparseMap {
    /// The map of the file `inode`; `None` for one without holes that are worth leaving out.
    pub(super) fn of<R: ReadAt>(image: &Image<R>, inode: &Inode) -> Result<Option<Self>, Error> {
        let mut map = Self {
            ranges: Vec::new(),
            min_hole: MIN_HOLE,
            size: inode.size(),
        };
        for piece in Pieces::new(image, inode)? {
            let piece = piece?;
            if !piece.is_hole() {
                map.add(piece.start, piece.start.saturating_add(piece.length));
            }
        }
        map.finish();
        Ok((map.stored() < map.size).then_some(map))
    }

    fn add(&mut self, start: u64, end: u64) {
        let (start, last) = match self.ranges.last_mut() {
            Some(last) => (start, Some(last)),
            None if start < self.min_hole => (0, None),
            None => (start, None),
        };
        match last {
            Some(last) if start.saturating_sub(last.1) < self.min_hole => last.1 = end,
            _ => self.ranges.push((start, end)),
        }
        while self.ranges.len() > MAX_RANGES {
            self.min_hole = self.min_hole.saturating_mul(2);
            self.join();
        }
    }

    /// Makes one of the ranges that only short holes are between.
    fn join(&mut self) {
        let mut joined: Vec<(u64, u64)> = Vec::new();
        for &(start, end) in &self.ranges {
            match joined.last_mut() {
                Some(last) if start.saturating_sub(last.1) < self.min_hole => last.1 = end,
                None if start < self.min_hole => joined.push((0, end)),
                _ => joined.push((start, end)),
            }
        }
        self.ranges = joined;
    }

    fn finish(&mut self) {
        if let Some(last) = self.ranges.last_mut()
            && self.size.saturating_sub(last.1) < self.min_hole
        {
            last.1 = self.size;
        }
    }

    /// How many bytes the ranges have together.
    pub(super) fn stored(&self) -> u64 {
        self.ranges.iter().fold(0, |sum: u64, (start, end)| {
            sum.saturating_add(end.saturating_sub(*start))
        })
    }

    /// Whether byte `offset` of the file is in a range.
    pub(super) fn contains(&self, offset: u64) -> bool {
        let after = self.ranges.partition_point(|&(start, _)| start <= offset);
        let range = after.checked_sub(1).and_then(|at| self.ranges.get(at));
        range.is_some_and(|&(_, end)| offset < end)
    }

    /// The map as text, not padded yet.
    pub(super) fn encode(&self) -> Vec<u8> {
        use std::fmt::Write;
        // As GNU tar has it: a range without bytes where a file that ends with a hole ends.
        let end = (self.size, self.size);
        let ends_with_hole = self.ranges.last().is_none_or(|last| last.1 < self.size);
        let ranges = self
            .ranges
            .iter()
            .copied()
            .chain(ends_with_hole.then_some(end));
        let mut text = String::new();
        let mut count = 0_usize;
        for (start, end) in ranges {
            count = count.saturating_add(1);
            // Writing to a `String` cannot fail.
            let _ = writeln!(text, "{start}\n{}", end.saturating_sub(start));
        }
        format!("{count}\n{text}").into_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(size: u64, data: impl IntoIterator<Item = (u64, u64)>) -> SparseMap {
        let mut map = SparseMap {
            ranges: Vec::new(),
            min_hole: MIN_HOLE,
            size,
        };
        for (start, end) in data {
            map.add(start, end);
        }
        map.finish();
        map
    }

    #[test]
    fn holes_too_short_for_the_map_are_data() {
        let of = |size, data: &[(u64, u64)]| map(size, data.iter().copied()).ranges;
        assert_eq!(of(9000, &[(4095, 9000)]), [(0, 9000)]);
        assert_eq!(of(9000, &[(4096, 9000)]), [(4096, 9000)]);
        assert_eq!(of(9000, &[(0, 100), (4195, 9000)]), [(0, 9000)]);
        assert_eq!(
            of(9000, &[(0, 100), (4196, 9000)]),
            [(0, 100), (4196, 9000)]
        );
        assert_eq!(of(9000, &[(0, 4905)]), [(0, 9000)]);
        assert_eq!(of(9000, &[(0, 4904)]), [(0, 4904)]);
    }

    #[test]
    fn a_map_has_a_bounded_number_of_ranges_and_loses_no_data() {
        let data = (0..100_000_u64).map(|n| (n * 8192 + 4096, n * 8192 + 8192));
        let map = map(100_000 * 8192, data.clone());
        assert!(map.ranges.len() <= MAX_RANGES);
        assert!(map.encode().len() < 1 << 20);
        for (start, end) in data {
            assert!(map.contains(start) && map.contains(end - 1));
        }
        assert!(map.ranges.windows(2).all(|two| two[0].1 < two[1].0));
    }

    #[test]
    fn a_hole_at_the_end_has_an_empty_range_as_gnu_tar_writes_it() {
        assert_eq!(map(1 << 40, []).encode(), b"1\n1099511627776\n0\n");
        let ended = map(20_000, [(0, 512)]);
        assert_eq!(ended.encode(), b"2\n0\n512\n20000\n0\n");
        assert_eq!(map(20_000, [(8192, 20_000)]).encode(), b"1\n8192\n11808\n");
    }
}
