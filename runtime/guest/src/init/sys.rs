//! System calls that rustix does not wrap. The only unsafe code of init.

#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::mem::{size_of, zeroed};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::io::Errno;

/// `FIFREEZE` of `include/uapi/linux/fs.h`: `_IOWR('X', 119, int)`.
const FIFREEZE: libc::c_ulong = 0xc004_5877;
/// `FITHAW` of `include/uapi/linux/fs.h`: `_IOWR('X', 120, int)`.
const FITHAW: libc::c_ulong = 0xc004_5878;

fn checked(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

/// A descriptor that is readable while a child waits to be reaped. From here on `SIGCHLD` is delivered nowhere else.
pub(crate) fn child_signals() -> io::Result<File> {
    // SAFETY: an all-zero sigset_t is a valid value, and sigemptyset initialises it in any case.
    let mut set: libc::sigset_t = unsafe { zeroed() };
    // SAFETY: `set` is a valid sigset_t for all three calls; the old mask is not asked for.
    unsafe {
        libc::sigemptyset(&mut set);
        libc::sigaddset(&mut set, libc::SIGCHLD);
        checked(libc::sigprocmask(
            libc::SIG_BLOCK,
            &set,
            std::ptr::null_mut(),
        ))?;
    }
    // SAFETY: `set` is initialised; -1 asks for a new descriptor.
    let fd = checked(unsafe { libc::signalfd(-1, &set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) })?;
    // SAFETY: the descriptor was just made, and nobody else owns it.
    Ok(File::from(unsafe { OwnedFd::from_raw_fd(fd) }))
}

/// Unblocks all signals: a command inherits what init blocks, and expects nothing blocked.
pub(crate) fn unblock_signals() -> io::Result<()> {
    // SAFETY: an all-zero sigset_t is a valid value, and sigemptyset initialises it in any case.
    let mut set: libc::sigset_t = unsafe { zeroed() };
    // SAFETY: `set` is a valid sigset_t for both calls; the old mask is not asked for.
    unsafe {
        libc::sigemptyset(&mut set);
        checked(libc::sigprocmask(
            libc::SIG_SETMASK,
            &set,
            std::ptr::null_mut(),
        ))?;
    }
    Ok(())
}

/// Bytes of one record of [`child_signals`].
pub(crate) const SIGNAL_RECORD: usize = size_of::<libc::signalfd_siginfo>();

/// Sends `signal` to every process but this one.
pub(crate) fn kill_all(signal: i32) -> io::Result<()> {
    // SAFETY: kill reads no memory. -1 addresses every process except the caller, which is process 1.
    checked(unsafe { libc::kill(-1, signal) }).map(drop)
}

/// Sends a signal given by number, real-time ones included.
pub(crate) fn kill(pid: u32, signal: u32) -> io::Result<()> {
    let pid = libc::pid_t::try_from(pid).map_err(|_| Errno::SRCH)?;
    let signal = libc::c_int::try_from(signal).map_err(|_| Errno::INVAL)?;
    // SAFETY: kill reads no memory.
    checked(unsafe { libc::kill(pid, signal) }).map(drop)
}

/// Stops all writes to the filesystem `root` belongs to, leaving a consistent image without a journal to replay.
pub(crate) fn freeze(root: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: FIFREEZE ignores its argument.
    checked(unsafe { libc::ioctl(root.as_raw_fd(), FIFREEZE as _, 0) }).map(drop)
}

/// Ends [`freeze`].
pub(crate) fn thaw(root: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: FITHAW ignores its argument.
    checked(unsafe { libc::ioctl(root.as_raw_fd(), FITHAW as _, 0) }).map(drop)
}

/// Brings the loopback interface up; the kernel gives it its addresses.
pub(crate) fn loopback_up() -> io::Result<()> {
    // SAFETY: socket reads no memory.
    let fd =
        checked(unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) })?;
    // SAFETY: the descriptor was just made, and nobody else owns it.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: an all-zero ifreq is a valid value.
    let mut request: libc::ifreq = unsafe { zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = *from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: SIOCSIFFLAGS reads an ifreq, which `request` is.
    checked(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS as _, &request) }).map(drop)
}

/// Runs `prepare` in the child between fork and exec.
pub(crate) fn before_exec(
    command: &mut Command,
    prepare: impl FnMut() -> io::Result<()> + Send + Sync + 'static,
) {
    // SAFETY: init has one thread, so the child's copy of the memory is consistent and any code may run in it.
    unsafe { command.pre_exec(prepare) };
}
