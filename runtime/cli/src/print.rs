//! Printing to streams that may fail, such as a pipe whose reader is gone, or a file on a full
//! disk.
//!
//! The standard library's macros of the same names panic then.

use std::fmt;
use std::io::{self, Write};
use std::sync::OnceLock;

/// The first error of standard output.
static FAILED: OnceLock<io::Error> = OnceLock::new();

/// As the standard library's, but if standard output cannot be written, the command continues and
/// fails at its end.
macro_rules! println {
    () => { $crate::print::out(format_args!("\n")) };
    ($($argument:tt)*) => {
        $crate::print::out(format_args!("{}\n", format_args!($($argument)*)))
    };
}

/// As the standard library's, but errors are ignored.
macro_rules! eprint {
    ($($argument:tt)*) => { $crate::print::err(format_args!($($argument)*)) };
}

/// As the standard library's, but errors are ignored.
macro_rules! eprintln {
    () => { $crate::print::err(format_args!("\n")) };
    ($($argument:tt)*) => {
        $crate::print::err(format_args!("{}\n", format_args!($($argument)*)))
    };
}

/// Writes to standard output.
pub(super) fn out(text: fmt::Arguments<'_>) {
    if let Err(error) = io::stdout().write_fmt(text) {
        // Later errors have the same cause.
        let _ = FAILED.set(error);
    }
}

/// Writes to standard error.
pub(super) fn err(text: fmt::Arguments<'_>) {
    // There is no other place to report this error.
    let _ = io::stderr().write_fmt(text);
}

/// Checks that everything printed has been written.
///
/// # Errors
///
/// Returns the first error of standard output.
pub(super) fn written() -> anyhow::Result<()> {
    let flushed = io::stdout().flush();
    let error = match FAILED.get() {
        Some(error) => io::Error::new(error.kind(), error.to_string()),
        None => match flushed {
            Ok(()) => return Ok(()),
            Err(error) => error,
        },
    };
    Err(anyhow::Error::new(error).context("cannot write to standard output"))
}
