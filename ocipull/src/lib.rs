#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]
#![forbid(unsafe_code)]

mod chunk;
mod compression;
mod copy;
#[cfg(feature = "registry")]
pub mod credentials;
mod digest;
mod directory;
mod docker_archive;
#[cfg(all(unix, feature = "registry"))]
mod docker_daemon;
mod error;
mod events;
mod image;
mod json;
mod kept;
mod layer;
mod layout;
mod members;
mod name;
mod names;
#[cfg(feature = "async")]
mod nonblocking;
mod options;
mod parse;
mod pipeline;
mod platform;
mod reference;
#[cfg(feature = "registry")]
mod registry;
mod search;
mod select;
mod shape;
mod source;
pub mod spec;
mod spool;
mod target;
mod tree;
mod unverified;

pub use copy::{Copied, CopyOptions, copy, copy_into};
pub use digest::Digest;
pub use error::{Cause, ConnectHint, CredentialSource, Document, Error, SourceProblem, UsedProxy};
pub use events::{Done, Event, Events, Progress, Pushed};
pub use image::Image;
pub use json::{parse_config, parse_manifest};
pub use kept::KeptFile;
pub use layer::{Decompressed, Fetched, Layer, LayerReader, decompress, decompress_bounded};
#[cfg(feature = "async")]
pub use nonblocking::{LayerStream, Unblock, unblock};
pub use options::{Credentials, Options, Registries, Secret};
pub use platform::Platform;
pub use reference::Reference;
#[cfg(feature = "registry")]
pub use registry::{Manifest, Referrer, Repository, check_login, download};
pub use target::{ArchiveWriter, Target};

/// The media type of a layer that is an EROFS image. With `+zstd` after it, the image is in zstd
/// frames.
pub const EROFS_LAYER: &str = "application/vnd.erofs.layer.v1";

/// The feature that marks EROFS-native images among an index's `platform.os.features`, and in a
/// configuration's `os.features`.
pub const EROFS_FEATURE: &str = "erofs";

/// Parsers of text from servers and other programs' files, for the fuzz targets.
#[cfg(all(fuzzing, feature = "registry"))]
#[doc(hidden)]
pub mod fuzz {
    /// A `WWW-Authenticate` header; returns how many challenges it has.
    pub fn challenges(header: &str) -> usize {
        crate::registry::fuzz::challenges(header)
    }

    /// A file in the format of containers-registries.conf(5), and the name of a repository.
    pub fn registries_conf(text: &str, host: &str, repository: &str) {
        crate::registry::fuzz::registries_conf(text, host, repository);
    }

    /// A manifest, a configuration or an index: choosing an entry, and listing what to copy.
    pub fn documents(bytes: &[u8]) {
        crate::image::fuzz(bytes);
    }

    /// The header of a partial response, and the list of kept pieces of a blob.
    pub fn ranges(header: &str, list: &[u8]) {
        crate::registry::fuzz::ranges(header, list);
    }

    /// A file of credentials, and the name of a repository; returns whether it has credentials for
    /// it.
    pub fn auth_file(bytes: &[u8], host: &str, repository: &str) -> bool {
        crate::credentials::fuzz(bytes, host, repository)
    }
}
