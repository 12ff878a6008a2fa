//! Folders in memory: a tmpfs on a folder of the container, which holds what the image has there.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::CWD;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, fsconfig_create,
    fsconfig_set_string, fsmount, fsopen, move_mount,
};

use super::boot::make_dir;
use super::copy::{self, Limits};
use super::failure::{Failure, Step};

/// The most entries that are copied into memory.
const MOST_ENTRIES: u64 = 65_536;

/// Mounts a tmpfs on `target`, which is made with `mode` where it is missing, and copies into it what the image has there. A
/// folder that takes more than an eighth of the guest's memory stays on the disk, and the failure says so.
pub(crate) fn mount(target: &str, mode: u32) -> Result<(), Failure> {
    let path = Path::new(target);
    let step = || format!("putting {target} into memory");
    make_dir(path, mode)?;
    // An image may have a link for a folder: to another folder, or to something that is not to be hidden.
    let resolved = path.canonicalize().step(step())?;
    if on_other_filesystem(&resolved).step(step())? {
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
    let flags = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
    let memory = tmpfs(&[("mode", "0755")], flags).step(step())?;
    copy::tree(&resolved, &path_of(&memory)).step(step())?;
    attach(&memory, &resolved).step(step())
}

/// Whether `path` is the root, or not of the root's file system.
fn on_other_filesystem(path: &Path) -> rustix::io::Result<bool> {
    let (root, found) = (rustix::fs::stat("/")?, rustix::fs::stat(path)?);
    Ok(path == Path::new("/") || root.st_dev != found.st_dev)
}

/// A tmpfs that is mounted nowhere yet.
pub(crate) fn tmpfs(
    options: &[(&str, &str)],
    flags: MountAttrFlags,
) -> rustix::io::Result<OwnedFd> {
    let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(context.as_fd(), "source", "tmpfs")?;
    for (key, value) in options {
        fsconfig_set_string(context.as_fd(), *key, *value)?;
    }
    fsconfig_create(context.as_fd())?;
    fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, flags)
}

/// A path to what an open folder holds, wherever it is mounted.
pub(crate) fn path_of(folder: &OwnedFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", folder.as_raw_fd()))
}

/// Mounts the tree `mount`, which is mounted nowhere yet, on `target`.
pub(crate) fn attach(mount: &OwnedFd, target: &Path) -> rustix::io::Result<()> {
    move_mount(
        mount.as_fd(),
        "",
        CWD,
        target,
        MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_SYMLINKS,
    )
}
