#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

pub mod encode;
mod error;
mod header;
mod pax;
mod reader;
mod source;
mod sparse;
mod writer;

pub use error::{Error, Problem};
pub use pax::Timestamp;
pub use reader::{Attributes, Entry, Limits, Reader, Remark, RemarkKind, What};
pub use source::{BLOCK, Source};
pub use sparse::Map;
pub use writer::{Body, Head, Writer};
