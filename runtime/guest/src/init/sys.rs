//! System calls that rustix does not wrap, or only as unsafe functions. Besides the functions of
//! `unwind`, this is the only unsafe code of init.

#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::mem::{size_of, zeroed};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags, mlock, mmap};

/// `FIFREEZE` of `include/uapi/linux/fs.h`: `_IOWR('X', 119, int)`.
const FIFREEZE: libc::c_ulong = 0xc004_5877;
/// `FITHAW` of `include/uapi/linux/fs.h`: `_IOWR('X', 120, int)`.
const FITHAW: libc::c_ulong = 0xc004_5878;

/// `EXT4_IOC_CHECKPOINT` of `include/uapi/linux/ext4.h`: `_IOW('f', 43, __u32)`.
const EXT4_IOC_CHECKPOINT: libc::c_ulong = 0x4004_662b;
/// `EXT4_IOC_CHECKPOINT_FLAG_DISCARD` of `include/uapi/linux/ext4.h`.
const CHECKPOINT_DISCARD: u32 = 1;

/// `FITRIM` of `include/uapi/linux/fs.h`: `_IOWR('X', 121, struct fstrim_range)`.
const FITRIM: libc::c_ulong = 0xc018_5879;
/// `RNDADDENTROPY` of `include/uapi/linux/random.h`: `_IOW('R', 3, int [2])`.
const RNDADDENTROPY: libc::c_ulong = 0x4008_5203;
/// `RNDRESEEDCRNG` of `include/uapi/linux/random.h`: `_IO('R', 7)`.
const RNDRESEEDCRNG: libc::c_ulong = 0x5207;
/// `ADJ_OFFSET_SINGLESHOT` of `include/uapi/linux/timex.h`.
const ADJ_OFFSET_SINGLESHOT: libc::c_uint = 0x8001;

fn checked(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

/// Returns a descriptor that is readable while a child waits to be reaped. From here on `SIGCHLD`
/// is only delivered there.
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
    // SAFETY: the descriptor was just created and has no other owner.
    Ok(File::from(unsafe { OwnedFd::from_raw_fd(fd) }))
}

/// Unblocks all signals: a command inherits init's blocked signals, and expects none.
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

/// The length of a record of [`child_signals`] in bytes.
pub(crate) const SIGNAL_RECORD: usize = size_of::<libc::signalfd_siginfo>();

/// Sends `signal` to every process but this one.
pub(crate) fn kill_all(signal: i32) -> io::Result<()> {
    // SAFETY: kill reads no memory. -1 addresses every process except the caller, which is
    // process 1.
    checked(unsafe { libc::kill(-1, signal) }).map(drop)
}

/// Sends a signal given by number, including real-time signals.
pub(crate) fn kill(pid: u32, signal: u32) -> io::Result<()> {
    let pid = libc::pid_t::try_from(pid).map_err(|_| Errno::SRCH)?;
    let signal = libc::c_int::try_from(signal).map_err(|_| Errno::INVAL)?;
    // SAFETY: kill reads no memory.
    checked(unsafe { libc::kill(pid, signal) }).map(drop)
}

/// Sends a signal to every process in a group, given by its leader's process id.
pub(crate) fn kill_group(leader: u32, signal: i32) -> io::Result<()> {
    let group = libc::pid_t::try_from(leader).map_err(|_| Errno::SRCH)?;
    // SAFETY: kill reads no memory.
    checked(unsafe { libc::kill(-group, signal) }).map(drop)
}

/// Maps the first `length` bytes of a file, and locks the mapping in memory until this process
/// ends.
pub(crate) fn lock_in_memory(file: &File, length: usize) -> rustix::io::Result<()> {
    let (protection, flags) = (ProtFlags::READ, MapFlags::SHARED);
    // SAFETY: the mapping is new, at an address that the kernel chooses; nothing refers to it.
    let start = unsafe { mmap(std::ptr::null_mut(), length, protection, flags, file, 0) }?;
    // SAFETY: the range is that of the mapping, which is never unmapped.
    unsafe { mlock(start, length) }
}

/// Makes the ext4 file system of `root` write its journal to the blocks' final places, and discard
/// all blocks of the journal except the first. Fails if the disk cannot discard.
pub(crate) fn empty_journal(root: BorrowedFd<'_>) -> io::Result<()> {
    let flags = CHECKPOINT_DISCARD;
    // SAFETY: EXT4_IOC_CHECKPOINT reads a u32 through its pointer.
    checked(unsafe { libc::ioctl(root.as_raw_fd(), EXT4_IOC_CHECKPOINT as _, &raw const flags) })
        .map(drop)
}

/// Freezes the filesystem that `root` belongs to, leaving a consistent image without a journal to
/// replay.
pub(crate) fn freeze(root: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: FIFREEZE ignores its argument.
    checked(unsafe { libc::ioctl(root.as_raw_fd(), FIFREEZE as _, 0) }).map(drop)
}

/// Undoes [`freeze`].
pub(crate) fn thaw(root: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: FITHAW ignores its argument.
    checked(unsafe { libc::ioctl(root.as_raw_fd(), FITHAW as _, 0) }).map(drop)
}

/// `struct fstrim_range` of `include/uapi/linux/fs.h`, in bytes.
#[repr(C)]
struct TrimRange {
    start: u64,
    length: u64,
    least: u64,
}

/// Discards the free blocks of the filesystem that `root` belongs to, between `start` and `start +
/// length`, in bytes. Returns how many bytes were discarded.
pub(crate) fn trim(root: BorrowedFd<'_>, start: u64, length: u64) -> io::Result<u64> {
    let mut range = TrimRange {
        start,
        length,
        least: 0,
    };
    // SAFETY: FITRIM reads and writes a struct fstrim_range, which `range` is.
    checked(unsafe { libc::ioctl(root.as_raw_fd(), FITRIM as _, &mut range) })?;
    Ok(range.length)
}

/// `struct rand_pool_info` of `include/uapi/linux/random.h`, with space for the bytes of one call.
#[repr(C)]
struct RandomPool {
    entropy_bits: libc::c_int,
    size: libc::c_int,
    bytes: [u8; ENTROPY_CHUNK],
}

const ENTROPY_CHUNK: usize = 64;

/// Adds `bytes` to the kernel's random number generator, credits them as entropy, and reseeds the
/// generator from them.
pub(crate) fn add_entropy(bytes: &[u8]) -> io::Result<()> {
    let device = File::options().write(true).open("/dev/urandom")?;
    for chunk in bytes.chunks(ENTROPY_CHUNK) {
        let mut pool = RandomPool {
            entropy_bits: chunk.len() as libc::c_int * 8,
            size: chunk.len() as libc::c_int,
            bytes: [0; ENTROPY_CHUNK],
        };
        for (to, from) in pool.bytes.iter_mut().zip(chunk) {
            *to = *from;
        }
        // SAFETY: RNDADDENTROPY reads a struct rand_pool_info and the `size` bytes after it, which
        // `pool` has.
        checked(unsafe { libc::ioctl(device.as_raw_fd(), RNDADDENTROPY as _, &pool) })?;
    }
    // SAFETY: RNDRESEEDCRNG ignores its argument.
    checked(unsafe { libc::ioctl(device.as_raw_fd(), RNDRESEEDCRNG as _, 0) }).map(drop)
}

/// Slews the clock by `microseconds`, which may be negative. This replaces the rest of a previous
/// adjustment.
pub(crate) fn slew_clock(microseconds: i64) -> io::Result<()> {
    // SAFETY: an all-zero timex is a valid value.
    let mut change: libc::timex = unsafe { zeroed() };
    change.modes = ADJ_OFFSET_SINGLESHOT;
    change.offset = microseconds as libc::c_long;
    // SAFETY: adjtimex reads and writes a timex, which `change` is.
    checked(unsafe { libc::adjtimex(&mut change) }).map(drop)
}

/// Sets a resource limit of this process; the resource is given by number. `u64::MAX` is unlimited.
pub(crate) fn set_limit(resource: u32, soft: u64, hard: u64) -> io::Result<()> {
    let limit = libc::rlimit64 {
        rlim_cur: soft,
        rlim_max: hard,
    };
    // SAFETY: prlimit64 reads an rlimit64, which `limit` is, and writes nothing because the old
    // limit is not requested.
    checked(unsafe { libc::prlimit64(0, resource as _, &limit, std::ptr::null_mut()) }).map(drop)
}

/// Puts later children into a new PID namespace; the first of them is its process 1.
pub(crate) fn unshare_pids() -> io::Result<()> {
    // SAFETY: this changes nothing for this process, which has one thread.
    checked(unsafe { libc::unshare(libc::CLONE_NEWPID) }).map(drop)
}

/// Gives this process, a child before its exec, its own mount and cgroup namespaces.
pub(crate) fn unshare_mounts_and_cgroups() -> io::Result<()> {
    // SAFETY: the process has one thread, and no descriptor table is unshared.
    checked(unsafe { libc::unshare(libc::CLONE_NEWNS | libc::CLONE_NEWCGROUP) }).map(drop)
}

/// Runs `work` in a child process, which then ends. Returns the child's process id.
pub(crate) fn fork(work: impl FnOnce()) -> io::Result<u32> {
    // SAFETY: init has one thread, so the child's copy of the memory is consistent and any code may
    // run in it.
    let pid = checked(unsafe { libc::fork() })?;
    if pid == 0 {
        work();
        // SAFETY: _exit ends the process and touches no memory; the child must not run init's exit
        // handlers.
        unsafe { libc::_exit(0) };
    }
    u32::try_from(pid).map_err(|_| Errno::SRCH.into())
}

/// Ends this process, a forked child, at once.
pub(crate) fn exit(code: u8) -> ! {
    // SAFETY: _exit ends the process and touches no memory; the child must not run init's exit
    // handlers.
    unsafe { libc::_exit(code.into()) }
}

/// Closes every descriptor from `first` on, in a forked child.
pub(crate) fn close_from(first: u32) -> io::Result<()> {
    // SAFETY: close_range reads no memory; nothing in the child uses these descriptors from here
    // on.
    let closed = unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, 0_u32) };
    checked(closed as libc::c_int).map(drop)
}

/// Runs `prepare` in the child between fork and exec.
pub(crate) fn before_exec(
    command: &mut Command,
    prepare: impl FnMut() -> io::Result<()> + Send + Sync + 'static,
) {
    // SAFETY: init has one thread, so the child's copy of the memory is consistent and any code may
    // run in it.
    unsafe { command.pre_exec(prepare) };
}
