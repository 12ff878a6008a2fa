//! Starts the writeback of files ahead of the sync that waits for it.

use std::fs::File;
use std::num::NonZeroU64;

/// Starts the writeback of `length` bytes of `file` at the offset `from`, or of the rest of the
/// file, without waiting for it.
///
/// `POSIX_FADV_DONTNEED` starts the writeback of dirty pages, and then drops clean ones
/// (`mm/fadvise.c`). Pages that were just written are not clean yet, so they stay in the page cache
/// for the next reader.
pub fn start_writeback(file: &File, from: u64, length: Option<NonZeroU64>) {
    // A failure is ignored, because a later `fsync` writes the rest.
    #[cfg(target_os = "linux")]
    let _ = rustix::fs::fadvise(file, from, length, rustix::fs::Advice::DontNeed);
    #[cfg(not(target_os = "linux"))]
    let _ = (file, from, length);
}
