#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]
#![warn(missing_docs, unreachable_pub)]

mod arena;
mod attributes;
#[cfg(all(feature = "dir", unix))]
mod dir;
#[cfg(feature = "erofs")]
mod erofs;
mod error;
mod follow;
mod intake;
mod layer;
mod limits;
mod merge;
pub mod overlay;
mod path;
mod resolve;
mod sources;
#[cfg(any(feature = "dir", feature = "erofs"))]
mod stored;
mod tar;
mod tree;

pub use attributes::{Attributes, Timestamp, Xattr, Xattrs};
#[cfg(all(feature = "dir", unix))]
pub use dir::read_dir;
#[cfg(feature = "erofs")]
pub use erofs::read_erofs;
pub use error::{Error, MergeError, Problem, ReadError};
pub use layer::{Layer, LayerBuilder};
pub use limits::Limits;
pub use merge::{Merge, Merged};
pub use sources::{Source, merge};
pub use tar::{Content, Segment, Sink, Stats, Warning, WarningKind, read_tar, read_tar_seek};
pub use tree::{DataId, Kind, NodeId, Tree, Walk};
