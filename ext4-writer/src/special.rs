//! Inodes that no directory names.

use crate::Options;
use crate::image::Image;
use crate::node::Body;
use crate::quota::Owner;

/// The use of such an inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Resize,
    Journal,
    OrphanFile,
    Quota(Owner),
}

#[derive(Clone, Debug)]
pub(crate) struct Special {
    pub(crate) ino: u32,
    pub(crate) role: Role,
    pub(crate) body: Body,
}

impl Special {
    pub(crate) fn new(ino: u32, role: Role, body: Body) -> Self {
        Self { ino, role, body }
    }
}

/// Whether there is to be an orphan file.
pub(crate) fn orphan_file<W>(image: &Image<W>, options: &Options) -> bool {
    options.orphan_file && image.geometry.journal_blocks > 0
}

/// The number of these inodes that have no reserved number, but one after the last named inode.
pub(crate) fn inodes_after_tree<W>(image: &Image<W>, options: &Options) -> u32 {
    u32::from(orphan_file(image, options)) + u32::from(options.quota && options.project)
}
