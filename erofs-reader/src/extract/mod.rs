//! Extracts the tree of an image into a directory or a tar stream.

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

use blockbox_path::BytePath;

/// The result of an extraction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Extracted {
    /// The number of names written.
    pub entries: u64,
    /// The number of bytes of file contents written, holes included.
    pub bytes: u64,
    /// Paths that were skipped because the destination cannot hold files of their type.
    pub skipped: Vec<BytePath>,
    /// Paths whose xattrs the destination rejected, with the names of these xattrs, ordered by
    /// path.
    pub refused_xattrs: Vec<(BytePath, Vec<BytePath>)>,
}
