//! The processes that a sandbox lives in, which are started through a program that can become one.
//!
//! A program that starts sandboxes either begins its `main` with [`run_if_asked`] or names another
//! program that does ([`locate`](blockbox_vmm::helper::locate)), such as the `blockbox` command.

use std::process::ExitCode;

/// Runs this process as a sandbox's monitor, its virtual machine's or its network gateway's, when
/// it was started as one; otherwise returns `None` at once. Call it first thing in `main`: the
/// process must have a single thread.
pub fn run_if_asked() -> Option<ExitCode> {
    // The first notes that this program can be a helper.
    blockbox_vmm::helper::run_if_asked()
        .or_else(crate::monitor::run_if_asked)
        .or_else(crate::network::helper::run_if_asked)
}
