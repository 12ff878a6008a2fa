//! The unit of an image's addresses.

use crate::error::Error;
use crate::format::ISLOT;

/// Bytes in a block: a power of two from 512 to 65,536.
///
/// Linux mounts images whose blocks are as large as a page (mostly 4096 bytes) or, since 6.4,
/// smaller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlockSize(u8);

impl BlockSize {
    /// The smallest block.
    pub const B512: Self = Self(9);
    /// The block of the oldest kernels, and the only one before Linux 6.4.
    pub const B4096: Self = Self(12);

    /// Returns the size of blocks of `bytes` bytes.
    ///
    /// ```
    /// use erofs_writer::BlockSize;
    ///
    /// assert_eq!(BlockSize::new(4096)?, BlockSize::B4096);
    /// assert!(BlockSize::new(1000).is_err());
    /// # Ok::<(), erofs_writer::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::BlockSize`] unless `bytes` is a power of two from 512 to 65,536.
    pub fn new(bytes: u32) -> Result<Self, Error> {
        if bytes.is_power_of_two() && (512..=65536).contains(&bytes) {
            Ok(Self(bytes.trailing_zeros() as u8))
        } else {
            Err(Error::BlockSize(bytes))
        }
    }

    /// The size in bytes.
    pub fn bytes(self) -> u32 {
        1 << self.0
    }

    /// The size's binary logarithm (`blkszbits`).
    pub fn bits(self) -> u8 {
        self.0
    }

    /// Whole blocks that hold `bytes` bytes.
    pub(crate) fn count(self, bytes: u64) -> u64 {
        bytes.div_ceil(u64::from(self.bytes()))
    }

    /// The position of block `block`.
    pub(crate) fn position(self, block: u64) -> u64 {
        block << self.0
    }

    /// The longest tail that fits after an inode and xattrs of any length.
    pub(crate) fn tail_max(self) -> u64 {
        u64::from(self.bytes()) - ISLOT
    }

    /// The first block border at or after `position`.
    pub(crate) fn align(self, position: u64) -> u64 {
        self.position(self.count(position))
    }
}

impl Default for BlockSize {
    fn default() -> Self {
        Self::B512
    }
}

impl TryFrom<u32> for BlockSize {
    type Error = Error;

    fn try_from(bytes: u32) -> Result<Self, Error> {
        Self::new(bytes)
    }
}
