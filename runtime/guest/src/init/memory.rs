//! File systems that are created detached, and mounted later.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::CWD;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, fsconfig_create, fsconfig_set_flag,
    fsconfig_set_string, fsmount, fsopen, move_mount,
};

/// Creates a detached tmpfs.
pub(crate) fn tmpfs(
    options: &[(&str, &str)],
    flags: MountAttrFlags,
) -> rustix::io::Result<OwnedFd> {
    let options: Vec<_> = options
        .iter()
        .map(|&(key, value)| (key, Some(value)))
        .collect();
    filesystem("tmpfs", "tmpfs", &options, flags)
}

/// Creates a detached mount of the file system `kind` on `source`. An option without a value is a
/// flag.
pub(crate) fn filesystem(
    kind: &str,
    source: &str,
    options: &[(&str, Option<&str>)],
    flags: MountAttrFlags,
) -> rustix::io::Result<OwnedFd> {
    let context = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(context.as_fd(), "source", source)?;
    for (key, value) in options {
        match value {
            Some(value) => fsconfig_set_string(context.as_fd(), *key, *value)?,
            None => fsconfig_set_flag(context.as_fd(), *key)?,
        }
    }
    fsconfig_create(context.as_fd())?;
    fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, flags)
}

/// Returns a path to the contents of an open folder, wherever it is mounted.
pub(crate) fn path_of(folder: &impl AsRawFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", folder.as_raw_fd()))
}

/// Mounts the detached mount `mount` on `target`.
pub(crate) fn attach(mount: &OwnedFd, target: &Path) -> rustix::io::Result<()> {
    move_mount(
        mount.as_fd(),
        "",
        CWD,
        target,
        MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_SYMLINKS,
    )
}
