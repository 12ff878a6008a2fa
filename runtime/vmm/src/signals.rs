//! Signals that are not for a VM's process.

use std::io;

use nix::sys::signal::{SigSet, Signal};

/// Keeps signals that people and service managers send to whole groups and sessions from ending or
/// stopping this process, and what it executes: QEMU would take them for an order to switch the
/// guest off without a word to it. `SIGKILL` ends it. Call it before there are threads.
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
