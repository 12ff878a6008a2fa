//! Progress of long operations.

use std::fmt;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::sync::Arc;

/// A callback for progress: it receives how much of file contents is stored, or how much of an
/// image is changed in place. Cheap to clone.
///
/// ```
/// use ext4_writer::{Options, Progress};
///
/// let progress = Progress::new(|done| eprint!("\r{} bytes", done.bytes));
/// let options = Options::new(64 << 20).progress(progress);
/// ```
#[derive(Clone)]
pub struct Progress(Arc<dyn Fn(Done) + Send + Sync>);

/// How much work is done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Done {
    /// Bytes of file contents so far. While an image is changed in place, the bytes of it that were
    /// read and written.
    pub bytes: u64,
}

impl Progress {
    /// Calls `listener` repeatedly with what is done so far. It should return soon, because the
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

/// An image that reports how much of it is read and written.
#[derive(Debug)]
pub(crate) struct Metered<'a, I> {
    image: I,
    progress: Option<&'a Progress>,
    done: u64,
    reported: u64,
}

/// Bytes after which a report is due.
const DUE: u64 = 1 << 20;

impl<'a, I> Metered<'a, I> {
    pub(crate) fn new(image: I, progress: Option<&'a Progress>) -> Self {
        Self {
            image,
            progress,
            done: 0,
            reported: 0,
        }
    }

    fn add(&mut self, bytes: usize) {
        self.done += bytes as u64;
        if self.done - self.reported >= DUE {
            self.report();
        }
    }

    /// Reports what is done, also if it is little.
    pub(crate) fn report(&mut self) {
        self.reported = self.done;
        if let Some(progress) = self.progress {
            progress.report(self.done);
        }
    }
}

impl<I: Read> Read for Metered<'_, I> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.image.read(buffer)?;
        self.add(read);
        Ok(read)
    }
}

impl<I: Write> Write for Metered<'_, I> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.image.write(bytes)?;
        self.add(written);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.image.flush()
    }
}

impl<I: Seek> Seek for Metered<'_, I> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.image.seek(to)
    }
}
