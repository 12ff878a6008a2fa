//! The figures of a finished image.

/// The figures of a finished image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Summary {
    /// The filesystem's UUID (`s_uuid`).
    pub uuid: [u8; 16],
    /// Bytes per block.
    pub block_size: u32,
    /// All blocks (`s_blocks_count`).
    pub blocks: u64,
    /// Blocks that are not in use.
    pub free_blocks: u64,
    /// All inodes (`s_inodes_count`).
    pub inodes: u32,
    /// Inodes that are not in use.
    pub free_inodes: u32,
    /// The journal's blocks; 0 without one.
    pub journal_blocks: u64,
}
