//! Blocks signals in a VM's process.

use std::io;

use nix::sys::signal::{SigSet, Signal};

/// Blocks signals that users and service managers send to whole process groups and sessions, in
/// this process and the program that it executes: QEMU would switch the guest off without notice.
/// `SIGKILL` still ends it. Call it while there is a single thread.
pub(super) fn block() -> io::Result<()> {
    let signals: SigSet = [
        Signal::SIGHUP,
        Signal::SIGINT,
        Signal::SIGQUIT,
        Signal::SIGTERM,
        Signal::SIGTSTP,
        Signal::SIGTTIN,
        Signal::SIGTTOU,
    ]
    .into_iter()
    .collect();
    Ok(signals.thread_block()?)
}
