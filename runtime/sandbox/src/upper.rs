//! Copies of a sandbox's writable disk, whether the sandbox runs or not.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use blockbox_store::{UPPER, sparse};

use crate::error::{Error, Result};
use crate::monitor::create_copy;
use crate::monitor::message::{Answer, Ask};
use crate::sandbox::{FOR_EVER, Sandbox, ask, unexpected};

/// What a copy of the writable disk of a running sandbox holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Consistency {
    /// Everything that was written: the guest's file system is frozen for the copy, which is then a clean file system.
    #[default]
    Frozen,
    /// What the disk holds after a power cut: what was not synced may be missing, and the file system's journal is replayed at the
    /// next mount.
    Crash,
}

impl Sandbox {
    /// Copies the writable disk to the new file `to`, which is an ext4 file system. Where the host's file system can, the copy shares
    /// its blocks with the disk. Returns how long the guest of a running sandbox had to wait with its writes.
    ///
    /// # Errors
    ///
    /// [`Error::SandboxRunning`] where the sandbox is starting or stopping; when the disk cannot be read or the copy written.
    pub fn copy_upper(&self, to: &Path, consistency: Consistency) -> Result<Duration> {
        let from = self.upper();
        match self.take() {
            Ok((_lock, _)) => {
                let disk = File::open(&from).map_err(Error::io(&from))?;
                let copy = create_copy(to)?;
                sparse::copy(&disk, &copy).map_err(Error::io(to))?;
                copy.sync_all().map_err(Error::io(to))?;
                Ok(Duration::ZERO)
            }
            Err(Error::SandboxRunning(_)) => {
                let crash = consistency == Consistency::Crash;
                let to = to.to_owned();
                match ask(
                    &self.running()?,
                    &Ask::CopyUpper { from, to, crash },
                    FOR_EVER,
                )? {
                    Answer::Copied { held_us } => Ok(Duration::from_micros(held_us)),
                    other => Err(unexpected(&other)),
                }
            }
            Err(error) => Err(error),
        }
    }

    /// Where the writable disk is.
    pub(crate) fn upper(&self) -> PathBuf {
        self.store().sandbox(self.name()).join(UPPER)
    }
}
