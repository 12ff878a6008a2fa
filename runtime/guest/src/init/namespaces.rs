//! A command as an init wants to be: process 1 of a PID namespace, with a `/proc` and a cgroup tree
//! that show no more than it and its descendants. Later commands join it there, as `docker exec`
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

/// What a child does between fork and exec to be in the namespaces.
#[derive(Debug)]
pub(crate) enum Entry {
    /// It makes them.
    New,
    /// It joins them.
    Join { mounts: OwnedFd, cgroups: OwnedFd },
}

impl Namespaces {
    /// Those of the process `pid`.
    pub(crate) fn of(proc: &OwnedFd, pid: u32) -> io::Result<Self> {
        Ok(Namespaces {
            pids: open(proc, &format!("{pid}/ns/pid"))?,
            mounts: open(proc, &format!("{pid}/ns/mnt"))?,
            cgroups: open(proc, &format!("{pid}/ns/cgroup"))?,
        })
    }

    /// Has the next child of this process be in the PID namespace, and says what the child must do.
    fn prepare(&self) -> io::Result<Entry> {
        let entry = Entry::Join {
            mounts: self.mounts.try_clone()?,
            cgroups: self.cgroups.try_clone()?,
        };
        move_into_link_name_space(self.pids.as_fd(), Some(LinkNameSpaceType::ProcessID))?;
        Ok(entry)
    }
}

/// Runs `spawn`, whose children are in `namespaces`, or in new ones where there are none.
/// Afterwards children are again where this process is.
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
    /// In the child, which is in its cgroup already.
    pub(crate) fn enter(&self) -> io::Result<()> {
        match self {
            Entry::New => {
                sys::unshare_mounts_and_cgroups()?;
                let plain = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
                rustix::mount::mount("proc", "/proc", "proc", plain, None)?;
                // A kernel, or a container, may be without it.
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
