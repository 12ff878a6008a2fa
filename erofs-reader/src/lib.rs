//! Reads EROFS images, whatever their bytes.
#![forbid(unsafe_code)]
#![warn(missing_docs)]
#![cfg_attr(
    not(test),
    warn(clippy::arithmetic_side_effects, clippy::as_conversions)
)]

mod buffered;
mod check;
mod dir;
mod dump;
mod error;
mod extent;
pub mod extract;
mod file;
mod format;
mod image;
mod inode;
mod lookup;
mod num;
mod read_at;
mod superblock;
mod walk;
mod xattr;

pub use buffered::Buffered;
pub use check::{Finding, MAX_FINDINGS, Problem, Report, Severity};
pub use dir::{DirEntry, ReadDir};
pub use dump::dump;
pub use error::{Corruption, Error, Unsupported};
pub use extent::{Extent, Source};
pub use file::FileReader;
pub use image::Image;
pub use inode::{FileType, Inode, Layout, Nid};
pub use lookup::MAX_SYMLINKS;
pub use read_at::ReadAt;
pub use superblock::{BlockSize, Device, Superblock};
pub use walk::{MAX_DEPTH, Walk};
pub use xattr::Xattr;
