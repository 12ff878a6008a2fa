//! Keeping a sandbox's disk from changing while it is read.

use std::fs::File;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use blockbox_convert as convert;
use blockbox_store::{Info, Lock, UPPER};
use blockbox_vmm::guest::Connection;

use crate::error::{Error, Result};
use crate::monitor::message::Ask;
use crate::sandbox::{self, Sandbox};

/// After this time the guest thaws its disk by itself: this process may have been killed.
const THAW_AFTER: Duration = Duration::from_secs(10);

/// How often the guest is told that the disk is still being read.
const KEEP_EVERY: Duration = Duration::from_secs(2);

/// A sandbox whose disk does not change.
pub(crate) struct Hold {
    info: Info,
    kind: Kind,
}

enum Kind {
    /// It does not run, and cannot be started.
    Stopped(#[expect(dead_code, reason = "held, not used")] Lock),
    /// It runs, and its disk is frozen.
    Frozen(Freeze),
}

impl Hold {
    /// Locks the sandbox, or freezes its disk.
    ///
    /// # Errors
    ///
    /// Where the sandbox is starting or ending, or its guest cannot freeze the disk.
    pub(crate) fn of(sandbox: &Sandbox) -> Result<Self> {
        match sandbox.take() {
            Ok((lock, info)) => {
                let path = sandbox.store().sandbox(sandbox.name()).join(UPPER);
                let disk = File::options().read(true).write(true).open(&path);
                let disk = disk.map_err(Error::io(&path))?;
                // What a machine that was killed left in the journal.
                ext4_writer::recover(disk)
                    .map_err(|source| convert::Error::Ext4 { path, source })?;
                let kind = Kind::Stopped(lock);
                Ok(Self { info, kind })
            }
            Err(Error::SandboxRunning(_)) => {
                let info = sandbox.info()?;
                let kind = Kind::Frozen(Freeze::start(sandbox.running()?)?);
                Ok(Self { info, kind })
            }
            Err(error) => Err(error),
        }
    }

    /// What the sandbox is.
    pub(crate) fn info(&self) -> &Info {
        &self.info
    }

    /// Lets the disk change again.
    ///
    /// # Errors
    ///
    /// Where it was thawed meanwhile: what was read may be of different times.
    pub(crate) fn release(self) -> Result<()> {
        match self.kind {
            Kind::Stopped(_) => Ok(()),
            Kind::Frozen(freeze) => freeze.end(),
        }
    }
}

/// A frozen disk, kept frozen by a thread.
struct Freeze {
    connection: Arc<Connection>,
    keeper: Option<(Sender<()>, JoinHandle<Result<()>>)>,
}

impl Freeze {
    fn start(connection: Connection) -> Result<Self> {
        let connection = Arc::new(connection);
        let thaw_after_ms = THAW_AFTER.as_millis() as u32;
        let keep = false;
        sandbox::done(
            &connection,
            &Ask::Freeze {
                thaw_after_ms,
                keep,
            },
        )?;
        let (stop, stopped) = mpsc::channel();
        let in_thread = Arc::clone(&connection);
        let keeper = thread::spawn(move || {
            loop {
                match stopped.recv_timeout(KEEP_EVERY) {
                    Err(RecvTimeoutError::Timeout) => {}
                    _ => return Ok(()),
                }
                let keep = true;
                let ask = Ask::Freeze {
                    thaw_after_ms,
                    keep,
                };
                sandbox::done(&in_thread, &ask)?;
            }
        });
        Ok(Self {
            connection,
            keeper: Some((stop, keeper)),
        })
    }

    fn end(mut self) -> Result<()> {
        let kept = self.stop();
        let thawed = sandbox::done(&self.connection, &Ask::Thaw);
        kept.and(thawed)
    }

    fn stop(&mut self) -> Result<()> {
        match self.keeper.take() {
            Some((stop, keeper)) => {
                drop(stop);
                keeper.join().unwrap_or(Ok(()))
            }
            None => Ok(()),
        }
    }
}

impl Drop for Freeze {
    fn drop(&mut self) {
        if self.keeper.is_some() {
            // Another error is on its way; the guest thaws by itself at the latest.
            let _ = self.stop();
            let _ = sandbox::done(&self.connection, &Ask::Thaw);
        }
    }
}
