//! A cache between an image and its source.

use alloc::vec::Vec;

use crate::num::{clamp_len, narrow, wide};
use crate::read_at::{ReadAt, ReadAtError, read_full};
use crate::sync::Lock;

/// Bytes in one cached page.
const PAGE: usize = 64 << 10;

/// Pages in the cache: 4 MiB, enough for the metadata of an image of tens of thousands of files.
const PAGES: usize = 64;

/// A source with a small cache in front, so that walking an image's metadata takes few system
/// calls.
///
/// Reads of a page (64 KiB) or more go past the cache. At most 4 MiB are held, or what
/// [`Buffered::with_capacity`] was given. Several threads may read at once: each page has a lock of
/// its own.
#[derive(Debug)]
pub struct Buffered<R> {
    inner: R,
    pages: Vec<Lock<Page>>,
}

#[derive(Debug, Default)]
struct Page {
    /// The number of the page in the source.
    number: Option<u64>,
    bytes: Vec<u8>,
}

impl<R: ReadAt> Buffered<R> {
    /// Returns a source that reads `inner` through an empty cache of 4 MiB.
    ///
    /// ```
    /// use erofs_reader::{Buffered, ReadAt};
    ///
    /// let source = Buffered::new(vec![1_u8, 2, 3]);
    /// let mut bytes = [0; 2];
    /// assert_eq!(source.read_at(&mut bytes, 1)?, 2);
    /// assert_eq!(bytes, [2, 3]);
    /// # Ok::<(), erofs_reader::ReadAtError>(())
    /// ```
    pub fn new(inner: R) -> Self {
        Self::with_capacity(PAGES.saturating_mul(PAGE), inner)
    }

    /// Returns a source that reads `inner` through an empty cache of at most `bytes` bytes, in
    /// whole pages of 64 KiB and at least one.
    ///
    /// Memory is used as pages are read.
    ///
    /// ```no_run
    /// use erofs_reader::{Buffered, Image};
    ///
    /// let source = Buffered::with_capacity(64 << 20, std::fs::File::open("layer.erofs")?);
    /// let image = Image::open(source)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn with_capacity(bytes: usize, inner: R) -> Self {
        let pages = bytes.div_euclid(PAGE).max(1);
        Self {
            inner,
            pages: core::iter::repeat_with(Lock::default).take(pages).collect(),
        }
    }

    /// The source, without its cache.
    pub fn into_inner(self) -> R {
        self.inner
    }
}

impl<R: ReadAt> ReadAt for Buffered<R> {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize, ReadAtError> {
        if buf.len() >= PAGE {
            return self.inner.read_at(buf, offset);
        }
        let page = wide(PAGE);
        let (number, within) = (offset.div_euclid(page), narrow(offset.rem_euclid(page)));
        // Directly mapped: metadata is read in order, so neighbours must not evict each other.
        let slot = narrow(number.checked_rem(wide(self.pages.len())).unwrap_or(0));
        let Some(cached) = self.pages.get(slot) else {
            return self.inner.read_at(buf, offset);
        };
        cached.with(|cached| {
            if cached.number != Some(number) {
                cached.number = None;
                cached.bytes.resize(PAGE, 0);
                let n = read_full(&self.inner, &mut cached.bytes, number.saturating_mul(page))?;
                cached.bytes.truncate(n);
                cached.number = Some(number);
            }
            let rest = cached.bytes.get(within..).unwrap_or_default();
            let n = clamp_len(buf.len(), wide(rest.len()));
            if let (Some(to), Some(from)) = (buf.get_mut(..n), rest.get(..n)) {
                to.copy_from_slice(from);
            }
            Ok(n)
        })
    }

    fn size(&self) -> Result<u64, ReadAtError> {
        self.inner.size()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    struct Counting(Vec<u8>, AtomicUsize);

    impl ReadAt for Counting {
        fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize, ReadAtError> {
            self.1.fetch_add(1, Ordering::Relaxed);
            self.0.read_at(buf, offset)
        }

        fn size(&self) -> Result<u64, ReadAtError> {
            self.0.size()
        }
    }

    #[test]
    fn neighbouring_small_reads_cost_one_read_of_the_source() {
        let bytes: Vec<u8> = (0..200_000_u32).map(|i| (i % 251) as u8).collect();
        let source = Buffered::new(Counting(bytes.clone(), AtomicUsize::new(0)));
        for offset in (0..65_000).step_by(40) {
            let mut buf = [0; 32];
            assert_eq!(
                read_full(&source, &mut buf, offset as u64).unwrap(),
                buf.len()
            );
            assert_eq!(buf, bytes[offset..offset + 32]);
        }
        // One read of a page, and one at the end of the source, which tells `read_full` that there
        // is no more.
        assert_eq!(source.into_inner().1.into_inner(), 1);
    }

    #[test]
    fn the_capacity_bounds_the_cache_and_changes_no_byte() {
        let bytes: Vec<u8> = (0..300_000_u32).map(|i| (i % 239) as u8).collect();
        for (capacity, reads) in [(0, 10), (PAGE, 10), (5 * PAGE, 5)] {
            let counting = Counting(bytes.clone(), AtomicUsize::new(0));
            let source = Buffered::with_capacity(capacity, counting);
            for _ in 0..2 {
                for page in 0..4 {
                    let mut buf = [0; 10];
                    let offset = page * PAGE;
                    read_full(&source, &mut buf, offset as u64).unwrap();
                    assert_eq!(buf, bytes[offset..offset + 10]);
                }
            }
            assert!(source.pages.len() <= (capacity / PAGE).max(1));
            let counted = source.into_inner().1.into_inner();
            assert!(counted <= reads, "{counted} reads with {capacity}");
        }
    }

    #[test]
    fn a_read_across_pages_and_past_the_end_equals_the_source() {
        let bytes: Vec<u8> = (0..150_001_u32).map(|i| (i % 241) as u8).collect();
        let source = Buffered::new(bytes.clone());
        for (offset, len) in [
            (65_530, 30_000),
            (149_999, 10),
            (150_001, 10),
            (0, 100_000),
            (1 << 40, 5),
        ] {
            let mut ours = vec![0; len];
            let mut theirs = vec![0; len];
            let n = read_full(&source, &mut ours, offset).unwrap();
            assert_eq!(n, read_full(&bytes, &mut theirs, offset).unwrap());
            assert_eq!(ours, theirs);
        }
    }
}
