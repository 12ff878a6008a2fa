//! Copies of a sandbox's writable disk, whether the sandbox is running or not.

use std::fs::File;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use blockbox_store::{Meter, atomic, sparse};

use crate::error::{Error, Result};
use crate::files::hold::{Consistency, Hold};
use crate::sandbox::Sandbox;

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
        atomic::finish(&copy, to)?;
        Ok(held)
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
