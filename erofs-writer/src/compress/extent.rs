//! Extents of compressed contents.

/// Contents between two borders, and the blocks that hold them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Extent {
    /// Bytes of contents.
    pub(crate) length: u32,
    /// None of those that are in no cluster of their own.
    pub(crate) blocks: u16,
    /// Not compressed: then they are one block at most.
    pub(crate) plain: bool,
    /// The blocks hold more, of which these are the first bytes.
    pub(crate) partial: bool,
}
