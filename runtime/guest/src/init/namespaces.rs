//! Runs a command as an init: process 1 of a PID namespace, with a `/proc` and a cgroup tree that
//! show only the command and its descendants. Later commands join its namespaces, as `docker exec`
//! does.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::mount::MountFlags;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::sys;

/// The namespaces of a command that runs as an init.
#[derive(Debug)]
pub(crate) struct Namespaces {
    pids: OwnedFd,
    mounts: OwnedFd,
    cgroups: OwnedFd,
}

/// How a child enters the namespaces between fork and exec.
#[derive(Debug)]
pub(crate) enum Entry {
    /// It creates them.
    New,
    /// It joins them.
    Join { mounts: OwnedFd, cgroups: OwnedFd },
}

impl Namespaces {
    /// Opens the namespaces of the process `pid`.
    pub(crate) fn of(proc: &OwnedFd, pid: u32) -> io::Result<Self> {
        Ok(Namespaces {
            pids: open(proc, &format!("{pid}/ns/pid"))?,
            mounts: open(proc, &format!("{pid}/ns/mnt"))?,
            cgroups: open(proc, &format!("{pid}/ns/cgroup"))?,
        })
    }

    /// Puts the next child of this process into the PID namespace, and returns what the child must
    /// do.
    fn prepare(&self) -> io::Result<Entry> {
        let entry = Entry::Join {
            mounts: self.mounts.try_clone()?,
            cgroups: self.cgroups.try_clone()?,
        };
        move_into_link_name_space(self.pids.as_fd(), Some(LinkNameSpaceType::ProcessID))?;
        Ok(entry)
    }
}

/// Calls `spawn`, whose children are in `namespaces`, or in new ones if there are none. Later
/// children are in this process's namespaces again.
pub(crate) fn within<T>(
    proc: &OwnedFd,
    namespaces: Option<&Namespaces>,
    spawn: impl FnOnce(Entry) -> T,
) -> io::Result<T> {
    let own = open(proc, "self/ns/pid")?;
    let entry = match namespaces {
        Some(namespaces) => namespaces.prepare()?,
        None => {
            sys::unshare_pids()?;
            Entry::New
        }
    };
    let spawned = spawn(entry);
    move_into_link_name_space(own.as_fd(), Some(LinkNameSpaceType::ProcessID))?;
    Ok(spawned)
}

impl Entry {
    /// Enters the namespaces. Called in the child, which is in its cgroup already.
    pub(crate) fn enter(&self) -> io::Result<()> {
        match self {
            Entry::New => {
                sys::unshare_mounts_and_cgroups()?;
                let plain = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
                rustix::mount::mount("proc", "/proc", "proc", plain, None)?;
                // The kernel may not support cgroups, or the container may have unmounted them.
                let _ = rustix::mount::mount("cgroup2", "/sys/fs/cgroup", "cgroup2", plain, None);
            }
            Entry::Join { mounts, cgroups } => {
                move_into_link_name_space(mounts.as_fd(), Some(LinkNameSpaceType::Mount))?;
                move_into_link_name_space(cgroups.as_fd(), Some(LinkNameSpaceType::ControlGroup))?;
            }
        }
        Ok(())
    }
}

fn open(proc: &OwnedFd, path: &str) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(proc, path, flags, Mode::empty())?)
}
