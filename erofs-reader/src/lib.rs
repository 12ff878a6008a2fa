#![doc = include_str!("../README.md")]
//!
//! ## Guide
//!
//! Bytes come from a [`ReadAt`]: a file, a slice, a pointer to either, or anything positioned;
//! [`Buffered`] puts a cache in front of one. [`Image::open`] decodes the [`Superblock`]. From
//! there:
//!
//! - [`Image::read`], [`Image::read_to_string`], [`Image::exists`] and [`Image::metadata`] answer
//!   for a path as `std::fs` does;
//! - [`Image::lookup`], [`Image::read_dir`] and [`Image::walk`] find [`Inode`]s;
//! - [`Image::file`], [`Image::read_link`] and [`Image::xattrs`] read what belongs to one, and
//!   [`Image::extents`] returns where its data is stored;
//! - [`Image::statistics`] counts what there is, [`Image::check`] reports all corruption of an
//!   image, [`dump`] prints it as text, and [`extract`] extracts its tree.
//!
//! An [`Error`] is caused by the source ([`Error::Io`]), by a limit of this crate
//! ([`Error::Unsupported`]) or by the image ([`Error::Corrupt`]). [`Error::At`] adds the path to
//! one of these in walks and extractions. The other kinds report invalid requests, such as a path
//! that does not exist.
#![cfg_attr(docsrs, feature(doc_cfg))]
#![cfg_attr(not(feature = "std"), no_std)]
#![forbid(unsafe_code)]
#![warn(missing_docs)]
#![cfg_attr(
    not(test),
    warn(clippy::arithmetic_side_effects, clippy::as_conversions)
)]

extern crate alloc;

mod algorithm;
mod areas;
mod buffered;
mod check;
mod checksum;
mod compressed;
mod corruption;
mod data;
mod dir;
#[cfg(feature = "std")]
mod dump;
mod error;
mod extent;
#[cfg(feature = "std")]
pub mod extract;
mod file;
mod file_type;
mod format;
mod image;
mod inode;
mod lookup;
mod mapper;
mod nid;
mod num;
mod progress;
mod read_at;
#[cfg(feature = "serde")]
mod serial;
mod statistics;
mod storage;
mod superblock;
mod sync;
mod timestamp;
mod walk;
mod xattr;

pub use algorithm::Algorithm;
pub use blockbox_path::{BytePath, MAX_SYMLINKS};
pub use buffered::Buffered;
pub use check::{CheckOptions, Finding, MAX_FINDINGS, Problem, Report, Severity};
#[doc(hidden)]
pub use compressed::decode::decode_cluster;
pub use corruption::{Corruption, CorruptionKind};
#[doc(hidden)]
pub use corruption::{Detail, Structure};
pub use dir::{DirEntry, ReadDir};
#[cfg(feature = "std")]
pub use dump::dump;
pub use error::{Error, Unsupported};
pub use extent::{Extent, Source};
pub use file::FileReader;
pub use file_type::{DeviceNumber, FileType};
pub use image::Image;
pub use inode::{Inode, Layout};
pub use lookup::MAX_READ;
pub use nid::Nid;
pub use progress::{Done, Progress};
pub use read_at::{ReadAt, ReadAtError};
pub use statistics::Statistics;
pub use superblock::{BlockSize, DeviceSlot, Superblock};
pub use timestamp::Timestamp;
pub use walk::{MAX_DEPTH, Walk};
pub use xattr::Xattr;
