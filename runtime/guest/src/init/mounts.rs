//! The host's mounts in the container: tmpfs, shares, other disks, folders of the sandbox's own
//! disk.

use std::ffi::OsStr;
use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use blockbox_protocol::{DISK_DIR, Mount, MountSource};
use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::mount::{MountAttrFlags, MountFlags, OpenTreeFlags, UnmountFlags, open_tree};

use super::boot::{Roots, make_dir};
use super::copy::{self, Limits};
use super::failure::{Failure, Step, Warnings};
use super::{devices, memory};

/// The most entries that are copied into a tmpfs.
const MOST_ENTRIES: u64 = 65_536;

/// The temporary name of a folder on the sandbox's disk while it is filled from the image.
const UNFINISHED: &str = ".unfinished";

/// Mounts everything in order.
pub(crate) fn provide(
    mounts: &[Mount],
    roots: &Roots,
    warnings: &mut Warnings,
) -> Result<(), Failure> {
    // The root is mounted already.
    let others = mounts
        .iter()
        .filter(|mount| root_partition(mount).is_none());
    for mount in others {
        let target = target(&mount.target)?;
        match mount.source {
            // If this fails, the image's folder stays, on the disk.
            MountSource::Memory { size, mode } if mount.copy_up => {
                warnings.tolerate(memory_over_image(target, mount, size, mode));
            }
            _ => provide_one(mount, target, roots)?,
        }
    }
    Ok(())
}

/// Returns the partition of the root disk, if `mount` is the root; 0 means that it must be found.
pub(crate) fn root_partition(mount: &Mount) -> Option<u32> {
    match mount.source {
        MountSource::Root { partition } => Some(partition),
        _ => None,
    }
}

/// Returns the path of a mount in the container.
pub(crate) fn target(bytes: &[u8]) -> Result<&Path, Failure> {
    let path = Path::new(OsStr::from_bytes(bytes));
    let plain = path.is_absolute() && path.file_name().is_some() && !bytes.contains(&0);
    if !plain || path.components().any(|part| part.as_os_str() == "..") {
        let reason = "not an absolute path below the root";
        return Err(Failure::new(format!("mounting {}", path.display()), reason));
    }
    Ok(path)
}

/// Makes the mount at `target` read-only.
pub(crate) fn read_only(target: &Path) -> Result<(), Failure> {
    let flags = MountFlags::BIND | MountFlags::RDONLY;
    rustix::mount::mount_remount(target, flags, "")
        .step(format!("making {} read-only", target.display()))
}

/// Mounts a tmpfs on `target`, which is created if it is missing, with a copy of the image's files
/// there. A folder that takes more than an eighth of the guest's memory stays on the disk, with a
/// warning.
fn memory_over_image(target: &Path, mount: &Mount, size: u64, mode: u32) -> Result<(), Failure> {
    let step = || format!("putting {} into memory", target.display());
    make_dir(target, mode)?;
    // An image may have a link instead of a folder: to another folder, or to a file that must not
    // be hidden.
    let resolved = target.canonicalize().step(step())?;
    let (root, found) = (
        rustix::fs::stat("/").step(step())?,
        rustix::fs::stat(&resolved).step(step())?,
    );
    if resolved == Path::new("/") || root.st_dev != found.st_dev {
        let reason = format!("{} is not a folder of the image", resolved.display());
        return Err(Failure::new(step(), reason));
    }
    let mut limits = Limits {
        bytes: rustix::system::sysinfo().totalram / 8,
        entries: MOST_ENTRIES,
    };
    if !limits.hold(&resolved).step(step())? {
        let reason = "the image has too much there; it stays on the disk";
        return Err(Failure::new(step(), reason));
    }
    let tree = open_memory(mount, size, mode).step(step())?;
    copy::tree(&resolved, &memory::path_of(&tree)).step(step())?;
    memory::attach(&tree, &resolved).step(step())
}

fn provide_one(mount: &Mount, target: &Path, roots: &Roots) -> Result<(), Failure> {
    let step = || format!("mounting {}", target.display());
    let tree = match &mount.source {
        MountSource::Memory { size, mode } => open_memory(mount, *size, *mode).step(step())?,
        MountSource::Share { tag, path } => {
            let tree = open_filesystem(mount, "virtiofs", tag)
                .step(format!("{} from the share {tag}", step()))?;
            part_of(tree, path, roots).step(step())?
        }
        MountSource::Disk {
            serial,
            filesystem,
            path,
        } => {
            let device = devices::disk(serial)
                .ok_or_else(|| Failure::new(step(), format!("there is no disk {serial}")))?;
            let tree = open_filesystem(mount, filesystem, &device)
                .step(format!("{} from {device} as {filesystem}", step()))?;
            part_of(tree, path, roots).step(step())?
        }
        MountSource::SandboxDisk => sandbox_folder(mount, target, roots)?,
        other => {
            let reason = format!("this init knows no mount of the kind {other:?}");
            return Err(Failure::new(step(), reason));
        }
    };
    let is_folder = memory::path_of(&tree).is_dir();
    if is_folder {
        if mount.copy_up && target.is_dir() && !matches!(mount.source, MountSource::SandboxDisk) {
            fill(target, &memory::path_of(&tree)).step(format!("{}: copying", step()))?;
        }
        make_dir(target, 0o755)?;
    } else {
        make_file(target).step(step())?;
    }
    memory::attach(&tree, target).step(step())?;
    if mount.read_only {
        read_only(target)?;
    }
    Ok(())
}

fn open_memory(mount: &Mount, size: u64, mode: u32) -> rustix::io::Result<OwnedFd> {
    let (mode, size) = (format!("{mode:o}"), size.to_string());
    let mut options = vec![("mode", Some(&*mode))];
    if size != "0" {
        options.push(("size", Some(&*size)));
    }
    options.extend(options_of(mount));
    let flags = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
    memory::filesystem("tmpfs", "tmpfs", &options, flags)
}

fn open_filesystem(mount: &Mount, kind: &str, source: &str) -> rustix::io::Result<OwnedFd> {
    let mut options: Vec<_> = options_of(mount).collect();
    if mount.read_only && kind != "virtiofs" {
        options.push(("ro", None));
    }
    memory::filesystem(kind, source, &options, MountAttrFlags::MOUNT_ATTR_NODEV)
}

/// Returns the options of a mount.
fn options_of(mount: &Mount) -> impl Iterator<Item = (&str, Option<&str>)> {
    let options = mount.options.split(',').filter(|option| !option.is_empty());
    options.map(|option| match option.split_once('=') {
        Some((key, value)) => (key, Some(value)),
        None => (option, None),
    })
}

/// Returns a file or folder of the detached mount `tree`.
fn part_of(tree: OwnedFd, path: &[u8], roots: &Roots) -> std::io::Result<OwnedFd> {
    if path.is_empty() {
        return Ok(tree);
    }
    // Only an attached mount can be cloned: it is attached briefly in init's own tmpfs.
    let staging = memory::path_of(&roots.memory).join("staging");
    if !staging.is_dir() {
        fs::create_dir(&staging)?;
    }
    memory::attach(&tree, &staging)?;
    // A share may contain links, which must not lead out of it.
    let part = rustix::fs::openat2(
        &tree,
        Path::new(OsStr::from_bytes(path)),
        OFlags::PATH | OFlags::CLOEXEC,
        Mode::empty(),
        ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
    )
    .and_then(|part| clone(&part, ""));
    rustix::mount::unmount(&staging, UnmountFlags::DETACH)?;
    Ok(part?)
}

fn clone(folder: &impl AsFd, path: &str) -> rustix::io::Result<OwnedFd> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    if path.is_empty() {
        flags |= OpenTreeFlags::AT_EMPTY_PATH;
    }
    open_tree(folder.as_fd(), path, flags)
}

/// Returns the folder of the sandbox's disk for `target`, which is created and filled if needed.
fn sandbox_folder(mount: &Mount, target: &Path, roots: &Roots) -> Result<OwnedFd, Failure> {
    let step = || format!("mounting {} from the sandbox's disk", target.display());
    let parent = memory::path_of(&roots.upper).join(DISK_DIR.trim_start_matches('/'));
    make_dir(&parent, 0o700)?;
    let name = folder_name(target).ok_or_else(|| Failure::new(step(), "the path is too long"))?;
    let folder = parent.join(&name);
    if !folder.is_dir() {
        let unfinished = parent.join(UNFINISHED);
        if unfinished.exists() {
            fs::remove_dir_all(&unfinished).step(step())?;
        }
        make_dir(&unfinished, 0o755)?;
        if mount.copy_up && target.is_dir() {
            copy::tree(target, &unfinished).step(format!("{}: copying", step()))?;
        }
        fs::rename(&unfinished, &folder).step(step())?;
    }
    let folder = super::boot::open_dir(&folder)?;
    clone(&folder, "").step(step())
}

/// Returns a unique folder name for each path, with escaped slashes.
fn folder_name(target: &Path) -> Option<String> {
    let mut name = String::new();
    for &byte in target.as_os_str().as_bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' => name.push(char::from(byte)),
            _ => name.push_str(&format!("%{byte:02x}")),
        }
    }
    (name.len() <= 255).then_some(name)
}

/// Copies the image's files at `from` into the folder `to`, unless it is not empty.
fn fill(from: &Path, to: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(to)? {
        if entry?.file_name() != "lost+found" {
            return Ok(());
        }
    }
    copy::tree(from, to)
}

/// Creates an empty file as a mount point, if it does not exist.
fn make_file(target: &Path) -> std::io::Result<()> {
    if fs::metadata(target).is_ok_and(|metadata| !metadata.is_dir()) {
        return Ok(());
    }
    if let Some(parent) = target.parent() {
        fs::create_dir_all(parent)?;
    }
    fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o644)
        .open(target)
        .map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_absolute_paths_below_the_root_are_mounted_on() {
        assert!(target(b"/data").is_ok() && target(b"/a/b/").is_ok());
        for wrong in ["", "/", "data", "/a/../b", "/..", "/a\0b"] {
            assert!(target(wrong.as_bytes()).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn every_path_has_a_folder_of_its_own() {
        let name = |path: &str| folder_name(Path::new(path));
        assert_eq!(name("/var/lib").as_deref(), Some("%2fvar%2flib"));
        assert_ne!(name("/a/b"), name("/a%2fb"));
        assert_eq!(name(&"/x".repeat(100)), None);
    }

    #[test]
    fn options_are_flags_and_values() {
        let source = MountSource::SandboxDisk;
        let mount = Mount::new("/x", source).options("noatime,size=5,,a=b=c");
        let options: Vec<_> = options_of(&mount).collect();
        assert_eq!(
            options,
            [("noatime", None), ("size", Some("5")), ("a", Some("b=c"))]
        );
    }
}
