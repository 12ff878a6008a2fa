#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod chunk;
mod compression;
mod credentials;
mod digest;
mod directory;
mod docker_archive;
mod docker_daemon;
mod error;
mod image;
mod json;
mod layer;
mod layout;
mod members;
mod names;
mod options;
mod pipeline;
mod platform;
mod reference;
mod registry;
mod source;
mod spool;
mod tree;

pub use digest::Digest;
pub use error::{Cause, ConnectHint, Document, Error, SourceProblem};
pub use image::Image;
pub use json::{parse_config, parse_manifest};
pub use layer::{Decompressed, Fetched, Layer, LayerReader, decompress, decompress_bounded};
/// The types of manifests and configurations.
pub use oci_spec::image as spec;
pub use options::{Credentials, Options, Progress, Secret};
pub use platform::Platform;
pub use reference::Reference;
