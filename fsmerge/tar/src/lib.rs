#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod error;
mod header;
mod pax;
mod reader;
mod source;
mod sparse;

pub use error::{Error, Problem};
pub use pax::Timestamp;
pub use reader::{Attributes, Entry, Limits, Reader, Remark, RemarkKind, What};
pub use source::{BLOCK, Source};
pub use sparse::Map;
