#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]
#![forbid(unsafe_code)]

mod acl;
mod bitmap;
mod builder;
mod checksum;
mod chunk;
mod content;
#[cfg(all(feature = "dir", unix))]
mod dir;
mod directory;
mod error;
mod extents;
mod features;
mod finish;
mod format;
mod geometry;
mod groups;
mod grow;
mod hash;
mod image;
mod in_place;
mod indirect;
mod info;
mod journal;
mod mapped;
mod metadata;
mod node;
mod options;
mod orphan_file;
mod orphans;
mod output;
mod path;
mod progress;
mod quota;
mod ranges;
mod reader;
mod recover;
mod replay;
mod resize_inode;
mod space;
mod special;
mod summary;
mod superblock;
#[cfg(feature = "tar")]
mod tar;
mod timestamp;
#[cfg(feature = "tar")]
mod tree;
mod truncate;
mod volume;
mod xattr;

pub use blockbox_path::BytePath;
pub use builder::Builder;
pub use content::Node;
#[cfg(all(feature = "dir", unix))]
pub use dir::from_dir;
pub use error::{Error, XattrProblem};
pub use features::Features;
pub use grow::{grow, grow_with};
pub use in_place::InPlaceOptions;
pub use info::Info;
pub use metadata::{DeviceNumber, Kind, Metadata};
pub use node::NodeId;
pub use options::{BlockSize, Journal, Options};
pub use progress::{Done, Progress};
pub use ranges::Ranges;
pub use reader::{FileReader, Inode, MAX_READ, Reader};
pub use recover::{recover, recover_with};
pub use summary::Summary;
#[cfg(feature = "tar")]
pub use tar::from_tar;
pub use timestamp::Timestamp;
