//! Progress of long operations.

use std::fmt;
use std::sync::Arc;

/// A callback for progress: it receives the number of bytes of the disk written so far. Cheap to
/// clone.
///
/// ```
/// use vmdk::{Progress, SparseOptions};
///
/// let progress = Progress::new(|bytes| eprint!("\r{bytes} bytes"));
/// let options = SparseOptions::default().progress(progress);
/// ```
#[derive(Clone)]
pub struct Progress(Arc<dyn Fn(u64) + Send + Sync>);

impl Progress {
    /// Calls `listener` repeatedly with the number of bytes written so far. It should return soon,
    /// because the work waits for it.
    pub fn new(listener: impl Fn(u64) + Send + Sync + 'static) -> Self {
        Self(Arc::new(listener))
    }

    pub(crate) fn report(&self, bytes: u64) {
        (self.0)(bytes);
    }
}

impl fmt::Debug for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Progress(…)")
    }
}

/// Two callbacks are equal if they are clones of one.
impl PartialEq for Progress {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Progress {}
