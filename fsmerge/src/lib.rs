#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]
#![forbid(unsafe_code)]
#![warn(missing_docs, unreachable_pub)]

mod acl;
mod arena;
mod complete;
#[cfg(all(feature = "dir", unix))]
mod dir;
#[cfg(feature = "erofs")]
mod erofs;
mod error;
mod fold;
mod follow;
mod intake;
mod layer;
mod layer_source;
mod limits;
mod merge;
mod metadata;
pub mod overlay;
mod path;
mod progress;
mod resolve;
mod store;
#[cfg(any(feature = "dir", feature = "erofs"))]
mod stored;
mod tar;
mod timestamp;
mod tree;
mod warning;

pub use blockbox_path::BytePath;
#[cfg(all(feature = "dir", unix))]
pub use dir::read_dir;
#[cfg(feature = "erofs")]
pub use erofs::read_erofs;
pub use error::{Error, MergeError, Problem, ReadError};
pub use layer::{BuilderNodeId, LayerBuilder, LayerTree};
pub use layer_source::{LayerSource, merge};
pub use limits::Limits;
pub use merge::{Merge, Merged};
pub use metadata::{DeviceNumber, Metadata, Xattr, Xattrs};
pub use progress::{Done, Progress};
pub use store::{ContentStore, Contents, StoredContent};
pub use tar::{Content, Segment, Sink, Stats, read_tar, read_tar_seek};
pub use timestamp::Timestamp;
pub use tree::{DataId, Kind, NodeId, Tree, Walk};
pub use warning::{Warning, WarningKind};
