//! Keeping a sandbox's disk from changing while it is read.

use std::fs::File;
use std::time::Duration;

use blockbox_convert as convert;
use blockbox_store::{Info, Lock};
use blockbox_vmm::guest::Connection;

use crate::error::{Error, Result};
use crate::monitor::message::{Answer, Ask};
use crate::question::{FOR_EVER, ask, done, unexpected};
use crate::sandbox::Sandbox;
use crate::upper::Consistency;

/// A sandbox whose disk does not change.
pub(crate) struct Hold {
    info: Info,
    kind: Kind,
}

enum Kind {
    /// It does not run, and cannot be started.
    Stopped(#[expect(dead_code, reason = "held, not used")] Lock),
    /// It runs, and its monitor holds the disk until this connection ends.
    Held(Connection),
    /// It runs without a writable disk.
    Diskless,
}

impl Hold {
    /// Locks the sandbox or, where it runs, has its monitor hold the disk.
    ///
    /// # Errors
    ///
    /// Where the sandbox is starting or ending, or its guest cannot freeze the disk.
    pub(crate) fn of(sandbox: &Sandbox, consistency: Consistency) -> Result<Self> {
        // Waiting for the lock of one that runs takes longer than a copy of its disk.
        if let Some(connection) = sandbox.connect()? {
            return Self::running(sandbox, connection, consistency);
        }
        match sandbox.take() {
            Ok((lock, info)) => {
                if !info.spec.diskless {
                    let path = sandbox.upper();
                    let disk = File::options().read(true).write(true).open(&path);
                    let disk = disk.map_err(Error::io(&path))?;
                    // What a machine that was killed left in the journal.
                    ext4_writer::recover(disk)
                        .map_err(|source| convert::Error::Ext4 { path, source })?;
                }
                let kind = Kind::Stopped(lock);
                Ok(Self { info, kind })
            }
            // Somebody has started it meanwhile.
            Err(Error::SandboxRunning(_)) => {
                Self::running(sandbox, sandbox.running()?, consistency)
            }
            Err(error) => Err(error),
        }
    }

    /// Has the monitor hold the disk.
    fn running(
        sandbox: &Sandbox,
        connection: Connection,
        consistency: Consistency,
    ) -> Result<Self> {
        let info = sandbox.info()?;
        if info.spec.diskless {
            let kind = Kind::Diskless;
            return Ok(Self { info, kind });
        }
        let crash = consistency == Consistency::Crash;
        done(&connection, &Ask::Hold { crash })?;
        let kind = Kind::Held(connection);
        Ok(Self { info, kind })
    }

    /// What the sandbox is.
    pub(crate) fn info(&self) -> &Info {
        &self.info
    }

    /// Lets the disk change again. Returns how long the guest of a running sandbox had to wait with
    /// its writes.
    ///
    /// # Errors
    ///
    /// Where it was not held to the end: what was read may be of different times.
    pub(crate) fn release(self) -> Result<Duration> {
        let Kind::Held(connection) = self.kind else {
            return Ok(Duration::ZERO);
        };
        match ask(&connection, &Ask::Release, FOR_EVER)? {
            Answer::Held { held_us } => Ok(Duration::from_micros(held_us)),
            other => Err(unexpected(&other)),
        }
    }
}
