//! Options of an extraction into a directory, and the state that its threads share.

use std::io;

use super::budget::Budget;
use super::meter::Meter;
use crate::error::Error;
use crate::progress::Progress;

/// Options of [`extract_to_dir`](super::extract_to_dir): what to restore.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct DirOptions {
    /// Whether to restore owners and groups, which requires root.
    pub owners: bool,
    /// Whether to create devices, which requires root. Otherwise they are skipped.
    pub devices: bool,
    /// Whether to restore xattrs. `trusted.*` and `security.*` require root.
    pub xattrs: bool,
    /// How many bytes of file contents and xattrs may be written, holes counted as if they were
    /// written; any number if `None`.
    ///
    /// A small image can describe files of any size: set this where the image is not trusted.
    pub max_bytes: Option<u64>,
    /// The callback that receives the progress of the extraction.
    pub progress: Option<Progress>,
}

impl Default for DirOptions {
    /// Everything is restored, which requires root.
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
    /// Returns options for a user without privileges: owners, devices and xattrs are not restored.
    ///
    /// ```
    /// use erofs_reader::extract::DirOptions;
    ///
    /// let options = DirOptions::unprivileged().max_bytes(Some(1 << 30));
    /// assert!(!options.owners);
    /// ```
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

/// State shared by all threads: what to restore, and the limit.
pub(super) struct Terms<'a> {
    pub(super) options: &'a DirOptions,
    pub(super) budget: Budget,
    pub(super) meter: Meter,
}

pub(super) fn at(path: &[u8], source: io::Error) -> Error {
    Error::Output {
        path: path.into(),
        source,
    }
}
