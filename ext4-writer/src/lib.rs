#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod acl;
mod builder;
mod checksum;
mod directory;
mod error;
mod extents;
mod finish;
mod format;
mod geometry;
mod groups;
mod hash;
mod image;
mod journal;
mod metadata;
mod node;
mod options;
mod output;
mod resize_inode;
mod space;
mod summary;
mod xattr;

pub use builder::Builder;
pub use error::{Error, XattrProblem};
pub use metadata::{Device, Metadata, Timestamp};
pub use node::NodeId;
pub use options::{BlockSize, Journal, Options};
pub use summary::Summary;
