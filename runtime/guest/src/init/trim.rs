//! Discards free blocks of the writable disk: a file removed in the container takes space on the
//! host until then.

use std::fs::File;
use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use rustix::io::Errno;

use super::sys;

/// How many bytes one call trims: few enough to check the deadline in between.
const STEP: u64 = 8 << 30;

/// How often init checks whether a trim is worthwhile.
pub(crate) const INTERVAL: Duration = Duration::from_secs(300);

/// How much must have been written since the last trim, in KiB, to make one worthwhile.
const WORTHWHILE: u64 = 64 << 10;

/// How much must have been written since the last time, in KiB, to make a discard of the journal
/// worthwhile: copying as much takes the host about as long.
const JOURNAL: u64 = 16 << 10;

/// Trims the filesystem that `root` belongs to, at most until `deadline`.
pub(crate) fn all(root: BorrowedFd<'_>, deadline: Option<Instant>) -> io::Result<()> {
    let size = rustix::fs::fstatvfs(root)?;
    let size = size.f_blocks.saturating_mul(size.f_frsize);
    for start in (0..size).step_by(STEP as usize) {
        match sys::trim(root, start, STEP) {
            Ok(_) => {}
            // The last range has no block groups of its own.
            Err(error)
                if start > 0 && error.raw_os_error() == Some(Errno::INVAL.raw_os_error()) => {}
            Err(error) => return Err(error),
        }
        if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            return Err(Errno::TIMEDOUT.into());
        }
    }
    Ok(())
}

/// Tracks how much was written since the last trim.
#[derive(Debug)]
pub(crate) struct Written {
    /// `session_write_kbytes` of the disk, if the kernel has it.
    counter: Option<File>,
    at_last_trim: u64,
    at_last_discard: u64,
    next_look: Instant,
}

impl Written {
    /// Opens the counter in the container's `/sys`.
    pub(crate) fn open(disk: Option<&str>) -> Self {
        let name = disk.and_then(|device| device.rsplit('/').next());
        let path = name.map(|name| format!("/sys/fs/ext4/{name}/session_write_kbytes"));
        Written {
            counter: path.and_then(|path| File::open(path).ok()),
            at_last_trim: 0,
            at_last_discard: 0,
            next_look: Instant::now() + INTERVAL,
        }
    }

    /// Returns when to check again.
    pub(crate) fn next_look(&self) -> Option<Instant> {
        self.counter.is_some().then_some(self.next_look)
    }

    /// Returns whether to trim now.
    pub(crate) fn is_worthwhile(&mut self) -> bool {
        if Instant::now() < self.next_look {
            return false;
        }
        self.next_look = Instant::now() + INTERVAL;
        self.since_last_trim()
            .is_some_and(|written| written >= WORTHWHILE)
    }

    /// Returns whether anything can have been freed since the last trim.
    pub(crate) fn is_possible(&self) -> bool {
        self.since_last_trim().is_none_or(|written| written > 0)
    }

    /// Records that the disk is being trimmed.
    pub(crate) fn trimmed(&mut self) {
        if let Some(written) = self.read() {
            self.at_last_trim = written;
        }
    }

    /// Returns whether the journal may hold much, which the caller then discards.
    pub(crate) fn takes_journal(&mut self) -> bool {
        let Some(written) = self.read() else {
            return false;
        };
        let worthwhile = written.saturating_sub(self.at_last_discard) >= JOURNAL;
        if worthwhile {
            self.at_last_discard = written;
        }
        worthwhile
    }

    fn since_last_trim(&self) -> Option<u64> {
        Some(self.read()?.saturating_sub(self.at_last_trim))
    }

    fn read(&self) -> Option<u64> {
        let mut text = [0; 32];
        let length = self.counter.as_ref()?.read_at(&mut text, 0).ok()?;
        std::str::from_utf8(text.get(..length)?)
            .ok()?
            .trim()
            .parse()
            .ok()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use std::fs;
    use std::os::fd::AsFd;
    use std::os::unix::fs::MetadataExt;

    use testkit::{Mount, kernel_mounts, oracle};

    use super::*;

    #[test]
    fn a_journal_that_much_was_written_to_takes_no_room_once_it_is_discarded() {
        let (Some(mut mke2fs), true) = (oracle("mke2fs"), kernel_mounts()) else {
            return;
        };
        let folder = tempfile::tempdir().unwrap();
        let image = folder.path().join("image");
        File::create(&image).unwrap().set_len(64 << 20).unwrap();
        let options = ["-q", "-t", "ext4", "-J", "size=8"];
        let output = mke2fs.args(options).arg(&image).output().unwrap();
        assert!(output.status.success(), "{output:?}");

        let mount = Mount::ext4(&image, true);
        let root = File::open(mount.path()).unwrap();
        let number = rustix::fs::minor(root.metadata().unwrap().dev());
        let mut written = Written::open(Some(&format!("/dev/loop{number}")));
        assert!(!written.takes_journal());
        for round in 0..20 {
            let file = File::create(mount.path().join("file")).unwrap();
            file.write_all_at(&vec![round; 1 << 20], 0).unwrap();
            for entry in 0..50 {
                let path = mount.path().join(format!("{round}-{entry}"));
                fs::write(path, "x").unwrap();
            }
            rustix::fs::syncfs(&root).unwrap();
        }
        assert!(written.takes_journal());
        assert!(!written.takes_journal());

        let blocks = || {
            File::open(&image).unwrap().sync_all().unwrap();
            fs::metadata(&image).unwrap().blocks()
        };
        let before = blocks();
        sys::empty_journal(root.as_fd()).unwrap();
        let after = blocks();
        // mke2fs and the 20 rounds wrote at least a MiB of it.
        assert!(after + 2048 < before, "{before} {after}");
        fs::write(mount.path().join("last"), "x").unwrap();
        drop((root, mount));
        let output = oracle("e2fsck").unwrap().arg("-fn").arg(&image).output();
        assert!(output.unwrap().status.success());
    }
}
