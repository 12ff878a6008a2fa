//! Progress and events of a transfer.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::{Digest, Error};

/// A callback for progress: it receives how much is fetched, by everything whose
/// [`Options`](crate::Options) have a clone of it. Cheap to clone.
///
/// ```
/// use ocipull::{Options, Progress};
///
/// let progress = Progress::new(|done| eprint!("\r{} bytes", done.bytes));
/// let options = Options::default().progress(progress);
/// ```
#[derive(Clone)]
pub struct Progress(Arc<Counted<dyn Fn(Done) + Send + Sync>>);

/// How much work is done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Done {
    /// Bytes fetched so far, as they are stored at their source.
    pub bytes: u64,
}

/// A callback, and the bytes that it was called with.
struct Counted<F: ?Sized> {
    bytes: AtomicU64,
    listener: F,
}

impl Progress {
    /// Calls `listener` repeatedly with what is fetched so far.
    ///
    /// It may be called by several threads at once, and should return soon, because the work waits
    /// for it.
    pub fn new(listener: impl Fn(Done) + Send + Sync + 'static) -> Self {
        Self(Arc::new(Counted {
            bytes: AtomicU64::new(0),
            listener,
        }))
    }

    /// Adds newly fetched bytes.
    pub(crate) fn add(&self, bytes: u64) {
        let before = self.0.bytes.fetch_add(bytes, Ordering::Relaxed);
        (self.0.listener)(Done {
            bytes: before.saturating_add(bytes),
        });
    }
}

impl fmt::Debug for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Progress(…)")
    }
}

/// A delay or a change of mirrors in a transfer, or the progress of a blob that is pushed or of an
/// image that is copied to a temporary file.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// A request failed and is made again after a while.
    Waiting {
        /// The registry's host and port.
        host: &'a str,
        /// Why the request failed.
        error: &'a Error,
        /// How long until the next attempt.
        delay: Duration,
        /// How many attempts failed.
        attempt: u32,
        /// How many may fail before the transfer does.
        attempts: u32,
    },
    /// A mirror or registry does not have the document or blob, and the next one is asked.
    NextMirror {
        /// The host and port of the one asked next.
        host: &'a str,
        /// The error of the previous one.
        error: &'a Error,
    },
    /// A credential helper has not answered yet.
    WaitingForHelper {
        /// The program.
        program: &'a str,
        /// How much longer it may take until it is ended.
        left: Duration,
    },
    /// The image is being copied to a temporary file before it can be read: from a compressed
    /// archive, standard input or a Docker daemon.
    Spooling {
        /// The archive's path, `standard input`, or the image's name after `docker-daemon:`.
        source: &'a str,
        /// How many bytes the file has.
        bytes: u64,
        /// Whether these are all.
        complete: bool,
    },
    /// More of a blob is on its way to the target. The first event has 0 bytes sent; the number
    /// falls where an upload continues after an interruption.
    Pushing {
        /// Its digest.
        digest: &'a Digest,
        /// Its size in bytes.
        size: u64,
        /// How many of its bytes have been read for the target, from its beginning.
        sent: u64,
    },
    /// A blob is in the target.
    Pushed {
        /// Its digest.
        digest: &'a Digest,
        /// Its size in bytes.
        size: u64,
        /// How it came to the target.
        pushed: Pushed,
    },
}

/// A callback that receives [`Event`]s. It is called from any thread.
#[derive(Clone)]
pub struct Events(Arc<dyn Fn(&Event<'_>) + Send + Sync>);

impl Events {
    /// Calls `report` with each event.
    ///
    /// ```
    /// use ocipull::{Event, Events, Options};
    ///
    /// let events = Events::new(|event| {
    ///     if let Event::Waiting { host, delay, .. } = event {
    ///         eprintln!("waiting for {host} for {} s", delay.as_secs());
    ///     }
    /// });
    /// let options = Options::default().events(events);
    /// # let _ = options;
    /// ```
    pub fn new(report: impl Fn(&Event<'_>) + Send + Sync + 'static) -> Self {
        Self(Arc::new(report))
    }

    /// Reports `event` to the callback.
    pub fn report(&self, event: &Event<'_>) {
        (self.0)(event);
    }
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Events(…)")
    }
}

/// The result of pushing a blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Pushed {
    /// It existed already.
    Existed,
    /// The registry took it from another of its repositories.
    Mounted,
    /// It was uploaded or written.
    Uploaded,
}
