//! A cgroup for each command: it accounts the usage of the command and its descendants, gives each
//! command its share of the CPUs, and kills them together.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, Mode, OFlags};

/// The controllers of commands' cgroups.
const CONTROLLERS: [&str; 3] = ["cpu", "memory", "pids"];

/// The largest file that is read, in bytes.
const MOST_BYTES: u64 = 16 * 1024;

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
        // Fails while there are processes in it, or cgroups that they created.
        match rustix::fs::unlinkat(&self.root, &self.name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(rustix::io::Errno::NOENT) => true,
            Err(_) => false,
        }
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
