//! A cgroup for each command: it knows the command's descendants and their time on the CPUs, gives
//! each command its share of the CPUs, and freezes and kills them together.
//!
//! The CPU controller alone is enabled, so that init answers however many processes a command has.
//! The memory controller would charge each page, inode and directory entry, which slows commands
//! that work with files. Commands can enable what they need.

use std::ffi::CStr;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};

/// The largest file that is read, in bytes: a list of some 4,000 processes.
const MOST_BYTES: u64 = 32 * 1024;

/// How deep cgroups that commands created may be nested to be removed. The kernel allows more.
const MOST_LEVELS: usize = 32;

/// How many cgroups that commands created are asked for their processes.
const MOST_CGROUPS: usize = 1024;

/// How long to wait for processes to freeze. A process that waits for a frozen disk does not
/// freeze.
const FREEZE_TIME: Duration = Duration::from_millis(20);

/// How long after a command's start the cgroup of the next one is made, so that neither waits for
/// it.
const SPARE_DELAY: Duration = Duration::from_secs(1);

/// The root of all cgroups. A kernel may not support cgroups.
#[derive(Debug)]
pub(crate) struct Cgroups {
    root: Option<Rc<OwnedFd>>,
    made: u32,
    /// The cgroup of the next command. In a copy of the guest, whose kernel QEMU translates anew,
    /// making one takes as long as a twentieth of everything until the first output.
    spare: Option<Cgroup>,
    /// When the spare one is made.
    due: Option<Instant>,
    /// Cgroups of commands that have ended, whose descendants may still run.
    left: Vec<Cgroup>,
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
            // The kernel may lack it.
            let _ = write(root, "cgroup.subtree_control", "+cpu");
        }
        Cgroups {
            root: root.map(Rc::new),
            made: 0,
            spare: None,
            due: Some(Instant::now() + SPARE_DELAY),
            left: Vec::new(),
        }
    }

    /// Returns a new cgroup, if possible.
    pub(crate) fn create(&mut self) -> Option<Cgroup> {
        self.due = Some(Instant::now() + SPARE_DELAY);
        // A command may have removed it.
        let spare = self.spare.take().filter(Cgroup::exists);
        spare.or_else(|| self.make())
    }

    /// Returns when [`make_spare`](Self::make_spare) must be called.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.due
    }

    /// Makes the cgroup of the next command, if it is time.
    pub(crate) fn make_spare(&mut self) {
        if self.due.take_if(|due| Instant::now() >= *due).is_some() && self.spare.is_none() {
            self.spare = self.make();
        }
    }

    fn make(&mut self) -> Option<Cgroup> {
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

    /// Returns the ids of its processes, and of those in cgroups that they created.
    pub(crate) fn processes(&self) -> Vec<u32> {
        let mut ids = Vec::new();
        let mut left = MOST_CGROUPS;
        add_processes(&self.folder, MOST_LEVELS, &mut left, &mut ids);
        ids
    }

    /// Returns the time on the CPUs of all processes that are or were in it, in nanoseconds.
    pub(crate) fn cpu_ns(&self) -> u64 {
        let text = read(&self.folder, "cpu.stat").unwrap_or_default();
        let mut lines = text.lines().filter_map(|line| line.split_once(' '));
        let microseconds = lines
            .find(|(name, _)| *name == "usage_usec")
            .and_then(|(_, value)| value.parse::<u64>().ok());
        microseconds.unwrap_or(0).saturating_mul(1000)
    }

    fn exists(&self) -> bool {
        read(&self.folder, "cgroup.events").is_some()
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

/// Adds the processes of the cgroup `folder` and of those in it, `levels` deep and `left` in all.
fn add_processes(folder: &OwnedFd, levels: usize, left: &mut usize, ids: &mut Vec<u32>) {
    let (Some(levels), Some(others)) = (levels.checked_sub(1), left.checked_sub(1)) else {
        return;
    };
    *left = others;
    let text = read(folder, "cgroup.procs").unwrap_or_default();
    // What follows the last line break is a number that was cut off.
    let lines = text.rsplit_once('\n').map_or("", |(lines, _)| lines);
    ids.extend(lines.lines().filter_map(|line| line.parse::<u32>().ok()));
    children(folder, |_, child| {
        if let Some(child) = child {
            add_processes(&child, levels, left, ids);
        }
        *left > 0
    });
}

/// Removes the folders in `folder`, of which `levels` lie within each other, as far as possible.
fn remove_children(folder: &OwnedFd, levels: usize) {
    let Some(levels) = levels.checked_sub(1) else {
        return;
    };
    children(folder, |name, child| {
        if let Some(child) = child {
            remove_children(&child, levels);
        }
        let _ = rustix::fs::unlinkat(folder, name, AtFlags::REMOVEDIR);
        true
    });
}

/// Calls `each` for the folders in `folder` until it returns `false`, with `None` for one that
/// cannot be opened.
fn children(folder: &OwnedFd, mut each: impl FnMut(&CStr, Option<OwnedFd>) -> bool) {
    for entry in Dir::read_from(folder).into_iter().flatten().flatten() {
        let name = entry.file_name();
        if entry.file_type() != FileType::Directory || name == c"." || name == c".." {
            continue;
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        each(
            name,
            rustix::fs::openat(folder, name, flags, Mode::empty()).ok(),
        );
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
