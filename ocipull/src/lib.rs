#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod chunk;
mod compression;
mod credentials;
mod digest;
mod docker_archive;
mod error;
mod image;
mod layer;
mod layout;
mod members;
mod options;
mod pipeline;
mod platform;
mod reference;
mod registry;
mod source;
mod tree;

pub use digest::Digest;
pub use error::{Cause, ConnectHint, Document, Error, SourceProblem};
pub use image::Image;
pub use layer::{Decompressed, Fetched, Layer, LayerReader, decompress, decompress_bounded};
/// The types of manifests and configurations.
pub use oci_spec::image as spec;
pub use options::{Credentials, Options, Progress, Secret};
pub use platform::Platform;
pub use reference::Reference;
