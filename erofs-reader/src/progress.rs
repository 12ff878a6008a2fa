//! Progress of long operations.

use alloc::sync::Arc;
use core::fmt;

/// A callback for the progress of an extraction or a check. Cheap to clone.
///
/// ```
/// use erofs_reader::Progress;
/// use erofs_reader::extract::TarOptions;
///
/// let progress = Progress::new(|done| eprint!("\r{} names, {} bytes", done.entries, done.bytes));
/// let options = TarOptions::default().progress(progress);
/// ```
#[derive(Clone)]
pub struct Progress(Arc<dyn Fn(Done) + Send + Sync>);

/// How much work is done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Done {
    /// Names so far. [`Superblock::inodes`](crate::Superblock::inodes) says about how many there
    /// will be.
    pub entries: u64,
    /// Bytes of file contents so far, holes included.
    pub bytes: u64,
}

impl Progress {
    /// Calls `listener` with the work done so far, after every few names and every few MiB of
    /// contents.
    ///
    /// It may be called by several threads at once, and should return soon, because the work waits
    /// for it.
    pub fn new(listener: impl Fn(Done) + Send + Sync + 'static) -> Self {
        Self(Arc::new(listener))
    }

    pub(crate) fn report(&self, entries: u64, bytes: u64) {
        (self.0)(Done { entries, bytes });
    }
}

impl fmt::Debug for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Progress(…)")
    }
}
