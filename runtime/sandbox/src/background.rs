//! The basis of the processes that run in the background: a sandbox's monitor and its gateway.

use std::fmt::Display;
use std::io::Write;
use std::thread;

/// The stack size of a thread, in bytes: a monitor has many threads, and none needs a large stack.
const STACK: usize = 256 << 10;

/// Appends a line to the process's own log. Errors are ignored, as on a full disk.
pub(crate) fn complain(text: impl Display) {
    let _ = writeln!(std::io::stderr(), "blockbox: {text}");
}

/// Starts a thread. If that fails, the host has no memory or processes left, and the sandbox could
/// not continue.
pub(crate) fn thread(name: &str, run: impl FnOnce() + Send + 'static) {
    let started = thread::Builder::new()
        .name(name.to_owned())
        .stack_size(STACK)
        .spawn(run);
    if let Err(error) = started {
        complain(format_args!("cannot start a thread: {error}"));
        std::process::exit(1);
    }
}
