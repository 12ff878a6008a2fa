//! Progress of long operations.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A callback for progress: it receives how much is read or merged, by everything that has a clone
/// of it. Cheap to clone.
///
/// ```
/// use fsmerge::{ContentStore, Limits, Progress};
///
/// # let tar = &[0; 1024][..];
/// let progress = Progress::new(|done| eprint!("\r{} entries, {} bytes", done.entries, done.bytes));
/// let mut contents = ContentStore::in_memory().progress(progress);
/// contents.read_tar(tar, &Limits::default())?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Progress(Arc<Counted<dyn Fn(Done) + Send + Sync>>);

/// How much work is done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Done {
    /// Entries of archives, names of directories and images, or names merged.
    pub entries: u64,
    /// Bytes of file contents, holes included. A merge has none.
    pub bytes: u64,
}

/// A callback, and what it was called with.
struct Counted<F: ?Sized> {
    entries: AtomicU64,
    bytes: AtomicU64,
    listener: F,
}

impl Progress {
    /// Calls `listener` with the work done so far, after every few entries and every few MiB of
    /// contents.
    ///
    /// It may be called by several threads at once, and should return soon, because the work waits
    /// for it.
    pub fn new(listener: impl Fn(Done) + Send + Sync + 'static) -> Self {
        Self(Arc::new(Counted {
            entries: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            listener,
        }))
    }

    /// Adds new work.
    pub(crate) fn add(&self, new: Done) {
        let add = |count: &AtomicU64, new: u64| {
            let before = count.fetch_add(new, Ordering::Relaxed);
            before.saturating_add(new)
        };
        (self.0.listener)(Done {
            entries: add(&self.0.entries, new.entries),
            bytes: add(&self.0.bytes, new.bytes),
        });
    }
}

impl fmt::Debug for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Progress(…)")
    }
}

/// Work that is not reported yet.
#[derive(Debug, Default)]
pub(crate) struct Meter(Done);

impl Meter {
    /// Entries after which a report is due.
    const ENTRIES: u64 = 256;
    /// Bytes of contents after which a report is due.
    pub(crate) const BYTES: u64 = 4 << 20;

    /// Counts an entry with `bytes` of contents. Returns what is to be reported, if that is due.
    pub(crate) fn entry(&mut self, bytes: u64) -> Option<Done> {
        self.0.entries += 1;
        self.0.bytes = self.0.bytes.saturating_add(bytes);
        let due = self.0.entries >= Self::ENTRIES || self.0.bytes >= Self::BYTES;
        due.then(|| self.rest())
    }

    /// Returns what is not reported yet.
    pub(crate) fn rest(&mut self) -> Done {
        std::mem::take(&mut self.0)
    }
}
