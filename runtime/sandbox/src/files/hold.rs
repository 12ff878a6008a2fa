//! Keeps a sandbox's disk from changing while it is read.

use std::fs::File;
use std::time::Duration;

use blockbox_convert as convert;
use blockbox_store::{Info, Lock};
use blockbox_vmm::guest::Connection;

use crate::error::{Error, Result};
use crate::monitor::message::{Answer, Ask};
use crate::question::{FOR_EVER, ask, done, unexpected};
use crate::sandbox::Sandbox;

/// The consistency of a copy of a running sandbox's writable disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Consistency {
    /// Everything that was written: the guest's file system is frozen for the copy, which is
    /// therefore clean.
    #[default]
    Frozen,
    /// As after a power cut: unsynced data may be missing, and the file system's journal is
    /// replayed at the next mount.
    Crash,
}

/// A sandbox whose disk does not change.
pub(crate) struct Hold {
    info: Info,
    kind: Kind,
}

enum Kind {
    /// The sandbox is stopped, and cannot be started.
    Stopped(#[expect(dead_code, reason = "held, not used")] Lock),
    /// The sandbox is running, and its monitor holds the disk until this connection ends.
    Held(Connection),
    /// The sandbox is running without a writable disk.
    Diskless,
}

impl Hold {
    /// Locks the sandbox or, if it is running, asks its monitor to hold the disk.
    ///
    /// # Errors
    ///
    /// If the sandbox is starting or stopping, or its guest cannot freeze the disk.
    pub(crate) fn of(sandbox: &Sandbox, consistency: Consistency) -> Result<Self> {
        // Waiting for the lock of a running sandbox takes longer than a copy of its disk.
        if let Some(connection) = sandbox.connect()? {
            return Self::running(sandbox, connection, consistency);
        }
        match sandbox.take() {
            Ok((lock, info)) => {
                if !info.spec.diskless {
                    let path = sandbox.upper();
                    let disk = File::options().read(true).write(true).open(&path);
                    let disk = disk.map_err(Error::io(&path))?;
                    // Replays the journal that a killed machine left.
                    ext4_writer::recover(disk)
                        .map_err(|source| convert::Error::Ext4 { path, source })?;
                }
                let kind = Kind::Stopped(lock);
                Ok(Self { info, kind })
            }
            // Another process has started it meanwhile.
            Err(Error::SandboxRunning(_)) => {
                Self::running(sandbox, sandbox.running()?, consistency)
            }
            Err(error) => Err(error),
        }
    }

    /// Asks the monitor to hold the disk.
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

    /// Returns the sandbox's records.
    pub(crate) fn info(&self) -> &Info {
        &self.info
    }

    /// Lets the disk change again. Returns how long the guest of a running sandbox could not write.
    ///
    /// # Errors
    ///
    /// If the disk was not held to the end: what was read may be inconsistent.
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
