//! `/etc/hostname`, `/etc/hosts` and `/etc/resolv.conf`, where the image has none of its own.
//!
//! As with docker they are mounts, so that the sandbox's disk never holds their contents; what a mount needs to lie on, an
//! empty file, is made where it is missing.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags};

use super::boot::make_dir;
use super::failure::{Failure, Step, tolerate};

/// Provides the files. A guest can do without, so failures only show on the console.
pub(crate) fn provide(hostname: &str) {
    let files = [
        ("hostname", format!("{hostname}\n")),
        (
            "hosts",
            format!(
                "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::\tip6-localnet\n\
                 ff00::\tip6-mcastprefix\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n127.0.1.1\t{hostname}\n"
            ),
        ),
        (
            "resolv.conf",
            "# This sandbox has no network, and so no name server.\n".to_owned(),
        ),
    ];
    let missing: Vec<_> = files
        .into_iter()
        .filter(|(name, _)| is_empty(name))
        .collect();
    if missing.is_empty() {
        return;
    }
    match memory() {
        Ok(memory) => {
            for (name, contents) in missing {
                tolerate(put(&memory, name, &contents));
            }
        }
        Err(failure) => tolerate(Err(failure)),
    }
}

fn is_empty(name: &str) -> bool {
    match fs::metadata(Path::new("/etc").join(name)) {
        Ok(metadata) => metadata.is_file() && metadata.len() == 0,
        Err(_) => true,
    }
}

/// A tmpfs that is mounted nowhere.
fn memory() -> Result<OwnedFd, Failure> {
    let step = "making a tmpfs for files in /etc";
    let context = rustix::mount::fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC).step(step)?;
    rustix::mount::fsconfig_set_string(context.as_fd(), "mode", "0755").step(step)?;
    rustix::mount::fsconfig_create(context.as_fd()).step(step)?;
    rustix::mount::fsmount(
        context.as_fd(),
        FsMountFlags::FSMOUNT_CLOEXEC,
        MountAttrFlags::empty(),
    )
    .step(step)
}

fn put(memory: &OwnedFd, name: &str, contents: &str) -> Result<(), Failure> {
    let target = Path::new("/etc").join(name);
    let step = || format!("providing {}", target.display());
    make_dir(Path::new("/etc"), 0o755)?;
    fs::OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o644)
        .open(&target)
        .step(step())?;

    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::CLOEXEC;
    let file = rustix::fs::openat(memory, name, flags, Mode::from_raw_mode(0o644)).step(step())?;
    rustix::io::write(&file, contents.as_bytes()).step(step())?;
    let tree = rustix::mount::open_tree(
        memory,
        name,
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC,
    )
    .step(step())?;
    rustix::mount::move_mount(
        tree.as_fd(),
        "",
        rustix::fs::CWD,
        &target,
        MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_SYMLINKS,
    )
    .step(step())
}
