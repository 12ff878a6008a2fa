//! Progress of long operations.

use std::fmt;
use std::sync::Arc;

/// A callback for progress: it receives the number of bytes of file contents stored so far. Cheap
/// to clone.
///
/// ```
/// use ext4_writer::{Options, Progress};
///
/// let progress = Progress::new(|bytes| eprint!("\r{bytes} bytes"));
/// let options = Options::new(64 << 20).progress(progress);
/// ```
#[derive(Clone)]
pub struct Progress(Arc<dyn Fn(u64) + Send + Sync>);

impl Progress {
    /// Calls `listener` repeatedly with the number of bytes stored so far. It should return soon,
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
