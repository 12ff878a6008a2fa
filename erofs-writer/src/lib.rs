//! Write [EROFS](https://docs.kernel.org/filesystems/erofs.html) images: the read-only file system
//! of Linux.
//!
//! A [`Builder`] writes one image to anything that is [`Write`](std::io::Write) and
//! [`Seek`](std::io::Seek), in one pass. Contents of files go to the output as they come; names and
//! attributes are kept in memory until [`finish`](Builder::finish) writes them, which takes about
//! 200 bytes for each inode, its name included, and up to 300 and the name where contents are
//! compressed. Ends of files that are to stand [after inodes](Options::inline_tails) or [their
//! indexes](Options::tail_packing) are kept, too.
//!
//! ```
//! use std::io::{Cursor, Write};
//! use erofs_writer::{Builder, Metadata, Node, Options, Timestamp};
//!
//! # fn main() -> Result<(), erofs_writer::Error> {
//! let mut image = Builder::with_dedupe(Cursor::new(Vec::new()), Options::default())?;
//!
//! let mut data = image.data();
//! data.write_all(b"#!/bin/sh\necho hello\n")?;
//! let hello = data.finish()?;
//!
//! let metadata = Metadata::new(0o755)
//!     .uid(1000)
//!     .mtime(Timestamp { secs: 1_700_000_000, nanos: 0 })
//!     .xattr("user.origin", "example");
//! let node = image.add_path(b"usr/bin/hello", metadata, Node::File(hello))?;
//! image.link_path(b"usr/bin/hi", node)?;
//! image.add_path(b"bin", Metadata::new(0o777), Node::Symlink(b"usr/bin".to_vec()))?;
//!
//! let (out, summary) = image.finish()?;
//! assert_eq!(out.into_inner().len() as u64, summary.bytes);
//! # Ok(())
//! # }
//! ```
//!
//! # Names
//!
//! Names come in any order, by path ([`add_path`](Builder::add_path), which makes missing parents)
//! or by directory ([`add`](Builder::add)). They are bytes; directories and names may be as many as
//! memory holds. The same tree over the same contents gives the same bytes, on any system: no clock
//! and no random number reaches an image.
//!
//! # Contents
//!
//! A [`DataWriter`] takes the contents of one regular file. They begin at a block border and lie in
//! one piece (a flat plain inode), so that a device, a block and a length name them: other images
//! can [point at them](FileData::on_device). With [`Builder::with_dedupe`], equal contents are
//! stored once.
//!
//! So contents lie in the order in which they came. Where they can be had at any time, as those of
//! a folder, the tree can come first: [`FileData::later`] stands for contents that
//! [`Builder::store_later`] asks for, directory by directory in the order of names. Then the same
//! names, attributes and contents give the same bytes in whatever order they came, and files of one
//! directory lie side by side.
//!
//! ```
//! use std::io::{Cursor, Write};
//! use erofs_writer::{Error, FileData, Builder, Metadata, Node, Options};
//!
//! # fn main() -> Result<(), Error> {
//! let image = |files: [(&[u8], &[u8]); 2]| {
//!     let mut image = Builder::new(Cursor::new(Vec::new()), Options::default())?;
//!     for (number, (path, _)) in (0..).zip(files) {
//!         let data = FileData::later(number);
//!         image.add_path(path, Metadata::new(0o755), Node::File(data))?;
//!     }
//!     image.store_later(|image, number| -> Result<FileData, Error> {
//!         let mut data = image.data();
//!         data.write_all(files[number as usize].1)?;
//!         data.finish()
//!     })?;
//!     image.finish()
//! };
//! let (one, _) = image([(b"etc/motd", b"Hello!"), (b"bin/sh", b"#!")])?;
//! let (other, _) = image([(b"bin/sh", b"#!"), (b"etc/motd", b"Hello!")])?;
//! assert_eq!(one.into_inner(), other.into_inner());
//! # Ok(())
//! # }
//! ```
//!
//! # Compression
//!
//! With [`Options::compression`], contents are compressed as they come, by as many
//! [threads](Options::threads) as the machine has cores. The image does not depend on their number,
//! only on the versions of the encoders, and memory holds a few MiB for each of them. What does not
//! shrink is stored as it is. Other images cannot point at compressed contents. Blocks should have
//! 4096 bytes: smaller ones make the same clusters at more metadata.
//!
//! Each [`Algorithm`] is a cargo feature of its name: `lz4`, `zstd`, `deflate`, `lzma`. None is on
//! by default, and one that is off is [an error](Error::AlgorithmNotBuilt) where it is chosen.
//!
//! What makes images smaller, at a price each:
//!
//! | option | price |
//! |---|---|
//! | a higher [`level`](Compression::level) | time to write |
//! | larger [`cluster_size`](Compression::cluster_size) | time to read a small part of a file |
//! | [`tail_packing`](Options::tail_packing) | metadata spread wider, time to write: last clusters are compressed twice; memory for the tails |
//! | [`fragments`](Options::fragments), most for small files | time to read a small file, and to write: ends longer than a cluster are compressed twice |
//! | [`dedupe_extents`](Options::dedupe_extents), most where files resemble one another | one thread compresses, indexes are longer, memory for each cluster |
//!
//! [`Options::per_file`] chooses file by file:
//!
#![cfg_attr(docsrs, feature(doc_cfg))]
#![cfg_attr(all(feature = "lz4", feature = "zstd"), doc = "```")]
#![cfg_attr(not(all(feature = "lz4", feature = "zstd")), doc = "```ignore")]
//! use std::io::{Cursor, Write}; use erofs_writer::{Algorithm, BlockSize, Compression, Builder,
//! Metadata, Node, Options, PerFile};
//!
//! # fn main() -> Result<(), erofs_writer::Error> {
//! let per_file = PerFile::new(|file| match file.path {
//!     path if path.ends_with(b".gz") => None,
//!     path if path.starts_with(b"bin/") => Some(Compression::new(Algorithm::Lz4)),
//!     _ => Some(Compression::new(Algorithm::Zstd).level(9).cluster_size(65_536)),
//! });
//! let options = Options::default()
//!     .block_size(BlockSize::B4096)
//!     .per_file(per_file)
//!     .tail_packing(true);
//! let mut image = Builder::new(Cursor::new(Vec::new()), options)?;
//! let mut data = image.data_for(b"bin/tool", Some(100_000))?;
//! data.write_all(&[b'x'; 100_000])?;
//! let tool = data.finish()?;
//! image.add_path(b"bin/tool", Metadata::new(0o755), Node::File(tool))?;
//! let (_, summary) = image.finish()?;
//! assert!(summary.bytes < 20_000);
//! # Ok(())
//! # }
//! ```
//!
//! # Metadata over other images
//!
//! An image can hold names and attributes alone, its files' contents lying on
//! [devices](Builder::add_device), which are usually other EROFS images. The kernel takes such an
//! image in two ways, without a change to it:
//!
//! - all devices appended to it in order, as one disk;
//! - each device given at mount:
//!   `mount -t erofs -o device=/dev/loop1,device=/dev/loop2 /dev/loop0 /mnt`.
//!
//! ```
//! use std::io::Cursor;
//! use erofs_writer::{DeviceSlot, FileData, Builder, Metadata, Node, Options};
//!
//! # fn main() -> Result<(), erofs_writer::Error> {
//! let mut image = Builder::new(Cursor::new(Vec::new()), Options::default())?;
//! // The tag usually is the device's digest in hex.
//! let layer = image.add_device(DeviceSlot::new([b'0'; 64], 2048))?;
//! let data = FileData::on_device(layer, 3, 70_000);
//! image.add_path(b"etc/services", Metadata::new(0o755), Node::File(data))?;
//! let (_, summary) = image.finish()?;
//! assert_eq!(summary.data_bytes, 0);
//! # Ok(())
//! # }
//! ```
//!
//! # What kernels read
//!
//! The versions are those that `mkfs.erofs(1)` of erofs-utils 1.9 names, or the merge windows in
//! which the kernel's commits came that added each. A test mounts one of each: Linux 6.1 and 6.18
//! read what is said here, and 6.1 nothing of what is said to be later.
//!
//! | image | Linux |
//! |---|---|
//! | blocks of the page's size | 5.4 |
//! | blocks smaller than a page (the default, 512 bytes, wastes least) | 6.4, and 6.1 in its late stable releases |
//! | contents on devices, each given at mount | 5.16 |
//! | contents on devices appended to the image | 6.4 |
//! | files in chunks | 5.15 |
//! | long prefixes of xattr names | 6.4 |
//! | compressed files: LZ4 | 5.4, which is the first with packed indexes; 5.13 in clusters of several blocks |
//! | MicroLZMA | 5.16 |
//! | DEFLATE | 6.6 |
//! | Zstandard | 6.10 |
//! | compressed files in blocks smaller than a page | 6.8 |
//! | tails of compressed files after their indexes (`ztailpacking`) | 5.17 |
//! | fragments; parts of clusters of other files (`dedupe`) | 6.1 |
//! | 48-bit addresses | 6.15 |
//! | the xattr name filter, which others ignore | 6.6 |
//!
//! Block addresses have 32 bits: image and devices together can have 2 TiB in blocks of 512 bytes,
//! 16 TiB in blocks of 4096. [`Addresses::Bits48`] is for Linux 6.15 and later.
//!
//! Compact inodes have no modification time before Linux 6.15 but the image's
//! [epoch](Options::epoch). With [`InodeLayout::Auto`], an inode is compact only if it has just
//! that time, so nothing is lost on any kernel.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod block_size;
mod builder;
mod check;
mod chunks;
mod compress;
mod content;
mod device;
mod directory;
mod emit;
mod error;
mod file_data;
mod format;
mod metadata;
mod node_id;
mod options;
mod output;
mod plan;
mod prefix;
mod progress;
mod superblock;
mod timestamp;
mod tree;
mod xattr;

pub use block_size::BlockSize;
pub use blockbox_path::BytePath;
pub use builder::Builder;
pub use builder::finish::Summary;
pub use chunks::{Chunk, ChunkSize};
pub use compress::{Algorithm, Candidate, Compression, Fragments, PerFile};
pub use content::{ChunkWriter, DataWriter};
pub use device::{DeviceId, DeviceSlot};
pub use error::{Error, XattrProblem};
pub use file_data::FileData;
pub use metadata::{DeviceNumber, Kind, Metadata, Node};
pub use node_id::NodeId;
pub use options::{Addresses, InodeLayout, Label, Options, Uuid};
pub use output::SetLen;
pub use prefix::XattrPrefixes;
pub use progress::{Done, Progress};
pub use timestamp::Timestamp;

/// Keeps the README's example compiling.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
