//! Finds parts of contents that were cut before, wherever they begin.
//!
//! An extent can be referred to from its beginning on: all of it, or a part that ends anywhere
//! (`Z_EROFS_LI_PARTIAL_REF`). So the search is for beginnings of extents, with a rolling hash over
//! the contents.

use hashbrown::HashTable;

use super::extent::Extent;
use super::fingerprint::{Fingerprint, Hasher, Secret};

/// log2 of the size of the bit table in which beginnings are looked up first.
const FILTER_BITS: u32 = 22;
const MULTIPLIER: u64 = 0x9E37_79B9_7F4A_7C15 | 1;

/// Extents by their beginnings. Their contents are not kept.
#[derive(Debug)]
pub(crate) struct Index {
    /// The bytes of a beginning.
    window: usize,
    /// `MULTIPLIER` to the power of `window`.
    leaves: u64,
    filter: Vec<u64>,
    table: HashTable<u32>,
    known: Vec<Known>,
    /// For each extent, digests of its first bytes: of one window, of two, of four and so on, and
    /// of the whole.
    prefixes: Vec<(u32, Fingerprint)>,
    secret: Secret,
    /// The number of extents so far.
    extents: u32,
}

#[derive(Debug)]
struct Known {
    hash: u64,
    extent: Extent,
    number: u32,
    /// Its first prefix. The prefixes of the next extent follow its own.
    prefixes: u32,
}

/// Contents that are in an extent already.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reference {
    /// The extent's number, in the order of cutting.
    pub(crate) number: u32,
    /// The part of it that is referred to.
    pub(crate) extent: Extent,
}

impl Index {
    pub(crate) fn new(window: usize) -> Self {
        let exponent = u32::try_from(window).unwrap_or(u32::MAX);
        Self {
            window,
            leaves: MULTIPLIER.wrapping_pow(exponent),
            filter: vec![0; 1 << (FILTER_BITS - 6)],
            table: HashTable::new(),
            known: Vec::new(),
            prefixes: Vec::new(),
            secret: Secret::new(),
            extents: 0,
        }
    }

    /// Notes an extent; numbers count from 0.
    pub(crate) fn add(&mut self, extent: Extent, contents: &[u8]) {
        let number = self.extents;
        self.extents += 1;
        let Some(beginning) = contents.get(..self.window) else {
            return;
        };
        let hash = mix(beginning.iter().fold(0, |hash, &byte| enter(hash, byte)));
        let same = |&i: &u32| self.known[i as usize].hash == hash;
        if self.table.find(hash, same).is_some() {
            // One of many that begin alike is enough.
            return;
        }
        // Extents beyond this number are not indexed.
        let (Ok(index), Ok(prefixes)) = (
            u32::try_from(self.known.len()),
            u32::try_from(self.prefixes.len()),
        ) else {
            return;
        };
        let mut digest = Hasher::new(&self.secret);
        let mut done = 0;
        while done < contents.len() {
            let length = (2 * done).clamp(self.window, contents.len());
            digest.update(&contents[done..length]);
            self.prefixes.push((length as u32, digest.get()));
            done = length;
        }
        self.known.push(Known {
            hash,
            extent,
            number,
            prefixes,
        });
        self.table
            .insert_unique(hash, index, |&i| self.known[i as usize].hash);
        let bit = hash >> (64 - FILTER_BITS);
        self.filter[(bit >> 6) as usize] |= 1 << (bit & 63);
    }

    /// Returns the known contents that `input` begins with, of at least `least` bytes.
    pub(crate) fn at(&self, input: &[u8], least: usize) -> Option<Reference> {
        let beginning = input.get(..self.window)?;
        let hash = mix(beginning.iter().fold(0, |hash, &byte| enter(hash, byte)));
        self.check(hash, input, least)
    }

    /// Returns the first position in `from..to` at which known contents of at least `least` bytes
    /// begin.
    pub(crate) fn next(
        &self,
        input: &[u8],
        from: usize,
        to: usize,
        least: usize,
    ) -> Option<(usize, Reference)> {
        let beginning = input.get(from..from + self.window)?;
        let mut hash = beginning.iter().fold(0, |hash, &byte| enter(hash, byte));
        let last = to.min(input.len() - self.window);
        for at in from..last {
            let mixed = mix(hash);
            if self.may_contain(mixed)
                && let Some(found) = self.check(mixed, &input[at..], least)
            {
                return Some((at, found));
            }
            let left = u64::from(input[at]).wrapping_add(1);
            hash =
                enter(hash, input[at + self.window]).wrapping_sub(left.wrapping_mul(self.leaves));
        }
        None
    }

    fn may_contain(&self, hash: u64) -> bool {
        let bit = hash >> (64 - FILTER_BITS);
        self.filter[(bit >> 6) as usize] & (1 << (bit & 63)) != 0
    }

    fn check(&self, hash: u64, input: &[u8], least: usize) -> Option<Reference> {
        if !self.may_contain(hash) {
            return None;
        }
        let same = |&i: &u32| self.known[i as usize].hash == hash;
        let index = *self.table.find(hash, same)? as usize;
        let known = &self.known[index];
        let next = self.known.get(index + 1);
        let end = next.map_or(self.prefixes.len(), |next| next.prefixes as usize);
        let mut digest = Hasher::new(&self.secret);
        let mut done = 0;
        for &(length, expected) in &self.prefixes[known.prefixes as usize..end] {
            let Some(part) = input.get(done..length as usize) else {
                break;
            };
            digest.update(part);
            if digest.get() != expected {
                break;
            }
            done = length as usize;
        }
        (done >= least.max(self.window)).then_some(Reference {
            number: known.number,
            extent: Extent {
                length: done as u32,
                partial: (done as u32) < known.extent.length,
                ..known.extent
            },
        })
    }
}

/// The hash with one more byte. Zeros count, too.
fn enter(hash: u64, byte: u8) -> u64 {
    hash.wrapping_mul(MULTIPLIER)
        .wrapping_add(u64::from(byte) + 1)
}

/// Spreads values that differ in a few bits.
fn mix(hash: u64) -> u64 {
    let hash = (hash ^ hash >> 32).wrapping_mul(0xD6E8_FEB8_6659_FD93);
    hash ^ hash >> 32
}

#[cfg(test)]
mod tests {
    use testkit::noise;

    use super::*;

    fn extent(length: usize) -> Extent {
        Extent {
            length: length as u32,
            blocks: 1,
            plain: false,
            partial: false,
        }
    }

    #[test]
    fn known_content_is_found_at_any_offset_and_matched_to_its_full_length() {
        let mut index = Index::new(64);
        let contents = noise(1, 1000);
        index.add(extent(50), &noise(2, 50));
        index.add(extent(1000), &contents);
        for at in [0, 1, 63, 64, 500] {
            let input = [noise(3, at), contents.clone(), noise(4, 100)].concat();
            let (found, reference) = index.next(&input, 0, input.len(), 64).unwrap();
            assert_eq!((found, reference.number), (at, 1));
            assert_eq!(
                (reference.extent.length, reference.extent.partial),
                (1000, false)
            );
        }
        let part = [&contents[..300], &noise(5, 1000)].concat();
        let reference = index.at(&part, 64).unwrap();
        // A window, times two, times four; not times eight.
        assert_eq!(
            (reference.extent.length, reference.extent.partial),
            (256, true)
        );
        assert!(index.at(&part, 257).is_none());
        assert!(index.at(&contents[1..], 64).is_none());
        assert!(index.at(&contents[..63], 63).is_none());
    }
}
