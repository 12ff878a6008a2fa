//! Powers off: ends all processes, unmounts everything, and leaves an empty journal on the writable
//! disk.

use std::ffi::OsString;
use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStringExt;
use std::thread::sleep;
use std::time::{Duration, Instant};

use blockbox_protocol::Reply;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags};
use rustix::process::{WaitOptions, waitpid};
use rustix::system::RebootCommand;

use super::boot::Roots;
use super::control::Control;
use super::server::{self, End};
use super::{sys, trim};

/// How long killed processes may take to end; a process in an uninterruptible wait may never end.
const KILL_TIMEOUT: Duration = Duration::from_secs(5);

/// How long discarding free blocks may take.
const TRIM_TIMEOUT: Duration = Duration::from_secs(3);

/// How long sending the last messages to the host may take.
const FAREWELL_TIMEOUT: Duration = Duration::from_secs(2);

/// How often a remount is retried: the kernel releases a closed file's reference to its filesystem
/// a moment later.
const REMOUNT_TRIES: u32 = 50;

/// Ends everything and powers off. Each command gets its own stop signal, given by process id.
pub(crate) fn off(
    mut control: Control,
    roots: Roots,
    end: &End,
    commands: &[(u32, u32)],
    trim: bool,
) {
    // A process that writes to a frozen disk cannot be killed. Usually the disk is not frozen, and
    // this call fails.
    let _ = sys::thaw(roots.upper.as_fd());
    end_processes(end.grace, commands);
    if trim {
        // The disk may not support discards, and there is no time for a slow one.
        let _ = trim::all(roots.upper.as_fd(), Some(Instant::now() + TRIM_TIMEOUT));
    }
    // The host does not read what is unsent by then.
    let _ = control.flush_within(FAREWELL_TIMEOUT);
    let errno = match leave_disk(roots) {
        Ok(()) => 0,
        Err(errno) => {
            eprintln!("blockbox-init: unmounting: {}", std::io::Error::from(errno));
            errno.raw_os_error() as u32
        }
    };
    if end.told {
        control.send(&Reply::Bye { errno });
        let _ = control.flush_within(FAREWELL_TIMEOUT);
    }
    reset();
}

/// Ends the VM. Both monitors end on a reset; without ACPI a power-off would only halt the CPU.
pub(crate) fn reset() {
    rustix::fs::sync();
    let _ = rustix::system::reboot(RebootCommand::Restart);
}

fn end_processes(grace: Duration, commands: &[(u32, u32)]) {
    if !has_children() {
        return;
    }
    if !grace.is_zero() {
        let deadline = Instant::now() + grace;
        // A command with its own stop signal ends its processes itself, and gets the time for that.
        let own: Vec<_> = commands
            .iter()
            .filter(|(_, signal)| *signal != libc::SIGTERM as u32)
            .collect();
        for &&(pid, signal) in &own {
            // It may have ended meanwhile.
            let _ = sys::kill(pid, signal);
        }
        while own.iter().any(|(pid, _)| sys::kill(*pid, 0).is_ok()) && Instant::now() < deadline {
            reap_some();
            sleep(Duration::from_millis(1));
        }
        // Stopped processes must continue to receive SIGTERM.
        let asked = sys::kill_all(libc::SIGTERM).and_then(|()| sys::kill_all(libc::SIGCONT));
        if asked.is_ok() && all_ended(deadline.saturating_duration_since(Instant::now())) {
            return;
        }
    }
    // If there are no processes left, this fails, which is fine.
    let _ = sys::kill_all(libc::SIGKILL);
    all_ended(KILL_TIMEOUT);
}

/// Waits until this process has no children: all processes are its descendants.
fn all_ended(timeout: Duration) -> bool {
    let deadline = Instant::now() + timeout;
    while has_children() {
        if Instant::now() >= deadline {
            return false;
        }
        sleep(Duration::from_millis(1));
    }
    true
}

/// Reaps some ended children; not all, because more may end as fast.
fn reap_some() {
    for _ in 0..server::REAPED_AT_A_TIME {
        if server::reap_one().is_none() {
            return;
        }
    }
}

fn has_children() -> bool {
    reap_some();
    !matches!(waitpid(None, WaitOptions::NOHANG), Err(Errno::CHILD))
}

fn leave_disk(roots: Roots) -> Result<(), Errno> {
    rustix::process::chdir("/")?;
    unmount_all(&roots);
    let Roots {
        upper,
        merged,
        proc,
        memory,
    } = roots;
    rustix::process::fchdir(&upper)?;
    rustix::process::chroot(".")?;
    // "." is the directory itself, not a mount on it: this is the overlay, and below it the disk.
    rustix::process::fchdir(&merged)?;
    rustix::mount::unmount(".", UnmountFlags::DETACH)?;
    rustix::process::fchdir(&upper)?;
    drop((merged, proc, memory));
    rustix::fs::sync();

    let mut result = Ok(());
    for _ in 0..REMOUNT_TRIES {
        result = rustix::mount::mount_remount(".", MountFlags::RDONLY, "");
        if result != Err(Errno::BUSY) {
            break;
        }
        sleep(Duration::from_millis(10));
    }
    if result.is_err() {
        // A freeze empties the journal as well, even if files on the filesystem are still open.
        result = sys::freeze(upper.as_fd())
            .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO));
    }
    result
}

/// Unmounts everything in the container except its root, in reverse order of mounting.
fn unmount_all(roots: &Roots) {
    for flags in [UnmountFlags::empty(), UnmountFlags::DETACH] {
        for target in mount_points(roots).into_iter().rev() {
            // A mount that is busy now can be unmounted after those on it, or is detached with the
            // container's root.
            let _ = rustix::mount::unmount(&target, flags | UnmountFlags::NOFOLLOW);
        }
    }
}

/// Returns the mount points below the container's root, in the order of mounting.
fn mount_points(roots: &Roots) -> Vec<OsString> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let mut text = Vec::new();
    let opened = rustix::fs::openat(&roots.proc, "self/mountinfo", flags, Mode::empty());
    if let Ok(fd) = opened {
        // Mounts that cannot be listed are detached with the container's root.
        let _ = std::fs::File::from(fd).read_to_end(&mut text);
    }
    text.split(|&byte| byte == b'\n')
        .filter_map(|line| line.split(|&byte| byte == b' ').nth(4))
        .filter(|target| *target != b"/")
        .map(|target| OsString::from_vec(unescape(target)))
        .collect()
}

/// Decodes the octal escapes of `/proc/*/mountinfo`.
fn unescape(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = text;
    while let Some((&byte, after)) = rest.split_first() {
        let octal = after.get(..3).filter(|_| byte == b'\\').and_then(|digits| {
            let digits = std::str::from_utf8(digits).ok()?;
            u8::from_str_radix(digits, 8).ok()
        });
        match octal {
            Some(value) => {
                out.push(value);
                rest = after.get(3..).unwrap_or_default();
            }
            None => {
                out.push(byte);
                rest = after;
            }
        }
    }
    out
}
