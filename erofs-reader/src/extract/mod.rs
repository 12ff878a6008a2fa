//! Getting the tree out of an image: as a tar stream, or into a directory.

mod ahead;
#[cfg(unix)]
mod attributes;
mod budget;
#[cfg(unix)]
mod dir;
#[cfg(unix)]
mod files;
#[cfg(unix)]
mod folders;
mod input;
mod meter;
mod pieces;
mod sparse;
mod tar;
#[cfg(unix)]
mod terms;
#[cfg(unix)]
mod workers;

#[cfg(unix)]
pub use dir::extract_to_dir;
pub use tar::{TarOptions, extract_to_tar};
#[cfg(unix)]
pub use terms::DirOptions;

/// What an extraction did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Extracted {
    /// Names written.
    pub entries: u64,
    /// Bytes of file contents written, holes included.
    pub bytes: u64,
    /// Paths that were left out, because the destination cannot hold what is there.
    pub skipped: Vec<Vec<u8>>,
    /// Paths with xattrs that the destination refused, and the names of those, in order of the paths.
    pub refused_xattrs: Vec<(Vec<u8>, Vec<Vec<u8>>)>,
}
