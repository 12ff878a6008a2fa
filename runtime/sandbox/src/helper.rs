//! The processes of a sandbox, which are started through a helper program.
//!
//! A program that starts sandboxes either begins its `main` with [`run_if_asked`] or names another
//! program that does ([`locate`](blockbox_vmm::helper::locate)), such as the `blockbox` command.

use std::process::ExitCode;

/// If this process was started as a sandbox's monitor, virtual machine or network gateway, runs it
/// as that; otherwise returns `None` at once. Call it first in `main`: the process must have a
/// single thread.
pub fn run_if_asked() -> Option<ExitCode> {
    // The first call records that this program can be a helper.
    blockbox_vmm::helper::run_if_asked()
        .or_else(crate::monitor::run_if_asked)
        .or_else(crate::network::helper::run_if_asked)
}
