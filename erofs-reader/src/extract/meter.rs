//! The progress of an extraction.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::progress::Progress;

/// Counters shared by several threads.
#[derive(Debug)]
pub(super) struct Meter {
    progress: Option<Progress>,
    entries: AtomicU64,
    bytes: AtomicU64,
}

impl Meter {
    pub(super) fn new(progress: Option<Progress>) -> Self {
        Self {
            progress,
            entries: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
        }
    }

    /// Counts more names and bytes of contents, and reports the sums.
    pub(super) fn add(&self, entries: u64, bytes: u64) {
        if let Some(progress) = &self.progress {
            let sum = |counter: &AtomicU64, more: u64| {
                counter
                    .fetch_add(more, Ordering::Relaxed)
                    .saturating_add(more)
            };
            progress.report(sum(&self.entries, entries), sum(&self.bytes, bytes));
        }
    }
}
