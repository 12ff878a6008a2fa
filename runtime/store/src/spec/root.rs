//! A root that is no image's.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// A disk of the host that is the root of a sandbox, in place of an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct RootDisk {
    /// The file, or block device, without links.
    pub path: PathBuf,
    /// The format that it had when the sandbox was made. What a guest writes to a raw disk may look
    /// like another one.
    pub format: RootFormat,
    /// The number of the partition with the root; `None` is found by the partitions' types.
    #[serde(default)]
    pub partition: Option<u32>,
    /// Whether the disk itself is written to. Otherwise changes are on the sandbox's own disk.
    #[serde(default)]
    pub writable: bool,
}

/// What the bytes of a disk's file mean.
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
    /// A disk that is only read, whose root is found.
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
