#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]
#![forbid(unsafe_code)]

mod content_id;
mod descriptor;
mod disk;
mod error;
mod extent;
mod files;
mod name;
mod parse;
mod progress;
mod read_at;
mod sparse;

pub use content_id::ContentId;
pub use descriptor::{Descriptor, NO_PARENT, create_type};
pub use disk::Disk;
pub use error::{Error, NameProblem, SparseProblem, SyntaxProblem};
pub use extent::{Access, Extent, ExtentKind};
pub use files::OpenOptions;
pub use progress::{Done, Progress};
pub use read_at::{ReadAt, ReadAtError};
pub use sparse::{SparseOptions, SparseSummary, write_monolithic_sparse, write_stream_optimized};

/// Bytes in a sector, the unit of every size and offset in a descriptor.
pub const SECTOR: u64 = 512;

/// The longest descriptor that is read or written, in bytes: libkrun's reader (imago) refuses
/// longer ones.
pub const MAX_DESCRIPTOR: u64 = 2 << 20;
