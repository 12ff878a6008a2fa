//! Options of changing an image in place.

use crate::Progress;

/// Options of [`grow_with`](crate::grow_with) and [`recover_with`](crate::recover_with).
///
/// ```
/// use ext4_writer::{InPlaceOptions, Progress};
///
/// let progress = Progress::new(|done| eprint!("\r{} bytes", done.bytes));
/// let options = InPlaceOptions::default().progress(progress);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct InPlaceOptions {
    /// The callback that receives how many bytes of the image were read and written.
    pub progress: Option<Progress>,
}

impl InPlaceOptions {
    /// Sets [`progress`](field@Self::progress).
    #[must_use]
    pub fn progress(mut self, progress: impl Into<Option<Progress>>) -> Self {
        self.progress = progress.into();
        self
    }
}
