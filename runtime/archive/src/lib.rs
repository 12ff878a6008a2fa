//! Trees of files as tar streams, and back: what is copied between a host and its guests.
//!
//! [`pack`] and [`stat`] see files as the system shows them. [`unpack`] takes a stream from
//! anybody: nothing is made outside of the target directory, whatever names, links and types the
//! stream has, because every name is opened relative to the open directory that holds it, and no
//! symbolic link is followed.

#![forbid(unsafe_code)]
#![allow(
    clippy::unnecessary_cast,
    reason = "the types in struct stat differ between systems"
)]

mod error;
mod pack;
mod stat;
mod unpack;
mod xattrs;

pub use error::{Error, Problem, Result};
pub use pack::{PackOptions, pack};
pub use stat::{FileKind, FileStat, stat};
pub use unpack::{UnpackOptions, Unpacked, unpack};
