//! The devices of a machine.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::VmmError;

/// The longest serial of a disk, in bytes: `VIRTIO_BLK_ID_BYTES` of Linux's `virtio_blk.h`.
const MAX_SERIAL: usize = 20;

/// The longest tag of a share, in bytes: `tag` of Linux's `struct virtio_fs_config`.
const MAX_TAG: usize = 36;

/// The format of a disk's file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum DiskFormat {
    /// The disk's own bytes.
    Raw,
    /// A VMDK: a flat descriptor or a sparse extent.
    Vmdk,
    /// A qcow2 image.
    Qcow2,
}

impl DiskFormat {
    /// Returns the name of QEMU's block driver.
    pub(super) fn name(self) -> &'static str {
        match self {
            DiskFormat::Raw => "raw",
            DiskFormat::Vmdk => "vmdk",
            DiskFormat::Qcow2 => "qcow2",
        }
    }
}

/// A virtio-blk device. Disks appear in the guest as `/dev/vda`, `/dev/vdb` …, in the order of the
/// machine's list.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Disk {
    /// The serial by which the guest finds the disk (`/sys/block/*/serial`): 1 to 20 letters,
    /// digits, `-`, `_` and `.`.
    pub serial: String,
    /// The file.
    pub path: PathBuf,
    /// The file's format.
    pub format: DiskFormat,
    /// Whether the disk is read-only.
    pub read_only: bool,
}

impl Disk {
    /// Returns a writable disk with a raw image.
    pub fn raw(serial: impl Into<String>, path: impl Into<PathBuf>) -> Self {
        Disk {
            serial: serial.into(),
            path: path.into(),
            format: DiskFormat::Raw,
            read_only: false,
        }
    }

    /// Returns a read-only disk with a VMDK.
    pub fn vmdk(serial: impl Into<String>, path: impl Into<PathBuf>) -> Self {
        Disk::raw(serial, path).format(DiskFormat::Vmdk).read_only()
    }

    /// Sets the format.
    #[must_use]
    pub fn format(mut self, format: DiskFormat) -> Self {
        self.format = format;
        self
    }

    /// Makes the disk read-only.
    #[must_use]
    pub fn read_only(mut self) -> Self {
        self.read_only = true;
        self
    }
}

/// A virtio-net device whose Ethernet segment is a Unix stream socket: each frame follows its
/// length in bytes, 4 bytes big-endian. There is no virtio-net header, so there are no offloads.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct NetworkCard {
    /// The machine's end of a socket pair.
    pub socket: Arc<OwnedFd>,
    /// The card's Ethernet address.
    pub mac: [u8; 6],
}

impl NetworkCard {
    /// Returns a card that exchanges frames with the other end of `socket`.
    pub fn new(socket: impl Into<OwnedFd>, mac: [u8; 6]) -> Self {
        NetworkCard {
            socket: Arc::new(socket.into()),
            mac,
        }
    }
}

/// A folder of the host, as a virtio-fs device.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Share {
    /// The tag by which the guest mounts it: 1 to 36 letters, digits, `-`, `_` and `.`.
    pub tag: String,
    /// The folder.
    pub path: PathBuf,
    /// Whether the share is read-only.
    pub read_only: bool,
}

impl Share {
    /// Returns a writable share.
    pub fn new(tag: impl Into<String>, path: impl Into<PathBuf>) -> Self {
        Share {
            tag: tag.into(),
            path: path.into(),
            read_only: false,
        }
    }

    /// Makes the share read-only.
    #[must_use]
    pub fn read_only(mut self) -> Self {
        self.read_only = true;
        self
    }
}

/// The storage of a guest's memory.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum MemoryBacking {
    /// Private memory of the VM's process.
    #[default]
    Private,
    /// This file, which is created with the size of the memory. [`Vm::save`](crate::Vm::save) does
    /// not save it.
    File(PathBuf),
    /// Memory that is shared with this process. [`Vm::save`](crate::Vm::save) does not save it.
    Shared(SharedMemory),
    /// Private memory of the VM's process, initialised from this file, which is never changed.
    CopyOf(PathBuf),
}

/// A guest's memory in an unnamed file. Pages that the guest never touched are holes in it.
#[derive(Debug, Clone)]
pub struct SharedMemory(Arc<File>);

impl SharedMemory {
    /// Creates memory of this many MiB.
    ///
    /// # Errors
    ///
    /// If the file cannot be created.
    pub fn new(mebibytes: u32) -> io::Result<Self> {
        #[cfg(target_os = "linux")]
        let file = {
            let flags = rustix::fs::MemfdFlags::CLOEXEC;
            File::from(rustix::fs::memfd_create("blockbox-memory", flags)?)
        };
        #[cfg(not(target_os = "linux"))]
        let file = tempfile::tempfile()?;
        file.set_len(u64::from(mebibytes) << 20)?;
        Ok(Self(Arc::new(file)))
    }

    /// Returns the file.
    pub fn file(&self) -> &File {
        &self.0
    }
}

impl PartialEq for SharedMemory {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for SharedMemory {}

/// Checks the names of all devices.
pub(super) fn check_names(disks: &[Disk], shares: &[Share]) -> Result<(), VmmError> {
    for (kind, names, most) in [
        ("disk", names_of(disks, |disk| &disk.serial), MAX_SERIAL),
        ("share", names_of(shares, |share| &share.tag), MAX_TAG),
    ] {
        for (index, name) in names.iter().enumerate() {
            let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
            let reason = if name.is_empty() || name.len() > most || !name.chars().all(plain) {
                format!("use 1 to {most} letters, digits, `-`, `_` and `.`")
            } else if names.get(..index).unwrap_or_default().contains(name) {
                "another device of the machine has this name".to_owned()
            } else {
                continue;
            };
            return Err(VmmError::DeviceName {
                kind,
                name: (*name).to_owned(),
                reason,
            });
        }
    }
    Ok(())
}

fn names_of<T>(devices: &[T], name: impl Fn(&T) -> &String) -> Vec<&str> {
    devices.iter().map(|device| name(device).as_str()).collect()
}

/// Returns a path as a string, for interfaces that need UTF-8.
pub(super) fn text(path: &Path) -> Result<String, VmmError> {
    path.to_str()
        .map(str::to_owned)
        .ok_or_else(|| VmmError::PathNotUtf8(path.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_names_that_are_long_repeated_or_of_other_characters_are_rejected() {
        let check = |serials: &[&str], tags: &[&str]| {
            let disks: Vec<_> = serials.iter().map(|s| Disk::raw(*s, "/d")).collect();
            let shares: Vec<_> = tags.iter().map(|t| Share::new(*t, "/s")).collect();
            check_names(&disks, &shares)
        };
        assert!(check(&["a", "a-b_c.d"], &["a", &"t".repeat(36)]).is_ok());
        for wrong in ["", "a,readonly=off", "a b", "ä", &"s".repeat(21)] {
            let refused = check(&[wrong], &[]);
            assert!(
                matches!(&refused, Err(VmmError::DeviceName { kind: "disk", name, .. }) if name == wrong),
                "{wrong}: {refused:?}"
            );
        }
        assert!(check(&["a", "a"], &[]).is_err());
        assert!(check(&[], &["a", "a"]).is_err());
        assert!(check(&[], &[&"t".repeat(37)]).is_err());
    }
}
