//! Mounts a root from a disk that does not belong to an image: finds its file system by magic
//! number, in a partition or not.

mod table;

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::mount::MountFlags;

use super::failure::{Failure, Step};
use table::Table;

/// The access to the file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// Read-only: not even its journal is replayed.
    Read,
    /// Writable.
    Write,
}

/// A file system that is supported as a root.
#[derive(Debug, PartialEq, Eq)]
struct FileSystem {
    /// Its name in the kernel.
    name: &'static str,
    /// The offset of its magic number, in bytes.
    offset: u64,
    magic: &'static [u8],
    /// The mount option that keeps the kernel from replaying its journal.
    as_it_is: &'static str,
    writable: bool,
}

const FILE_SYSTEMS: [FileSystem; 5] = [
    // `EXT4_SUPER_MAGIC`, `s_magic`
    FileSystem {
        name: "ext4",
        offset: 1024 + 56,
        magic: &[0x53, 0xef],
        as_it_is: "noload",
        writable: true,
    },
    FileSystem {
        name: "xfs",
        offset: 0,
        magic: b"XFSB",
        as_it_is: "norecovery",
        writable: true,
    },
    FileSystem {
        name: "btrfs",
        offset: (64 << 10) + 64,
        magic: b"_BHRfS_M",
        as_it_is: "rescue=nologreplay",
        writable: true,
    },
    // `EROFS_SUPER_MAGIC_V1`
    FileSystem {
        name: "erofs",
        offset: 1024,
        magic: &[0xe2, 0xe1, 0xf5, 0xe0],
        as_it_is: "",
        writable: false,
    },
    FileSystem {
        name: "squashfs",
        offset: 0,
        magic: b"hsqs",
        as_it_is: "",
        writable: false,
    },
];

/// Mounts the root file system of the disk with the device node `disk` at `target`: that of the
/// partition with this number, or if it is 0 the root partition. `proc` is the path of procfs.
pub(crate) fn mount(
    disk: &Path,
    partition: u32,
    access: Access,
    proc: &Path,
    target: &Path,
) -> Result<(), Failure> {
    let found = find(disk, partition)?;
    let step = format!("mounting {}", found.display());
    let Some(kind) = probe(&found).step(step.clone())? else {
        let known = FILE_SYSTEMS.map(|kind| kind.name).join(", ");
        let reason = format!("it has none of the file systems {known}");
        return Err(Failure::new(step, reason));
    };
    let step = format!("{step} as {}", kind.name);
    let supported = fs::read_to_string(proc.join("filesystems")).step(step.clone())?;
    if !supported.lines().any(|line| line.trim() == kind.name) {
        return Err(Failure::new(
            step,
            "the guest's kernel lacks this file system",
        ));
    }
    let (flags, options) = match access {
        Access::Read => (MountFlags::RDONLY, kind.as_it_is),
        Access::Write if !kind.writable => {
            return Err(Failure::new(step, "it cannot be written to"));
        }
        Access::Write => (MountFlags::empty(), ""),
    };
    let options = std::ffi::CString::new(options).unwrap_or_default();
    rustix::mount::mount(&found, target, kind.name, flags, options.as_c_str()).step(step)
}

/// Returns the device node with the file system.
fn find(disk: &Path, partition: u32) -> Result<PathBuf, Failure> {
    let step = "looking for the root on the disk";
    let table = Table::read(&File::open(disk).step(step)?).step(step)?;
    let number = match (&table, partition) {
        (None, 0) => return Ok(disk.to_owned()),
        (None, _) => return Err(Failure::new(step, "it has no partition table")),
        (Some(table), 0) => table
            .root(std::env::consts::ARCH)
            .map_err(|reason| Failure::new(step, reason))?,
        (Some(_), number) => number,
    };
    let mut node = disk.as_os_str().to_owned();
    node.push(number.to_string());
    match fs::exists(&node) {
        Ok(true) => Ok(node.into()),
        _ => Err(Failure::new(step, format!("it has no partition {number}"))),
    }
}

/// Detects the file system on a device.
fn probe(device: &Path) -> io::Result<Option<&'static FileSystem>> {
    let device = File::open(device)?;
    for kind in &FILE_SYSTEMS {
        if read(&device, kind.offset, kind.magic.len())? == kind.magic {
            return Ok(Some(kind));
        }
    }
    Ok(None)
}

/// Reads up to `length` bytes; fewer at the device's end.
fn read(device: &File, offset: u64, length: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; length];
    let mut filled = 0;
    while let Some(rest) = bytes.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        let at = offset.saturating_add(filled as u64);
        if i64::try_from(at.saturating_add(rest.len() as u64)).is_err() {
            // The offset is beyond any device.
            break;
        }
        match device.read_at(rest, at) {
            Ok(0) => break,
            Ok(n) => filled = filled.saturating_add(n),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    bytes.truncate(filled);
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_system_is_detected_by_its_magic_number() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk");
        for kind in &FILE_SYSTEMS {
            let mut bytes = vec![0; 1 << 17];
            let start = kind.offset as usize;
            bytes[start..start + kind.magic.len()].copy_from_slice(kind.magic);
            fs::write(&path, bytes).unwrap();
            assert_eq!(probe(&path).unwrap(), Some(kind));
        }
        for nothing in [vec![], vec![0; 1 << 17], b"hsq".to_vec()] {
            fs::write(&path, nothing).unwrap();
            assert_eq!(probe(&path).unwrap(), None);
        }
    }

    #[test]
    fn a_disk_without_a_table_is_whole_and_has_no_partitions() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk");
        fs::write(&path, [0; 4096]).unwrap();
        assert_eq!(find(&path, 0).unwrap(), path);
        let refused = find(&path, 2).unwrap_err().to_string();
        assert!(refused.contains("no partition table"), "{refused}");
    }
}
