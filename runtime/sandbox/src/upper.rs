//! Copies of a sandbox's writable disk, whether the sandbox is running or not.

use std::fs::File;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use blockbox_store::{Meter, UPPER, sparse};

use crate::error::{Error, Result};
use crate::files::hold::Hold;
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

impl Sandbox {
    /// Copies the writable disk to the new file `to`, which is then an ext4 file system. If the
    /// host's file system supports it, the copy shares its blocks with the disk. Returns how long
    /// the guest of a running sandbox could not write.
    ///
    /// # Errors
    ///
    /// [`Error::Diskless`]; [`Error::SandboxRunning`] if the sandbox is starting or stopping; if
    /// the disk cannot be read or the copy written, or the disk changed meanwhile.
    pub fn copy_upper(
        &self,
        to: &Path,
        consistency: Consistency,
        meter: &Meter,
    ) -> Result<Duration> {
        let from = self.upper();
        let hold = Hold::of(self, consistency)?;
        if hold.info().spec.diskless {
            return Err(Error::Diskless(self.name().to_owned()));
        }
        let disk = File::open(&from).map_err(Error::io(&from))?;
        let copy = create_copy(to)?;
        sparse::copy(&disk, &copy, meter).map_err(Error::io(to))?;
        let held = hold.release()?;
        copy.sync_all().map_err(Error::io(to))?;
        Ok(held)
    }

    /// Returns the path of the writable disk.
    pub(crate) fn upper(&self) -> PathBuf {
        self.store().sandbox(self.name()).join(UPPER)
    }
}

/// Creates the file of a copy, which other users cannot read.
pub(crate) fn create_copy(path: &Path) -> Result<File> {
    File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(Error::io(path))
}
