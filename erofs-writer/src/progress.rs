//! Progress of long operations.

use std::fmt;
use std::sync::Arc;

/// A callback for progress: it receives how much of file contents is stored. Cheap to clone.
///
/// ```
/// use erofs_writer::{Options, Progress};
///
/// let progress = Progress::new(|done| eprint!("\r{} bytes", done.bytes));
/// let options = Options::default().progress(progress);
/// ```
#[derive(Clone)]
pub struct Progress(Arc<dyn Fn(Done) + Send + Sync>);

/// How much work is done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Done {
    /// Bytes of file contents so far, holes included.
    pub bytes: u64,
}

impl Progress {
    /// Calls `listener` repeatedly with what is stored so far. It should return soon, because the
    /// work waits for it.
    pub fn new(listener: impl Fn(Done) + Send + Sync + 'static) -> Self {
        Self(Arc::new(listener))
    }

    pub(crate) fn report(&self, bytes: u64) {
        (self.0)(Done { bytes });
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
