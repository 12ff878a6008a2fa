//! Progress and events of a transfer.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::{Digest, Error};

/// A callback that receives the number of newly fetched bytes. It is called from any thread.
#[derive(Clone)]
pub struct Progress(Arc<dyn Fn(u64) + Send + Sync>);

impl Progress {
    /// Calls `report` with the bytes fetched since the call before.
    pub fn new(report: impl Fn(u64) + Send + Sync + 'static) -> Self {
        Self(Arc::new(report))
    }

    pub(crate) fn tell(&self, bytes: u64) {
        (self.0)(bytes);
    }
}

impl fmt::Debug for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Progress(…)")
    }
}

/// A delay or a change of mirrors in a transfer, or the progress of a blob that is pushed.
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
    pub fn new(report: impl Fn(&Event<'_>) + Send + Sync + 'static) -> Self {
        Self(Arc::new(report))
    }

    /// Passes `event` on.
    pub fn tell(&self, event: &Event<'_>) {
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
