//! What an extraction into a directory restores, and what its threads share.

use std::io;

use super::budget::Budget;
use super::meter::Meter;
use crate::error::Error;
use crate::progress::Progress;

/// What to restore in a directory.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct DirOptions {
    /// Owners and groups, which takes root.
    pub owners: bool,
    /// Devices, which take root. Skipped if not wanted.
    pub devices: bool,
    /// Xattrs, of which `trusted.*` and `security.*` take root.
    pub xattrs: bool,
    /// How many bytes of file contents and xattrs may be written, holes counted as if they were written; any number if
    /// `None`.
    ///
    /// A small image can describe files of any size: set this where the image is not trusted.
    pub max_bytes: Option<u64>,
    /// Who listens to how far the extraction has come.
    pub progress: Option<Progress>,
}

impl Default for DirOptions {
    /// Everything, as root extracts.
    fn default() -> Self {
        Self {
            owners: true,
            devices: true,
            xattrs: true,
            max_bytes: None,
            progress: None,
        }
    }
}

impl DirOptions {
    /// What a user without privileges can restore: no owners, no devices, no xattrs.
    pub fn unprivileged() -> Self {
        Self {
            owners: false,
            devices: false,
            xattrs: false,
            max_bytes: None,
            progress: None,
        }
    }

    /// Sets [`owners`](Self::owners).
    #[must_use]
    pub fn owners(mut self, owners: bool) -> Self {
        self.owners = owners;
        self
    }

    /// Sets [`devices`](Self::devices).
    #[must_use]
    pub fn devices(mut self, devices: bool) -> Self {
        self.devices = devices;
        self
    }

    /// Sets [`xattrs`](Self::xattrs).
    #[must_use]
    pub fn xattrs(mut self, xattrs: bool) -> Self {
        self.xattrs = xattrs;
        self
    }

    /// Sets [`max_bytes`](Self::max_bytes).
    #[must_use]
    pub fn max_bytes(mut self, bytes: impl Into<Option<u64>>) -> Self {
        self.max_bytes = bytes.into();
        self
    }

    /// Sets [`progress`](Self::progress).
    #[must_use]
    pub fn progress(mut self, progress: impl Into<Option<Progress>>) -> Self {
        self.progress = progress.into();
        self
    }
}

/// What all threads share: what to restore, and how much of it.
pub(super) struct Terms<'a> {
    pub(super) options: &'a DirOptions,
    pub(super) budget: Budget,
    pub(super) meter: Meter,
}

pub(super) fn at(path: &[u8], source: io::Error) -> Error {
    Error::Output {
        path: path.to_vec(),
        source,
    }
}
