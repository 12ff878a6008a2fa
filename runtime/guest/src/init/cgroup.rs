//! A cgroup for each command: it accounts the usage of the command and its descendants, gives each
//! command its share of the CPUs, and kills them together.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};

/// The controllers of commands' cgroups.
const CONTROLLERS: [&str; 3] = ["cpu", "memory", "pids"];

/// The largest file that is read, in bytes.
const MOST_BYTES: u64 = 16 * 1024;

/// How deep cgroups that commands created may be nested to be removed. The kernel allows more.
const MOST_LEVELS: usize = 32;

/// How long to wait for processes to freeze. A process that waits for a frozen disk does not
/// freeze.
const FREEZE_TIME: Duration = Duration::from_millis(20);

/// The root of all cgroups. A kernel may not support cgroups.
#[derive(Debug)]
pub(crate) struct Cgroups {
    root: Option<Rc<OwnedFd>>,
    made: u32,
    /// Cgroups of commands that have ended, whose descendants may still run.
    left: Vec<Cgroup>,
}

/// The usage of a cgroup.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Usage {
    /// Bytes, without file contents that the kernel can drop at any time, as in `docker stats`.
    pub(crate) memory: u64,
    pub(crate) cpu_ns: u64,
    pub(crate) processes: u32,
}

#[derive(Debug)]
pub(crate) struct Cgroup {
    root: Rc<OwnedFd>,
    folder: OwnedFd,
    name: String,
}

impl Cgroups {
    /// Opens the container's `/sys/fs/cgroup`, which the container may unmount later.
    pub(crate) fn open() -> Self {
        let root = super::boot::open_dir("/sys/fs/cgroup".as_ref()).ok();
        if let Some(root) = &root {
            for controller in CONTROLLERS {
                // One at a time, because the kernel may lack any of them.
                let _ = write(root, "cgroup.subtree_control", &format!("+{controller}"));
            }
        }
        Cgroups {
            root: root.map(Rc::new),
            made: 0,
            left: Vec::new(),
        }
    }

    /// Creates a new cgroup, if possible.
    pub(crate) fn create(&mut self) -> Option<Cgroup> {
        let root = self.root.clone()?;
        self.made = self.made.wrapping_add(1);
        let name = format!("blockbox.{}", self.made);
        rustix::fs::mkdirat(&root, &name, Mode::from_raw_mode(0o755)).ok()?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = rustix::fs::openat(&root, &name, flags, Mode::empty()).ok()?;
        Some(Cgroup { root, folder, name })
    }

    /// Removes the cgroup of a command that has ended, now or after its descendants have ended.
    pub(crate) fn remove(&mut self, cgroup: Cgroup) {
        self.left.push(cgroup);
        self.sweep();
    }

    /// Freezes the processes in the cgroups of ended commands and in `others`, and waits briefly
    /// until they are frozen, or thaws them.
    pub(crate) fn freeze<'a>(&'a self, others: impl Iterator<Item = &'a Cgroup>, frozen: bool) {
        let all: Vec<_> = self.left.iter().chain(others).collect();
        for cgroup in &all {
            // If the kernel cannot freeze cgroups, they continue to run.
            let _ = write(
                &cgroup.folder,
                "cgroup.freeze",
                if frozen { "1" } else { "0" },
            );
        }
        let deadline = Instant::now() + FREEZE_TIME;
        while frozen && Instant::now() < deadline && all.iter().any(|cgroup| cgroup.is_moving()) {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Removes cgroups that are empty now.
    pub(crate) fn sweep(&mut self) {
        self.left.retain(|cgroup| !cgroup.try_remove());
    }
}

impl Cgroup {
    /// Moves the calling process into the cgroup.
    pub(crate) fn enter(folder: &OwnedFd) -> io::Result<()> {
        write(folder, "cgroup.procs", "0")
    }

    /// Returns the folder, for a child to [`enter`](Self::enter).
    pub(crate) fn folder(&self) -> io::Result<OwnedFd> {
        self.folder.try_clone()
    }

    /// Kills every process in it.
    pub(crate) fn kill(&self) -> io::Result<()> {
        write(&self.folder, "cgroup.kill", "1")
    }

    pub(crate) fn usage(&self) -> Usage {
        let number = |name: &str| read(&self.folder, name)?.trim().parse::<u64>().ok();
        let field = |name: &str, key: &str| {
            let text = read(&self.folder, name)?;
            let mut lines = text.lines().filter_map(|line| line.split_once(' '));
            lines
                .find(|(found, _)| *found == key)?
                .1
                .parse::<u64>()
                .ok()
        };
        let droppable = field("memory.stat", "inactive_file").unwrap_or(0);
        let memory = number("memory.current").unwrap_or(0);
        let processes = number("pids.current").unwrap_or(0);
        Usage {
            memory: memory.saturating_sub(droppable),
            cpu_ns: field("cpu.stat", "usage_usec")
                .unwrap_or(0)
                .saturating_mul(1000),
            processes: u32::try_from(processes).unwrap_or(u32::MAX),
        }
    }

    /// Returns whether a freeze is not complete.
    fn is_moving(&self) -> bool {
        read(&self.folder, "cgroup.events").is_some_and(|events| events.contains("frozen 0"))
    }

    fn try_remove(&self) -> bool {
        // Of the cgroups that its processes created, too, none has a process then.
        let ended = read(&self.folder, "cgroup.events")
            .is_some_and(|events| events.contains("populated 0"));
        if ended {
            remove_children(&self.folder, MOST_LEVELS);
        }
        match rustix::fs::unlinkat(&self.root, &self.name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(rustix::io::Errno::NOENT) => true,
            Err(_) => false,
        }
    }
}

/// Removes the folders in `folder`, of which `levels` lie within each other, as far as possible.
fn remove_children(folder: &OwnedFd, levels: usize) {
    let Some(levels) = levels.checked_sub(1) else {
        return;
    };
    for entry in Dir::read_from(folder).into_iter().flatten().flatten() {
        let name = entry.file_name();
        if entry.file_type() != FileType::Directory || name == c"." || name == c".." {
            continue;
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        if let Ok(child) = rustix::fs::openat(folder, name, flags, Mode::empty()) {
            remove_children(&child, levels);
        }
        let _ = rustix::fs::unlinkat(folder, name, AtFlags::REMOVEDIR);
    }
}

fn write(folder: &impl AsFd, name: &str, text: &str) -> io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CLOEXEC;
    let file = rustix::fs::openat(folder, name, flags, Mode::empty())?;
    File::from(file).write_all(text.as_bytes())
}

fn read(folder: &impl AsFd, name: &str) -> Option<String> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let file = rustix::fs::openat(folder, name, flags, Mode::empty()).ok()?;
    let mut text = String::new();
    File::from(file)
        .take(MOST_BYTES)
        .read_to_string(&mut text)
        .ok()?;
    Some(text)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use super::*;

    #[test]
    fn children_are_removed_with_their_children_to_a_depth() {
        let dir = tempfile::tempdir().unwrap();
        let deep = "a/".repeat(MOST_LEVELS);
        for path in ["one/two/three", "one/four", &deep] {
            std::fs::create_dir_all(dir.path().join(path)).unwrap();
        }
        std::fs::create_dir_all(dir.path().join("b").join(&deep)).unwrap();
        let folder = OwnedFd::from(File::open(dir.path()).unwrap());
        remove_children(&folder, MOST_LEVELS);
        let left: Vec<_> = std::fs::read_dir(dir.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert_eq!(left, ["b"]);
    }
}
