//! The standard streams of a VM's process: the input is the guest's end of the control channel, the
//! output is the console's pipe.

use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};

use super::VmmError;
use super::confine::{Confinement, Rules};

/// How long a guest has to shut down after its host has ended.
pub(super) const ORPHAN_GRACE: Duration = Duration::from_secs(10);

/// How long another VM may take to release its disk: as long as a VM without a host has to end.
pub(super) const DISK_TIMEOUT: Duration = ORPHAN_GRACE.saturating_add(Duration::from_secs(5));

/// How long a helper may take until it has confined itself: it waits for its disks before.
const REPORT_TIMEOUT: Duration = DISK_TIMEOUT.saturating_add(Duration::from_secs(60));

/// The path of standard output, the console's pipe, for interfaces that need a path.
pub(super) const STDOUT_PATH: &str = if cfg!(target_os = "linux") {
    "/proc/self/fd/1"
} else {
    "/dev/fd/1"
};

/// The folder with a process's open files.
pub(super) const FILES_PATH: &str = if cfg!(target_os = "linux") {
    "/proc/self/fd"
} else {
    "/dev/fd"
};

/// Confines this process and its threads, and reports to the host what is in force: one byte on the
/// control channel, before the guest uses it. Call it while there is a single thread.
pub(super) fn enforce(rules: Option<&Rules>) -> Result<(), VmmError> {
    let failed = || VmmError::io("cannot confine the virtual machine");
    let confined = rules.map(Rules::enforce).transpose().map_err(failed())?;
    let report = [confined.unwrap_or(Confinement::NONE).to_byte()];
    rustix::io::write(io::stdin(), &report).map_err(|errno| failed()(errno.into()))?;
    Ok(())
}

/// Waits for the report of [`enforce`]; `None` if the process ended without one.
pub(super) fn read_report(mut channel: &UnixStream) -> Option<Confinement> {
    let mut report = [0];
    channel.set_read_timeout(Some(REPORT_TIMEOUT)).ok()?;
    let read = channel.read_exact(&mut report);
    channel.set_read_timeout(None).ok()?;
    read.ok()?;
    Confinement::from_byte(report[0])
}

/// Returns when the host's end of the control channel is closed.
pub(super) fn wait_for_hangup() {
    let stdin = io::stdin();
    loop {
        // No events are requested, because a hangup is always reported.
        let mut fds = [PollFd::from_borrowed_fd(stdin.as_fd(), PollFlags::empty())];
        match poll(&mut fds, None) {
            Ok(_) if !fds.iter().all(|fd| fd.revents().is_empty()) => return,
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(_) => return,
        }
    }
}
