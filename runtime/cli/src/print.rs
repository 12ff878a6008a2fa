//! Printing to streams that may take nothing: the reader of a pipe has gone, or a disk is full.
//!
//! The standard library's macros of these names panic then, in the middle of what the command does.

use std::fmt;
use std::io::{self, Write};
use std::sync::OnceLock;

/// The first error of standard output.
static FAILED: OnceLock<io::Error> = OnceLock::new();

/// As the standard library's, but a command goes on where nothing can be written and fails at its
/// end.
macro_rules! println {
    () => { $crate::print::out(format_args!("\n")) };
    ($($argument:tt)*) => {
        $crate::print::out(format_args!("{}\n", format_args!($($argument)*)))
    };
}

/// As the standard library's, but without effect where nothing can be written.
macro_rules! eprint {
    ($($argument:tt)*) => { $crate::print::err(format_args!($($argument)*)) };
}

/// As the standard library's, but without effect where nothing can be written.
macro_rules! eprintln {
    () => { $crate::print::err(format_args!("\n")) };
    ($($argument:tt)*) => {
        $crate::print::err(format_args!("{}\n", format_args!($($argument)*)))
    };
}

/// Writes to standard output.
pub(super) fn out(text: fmt::Arguments<'_>) {
    if let Err(error) = io::stdout().write_fmt(text) {
        // Later ones have the same cause.
        let _ = FAILED.set(error);
    }
}

/// Writes to standard error.
pub(super) fn err(text: fmt::Arguments<'_>) {
    // Nowhere else can tell of it.
    let _ = io::stderr().write_fmt(text);
}

/// Reports whether all that was printed has been written.
///
/// # Errors
///
/// The first error of standard output.
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
