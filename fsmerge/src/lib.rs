#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]
#![warn(missing_docs, unreachable_pub)]

mod arena;
mod attributes;
mod error;
mod follow;
mod layer;
mod limits;
mod merge;
pub mod overlay;
mod path;
mod resolve;
mod tar;
mod tree;

pub use attributes::{Attributes, Timestamp, Xattr, Xattrs};
pub use error::{Error, Problem, ReadError};
pub use layer::{Layer, LayerBuilder};
pub use limits::Limits;
pub use merge::{Merge, Merged};
pub use tar::{Content, Segment, Sink, Stats, Warning, WarningKind, read_tar};
pub use tree::{DataId, Kind, NodeId, Tree, Walk};
