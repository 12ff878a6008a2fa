//! A copy of the writable disk of a running sandbox.
//!
//! The disk does not change while it is copied: the guest's file system is frozen, or the whole machine stands still. The monitor
//! copies, not the client that asked, so that a client which is killed keeps nothing frozen.

use std::fs::File;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use blockbox_store::sparse;
use blockbox_vmm::Vm;
use blockbox_vmm::guest::Session;

use crate::error::{Error, Result};

/// How long the guest stays frozen after the monitor has last said so.
const WATCHDOG: Duration = Duration::from_secs(10);

/// How the disk is kept from changing.
#[derive(Clone, Copy, Debug)]
pub(super) enum Hold<'a> {
    /// The guest writes everything to its disk and then nothing more.
    Freeze(&'a Session),
    /// The machine stands still in the middle of what it does.
    Pause(&'a Vm),
}

impl Hold<'_> {
    fn begin(self) -> Result<()> {
        match self {
            Self::Freeze(session) => Ok(session.freeze(WATCHDOG)?),
            Self::Pause(vm) => Ok(vm.pause()?),
        }
    }

    fn prolong(self) -> Result<()> {
        match self {
            Self::Freeze(session) => Ok(session.keep_frozen(WATCHDOG)?),
            Self::Pause(_) => Ok(()),
        }
    }

    /// Fails where the disk was not held to the end.
    fn end(self) -> Result<()> {
        match self {
            Self::Freeze(session) => Ok(session.thaw()?),
            Self::Pause(vm) => Ok(vm.resume()?),
        }
    }
}

/// Copies the disk `from` to the new file `to`. Returns how long the guest could not write.
pub(super) fn copy(hold: Hold<'_>, from: &Path, to: &Path) -> Result<Duration> {
    let disk = File::open(from).map_err(Error::io(from))?;
    let copy = create(to)?;
    let started = Instant::now();
    hold.begin()?;
    let (done, result) = mpsc::channel();
    let copied = thread::scope(|scope| {
        scope.spawn(|| {
            // The receiver waits for this.
            let _ = done.send(sparse::copy(&disk, &copy));
        });
        loop {
            match result.recv_timeout(WATCHDOG / 4) {
                Ok(copied) => return copied.map_err(Error::io(to)),
                Err(RecvTimeoutError::Timeout) => hold.prolong()?,
                Err(RecvTimeoutError::Disconnected) => return Err(Error::Interrupted),
            }
        }
    });
    let ended = hold.end();
    let held = started.elapsed();
    copied?;
    ended?;
    copy.sync_all().map_err(Error::io(to))?;
    Ok(held)
}

/// Makes the file of a copy, which nobody else reads.
pub(crate) fn create(path: &Path) -> Result<File> {
    File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(Error::io(path))
}
