#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

pub mod encode;
mod error;
mod format;
mod header;
mod limits;
mod pax;
mod reader;
mod source;
mod sparse;
mod writer;

pub use blockbox_path::BytePath;
pub use error::{Error, Problem};
pub use format::known_format;
pub use limits::Limits;
pub use pax::Timestamp;
pub use reader::{Attributes, Entry, Reader, Remark, RemarkKind, What};
pub use source::{BLOCK, Source};
pub use sparse::Map;
pub use writer::{Body, Head, Writer};
