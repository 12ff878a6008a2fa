//! Extents of compressed contents.

/// Contents between two borders, and the blocks that hold them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Extent {
    /// Bytes of contents.
    pub(crate) length: u32,
    /// The number of blocks; 0 for bytes that are not in a cluster of their own.
    pub(crate) blocks: u16,
    /// Not compressed: then they are one block at most.
    pub(crate) plain: bool,
    /// Whether the blocks hold more than these bytes.
    pub(crate) partial: bool,
}
