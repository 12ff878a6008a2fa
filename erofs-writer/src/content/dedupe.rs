//! Deduplication: an index of stored contents.

use std::io::{self, Seek, Write};

use hashbrown::HashTable;

use crate::output::{Output, ReadExact};

/// Contents that are in the image.
#[derive(Clone, Copy, Debug)]
struct Stored {
    digest: u128,
    size: u64,
    block: u64,
}

/// An index of stored contents by digest.
#[derive(Debug)]
pub(crate) struct Dedupe<W> {
    read: ReadExact<W>,
    stored: Vec<Stored>,
    // The digest is the hash. Equal digests are only candidates, so no choice of contents can make
    // contents be lost.
    index: HashTable<u32>,
}

impl<W: Write + Seek> Dedupe<W> {
    pub(crate) fn new(read: ReadExact<W>) -> Self {
        Self {
            read,
            stored: Vec::new(),
            index: HashTable::new(),
        }
    }

    /// Returns the first block of stored contents equal to the `size` bytes at `from`, or records
    /// that those lie at `block` and returns `None`.
    pub(crate) fn find_or_add(
        &mut self,
        output: &mut Output<W>,
        digest: u128,
        size: u64,
        from: u64,
        block: u64,
        position: impl Fn(u64) -> u64,
    ) -> io::Result<Option<u64>> {
        if let Some(candidate) = self.find(digest, size) {
            let equal = equal(output, position(candidate), from, size, self.read)?;
            // Different contents with equal digests: the later ones are not indexed.
            return Ok(equal.then_some(candidate));
        }
        self.insert(digest, size, block);
        Ok(None)
    }

    /// The first block of stored contents that may be equal to the `size` bytes with this digest.
    pub(crate) fn find(&self, digest: u128, size: u64) -> Option<u64> {
        let same = |&i: &u32| {
            let stored = self.stored[i as usize];
            (stored.digest, stored.size) == (digest, size)
        };
        let i = *self.index.find(digest as u64, same)?;
        Some(self.stored[i as usize].block)
    }

    /// Whether `bytes` equal the stored bytes at `from`.
    pub(crate) fn holds(
        &self,
        output: &mut Output<W>,
        from: u64,
        bytes: &[u8],
    ) -> io::Result<bool> {
        let mut there = vec![0; bytes.len()];
        output.read(from, &mut there, self.read)?;
        Ok(there == bytes)
    }

    /// Records that `size` bytes lie at `block`, unless others have their digest.
    pub(crate) fn add(&mut self, digest: u128, size: u64, block: u64) {
        if self.find(digest, size).is_none() {
            self.insert(digest, size, block);
        }
    }

    fn insert(&mut self, digest: u128, size: u64, block: u64) {
        // Contents beyond this number are not indexed.
        let Ok(i) = u32::try_from(self.stored.len()) else {
            return;
        };
        self.stored.push(Stored {
            digest,
            size,
            block,
        });
        self.index
            .insert_unique(digest as u64, i, |&i| self.stored[i as usize].digest as u64);
    }
}

/// Whether the `size` bytes at `a` equal those at `b`.
fn equal<W: Write + Seek>(
    output: &mut Output<W>,
    a: u64,
    b: u64,
    size: u64,
    read: ReadExact<W>,
) -> io::Result<bool> {
    const PIECE: u64 = 1 << 18;
    let mut left = vec![0; size.min(PIECE) as usize];
    let mut right = left.clone();
    let mut done = 0;
    while done < size {
        let n = (size - done).min(PIECE) as usize;
        output.read(a + done, &mut left[..n], read)?;
        output.read(b + done, &mut right[..n], read)?;
        if left[..n] != right[..n] {
            return Ok(false);
        }
        done += n as u64;
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use std::io::{Cursor, Read};

    use super::*;

    #[test]
    fn different_contents_with_equal_hashes_are_both_kept() {
        let mut output = Output::new(Cursor::new(Vec::new())).unwrap();
        let mut dedupe =
            Dedupe::new(|out: &mut Cursor<Vec<u8>>, into: &mut [u8]| out.read_exact(into));
        output.write(b"onetwoone").unwrap();
        let mut find = |from| {
            dedupe
                .find_or_add(&mut output, 42, 3, from, from, |block| block)
                .unwrap()
        };
        assert_eq!(find(0), None);
        assert_eq!(find(3), None);
        assert_eq!(find(6), Some(0));
    }
}
