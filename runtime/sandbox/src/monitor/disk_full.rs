//! The disk of the host that is full.

use std::path::PathBuf;

use crate::error::Error;

/// The message about a paused machine.
pub(super) const PAUSED: &str =
    "the host's disk is full: the sandbox is paused until there is room";

/// The disk that the host has no space for.
#[derive(Debug, Default)]
pub(super) struct DiskFull {
    /// The disk, while the machine is paused for it.
    pub(super) disk: Option<PathBuf>,
    /// Whether the state does not show it yet.
    pub(super) changed: bool,
}

impl DiskFull {
    /// Returns why the guest does not answer, if it is paused.
    pub(super) fn refusal(&self) -> Option<&'static str> {
        self.disk.as_ref().map(|_| PAUSED)
    }

    /// Returns the error of a machine that could not go on, and forgets it.
    pub(super) fn take(&mut self) -> Option<Error> {
        self.changed = false;
        self.disk.take().map(|disk| Error::HostDiskFull { disk })
    }
}
