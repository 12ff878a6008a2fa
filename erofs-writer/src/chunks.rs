//! Chunks: parts of equal size of a file, each stored anywhere or a hole.

use crate::block_size::BlockSize;
use crate::device::DeviceId;
use crate::error::Error;

/// The most chunks of one file. A map of so many takes 64 MiB.
pub(crate) const CHUNKS_MAX: u64 = 1 << 24;
/// The chunk bits that `i_u.c.format` counts (`EROFS_CHUNK_FORMAT_BLKBITS_MASK`).
const BITS_MAX: u8 = 31;

/// The size of a file's chunks: a block, or two, four, eight, … of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChunkSize(u8);

impl ChunkSize {
    /// Returns the size of chunks of 2^`bits` blocks.
    ///
    /// ```
    /// use erofs_writer::{BlockSize, ChunkSize};
    ///
    /// let size = ChunkSize::from_block_bits(4)?;
    /// assert_eq!(size.bytes(BlockSize::B4096), 64 << 10);
    /// # Ok::<(), erofs_writer::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::ChunkSize`] if `bits` is greater than 31.
    pub fn from_block_bits(bits: u8) -> Result<Self, Error> {
        if bits <= BITS_MAX {
            Ok(Self(bits))
        } else {
            Err(Error::ChunkSize(bits))
        }
    }

    /// Returns the smallest chunks, at least 4096 bytes, of which a file of `length` bytes has at
    /// most 65,536.
    ///
    /// ```
    /// use erofs_writer::{BlockSize, ChunkSize};
    ///
    /// let size = ChunkSize::for_length(1 << 40, BlockSize::B4096);
    /// assert_eq!(size.bytes(BlockSize::B4096), 32 << 20);
    /// ```
    pub fn for_length(length: u64, block_size: BlockSize) -> Self {
        let page = 12_u8.saturating_sub(block_size.bits());
        let bits = (page..BITS_MAX).find(|&bits| length >> (bits + block_size.bits()) < 1 << 16);
        Self(bits.unwrap_or(BITS_MAX))
    }

    /// Returns the base-2 logarithm of the number of blocks in a chunk.
    pub fn block_bits(self) -> u8 {
        self.0
    }

    /// The size in bytes.
    pub fn bytes(self, block_size: BlockSize) -> u64 {
        u64::from(block_size.bytes()) << self.0
    }
}

/// Where a chunk lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Chunk {
    /// Not stored: it is all zeros.
    Hole,
    /// At block `block` of `device`, and in the blocks after it.
    OnDevice {
        /// The device.
        device: DeviceId,
        /// The chunk's first block there.
        block: u64,
    },
}

/// Where a chunk lies, in eight bytes: device from 1, or 0 for the image, then 48 bits of block;
/// all ones for a hole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ChunkPlace(u64);

impl ChunkPlace {
    pub(crate) const HOLE: Self = Self(u64::MAX);
    const BLOCK_BITS: u32 = 48;

    /// A block number over 48 bits becomes one beyond every device.
    pub(crate) fn new(device: u16, block: u64) -> Self {
        let last = (1 << Self::BLOCK_BITS) - 2;
        Self(u64::from(device) << Self::BLOCK_BITS | block.min(last))
    }

    /// Device and block; `None` for a hole.
    pub(crate) fn get(self) -> Option<(u16, u64)> {
        let device = (self.0 >> Self::BLOCK_BITS) as u16;
        (self != Self::HOLE).then_some((device, self.0 & ((1 << Self::BLOCK_BITS) - 1)))
    }
}

impl From<Chunk> for ChunkPlace {
    fn from(chunk: Chunk) -> Self {
        match chunk {
            Chunk::Hole => Self::HOLE,
            Chunk::OnDevice { device, block } => Self::new(device.0 + 1, block),
        }
    }
}
