//! Roots that are disks instead of images.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// A disk of the host that is the root of a sandbox instead of an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct RootDisk {
    /// The path of the file or block device, without symbolic links.
    pub path: PathBuf,
    /// The format when the sandbox was made. It is not detected again, because a guest can write
    /// bytes to a raw disk that look like another format.
    pub format: RootFormat,
    /// The number of the root's partition; `None` finds it by the partitions' types.
    #[serde(default)]
    pub partition: Option<u32>,
    /// Whether the disk itself is written to. Otherwise changes are written to the sandbox's own
    /// disk.
    #[serde(default)]
    pub writable: bool,
}

/// The format of a disk's file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum RootFormat {
    /// The disk's own bytes.
    Raw,
    /// A qcow2 image.
    Qcow2,
    /// A VMDK.
    Vmdk,
}

impl RootDisk {
    /// Returns a read-only disk whose root partition is found by type.
    pub fn new(path: impl Into<PathBuf>, format: RootFormat) -> Self {
        Self {
            path: path.into(),
            format,
            partition: None,
            writable: false,
        }
    }

    /// Sets [`partition`](Self::partition).
    #[must_use]
    pub fn partition(mut self, partition: Option<u32>) -> Self {
        self.partition = partition;
        self
    }

    /// Sets [`writable`](Self::writable).
    #[must_use]
    pub fn writable(mut self, writable: bool) -> Self {
        self.writable = writable;
        self
    }
}
