//! Packs file trees into tar streams and unpacks them, to copy files between a host and its guests.
//!
//! [`pack`] and [`stat`] see files as the system shows them. [`unpack`] accepts untrusted streams:
//! nothing is created outside the target directory, whatever names, links and types the stream has,
//! because every name is opened relative to its open parent directory, and symbolic links are not
//! followed.

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
