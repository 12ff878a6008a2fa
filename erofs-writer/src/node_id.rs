//! Handles of inodes, which belong to one builder.

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::Error;

/// An inode of the image being built. Only the builder that returned it accepts it: others report
/// [`Error::ForeignNode`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId {
    pub(crate) owner: Owner,
    pub(crate) index: u32,
}

/// The identity of a builder, which distinguishes its nodes from those of others. It is never
/// written to an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Owner(usize);

impl Owner {
    /// Returns one that no other builder of this process has.
    pub(crate) fn new() -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }

    /// Returns the handle of the inode at `index`.
    pub(crate) fn node(self, index: u32) -> NodeId {
        NodeId { owner: self, index }
    }

    /// Returns the index of `node`.
    ///
    /// # Errors
    ///
    /// [`Error::ForeignNode`] for a node of another builder.
    pub(crate) fn index(self, node: NodeId) -> Result<u32, Error> {
        match node.owner == self {
            true => Ok(node.index),
            false => Err(Error::ForeignNode),
        }
    }
}
