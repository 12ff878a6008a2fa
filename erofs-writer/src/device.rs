//! Devices other than the image that hold contents of files.

/// An entry of the image's device table: a device, usually another image, that holds contents of
/// files (`struct erofs_deviceslot`).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DeviceSlot {
    /// An identifier, for example a digest in hex (`tag`). The kernel requires that its first byte
    /// is not zero.
    pub tag: [u8; 64],
    /// The size in blocks of the image being built (`blocks`).
    pub blocks: u64,
}

impl DeviceSlot {
    /// Returns the entry of a device of `blocks` blocks of the image being built.
    pub fn new(tag: [u8; 64], blocks: u64) -> Self {
        Self { tag, blocks }
    }
}

/// A [`DeviceSlot`] of the image being built.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeviceId(pub(crate) u16);
