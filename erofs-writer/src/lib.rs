//! Write EROFS images.
#![forbid(unsafe_code)]

mod builder;
mod check;
mod data;
mod directory;
mod emit;
mod error;
mod format;
mod metadata;
mod options;
mod output;
mod plan;
mod superblock;
mod tree;
mod xattr;

pub use builder::{ImageBuilder, Summary};
pub use data::{DataWriter, FileData};
pub use error::{Error, XattrProblem};
pub use metadata::{Device, DeviceId, Metadata, Node, NodeId, Timestamp};
pub use options::{BlockSize, InodeLayout, Label, Options, Uuid};
