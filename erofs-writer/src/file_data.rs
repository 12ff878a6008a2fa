//! Where the contents of files lie.

use crate::chunks::ChunkSize;
use crate::device::DeviceId;

/// Where the contents of a regular file lie. Made by a [`DataWriter`](crate::DataWriter), a
/// [`ChunkWriter`](crate::ChunkWriter), [`on_device`](Self::on_device),
/// [`Builder::chunks_on_devices`](crate::Builder::chunks_on_devices) or [`later`](Self::later).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileData {
    pub(crate) size: u64,
    pub(crate) place: Place,
}

/// How contents lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// In one piece from a block on. The device counts from 1; 0 is the image itself.
    Flat { device: u16, block: u64 },
    /// In chunks, whose places begin at `first` of the builder's list.
    Chunks { size: ChunkSize, first: u64 },
    /// In the builder's list of submitted contents, at `index`.
    Piped { index: u64 },
    /// In one piece, except for the partial last block, which follows the inode and is at `index`
    /// of the builder's list.
    Tail { index: u64 },
    /// Not stored yet. The number identifies them to the caller.
    Later { number: u64 },
}

/// Contents whose last, partial block is to stand after the inode.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tail {
    /// The first of the whole blocks, where there are any.
    pub(crate) block: u64,
    /// Where the tail is kept.
    pub(crate) kept: u64,
    /// The length of the contents.
    pub(crate) size: u64,
}

impl FileData {
    /// No contents.
    pub const EMPTY: Self = Self::flat(0, 0, 0);

    /// Returns contents of `size` bytes that start at block `start_block` of `device`, in blocks of
    /// the image being built.
    ///
    /// Linux 5.16 and later read them, and earlier versions if the devices are appended to the
    /// image as one disk.
    ///
    /// ```
    /// # use std::io::Cursor;
    /// use erofs_writer::{Builder, DeviceSlot, FileData, Options};
    ///
    /// let mut image = Builder::new(Cursor::new(Vec::new()), Options::default())?;
    /// let layer = image.add_device(DeviceSlot::new([b'0'; 64], 2048))?;
    /// assert_eq!(FileData::on_device(layer, 3, 70_000).size(), 70_000);
    /// # Ok::<(), erofs_writer::Error>(())
    /// ```
    pub fn on_device(device: DeviceId, start_block: u64, size: u64) -> Self {
        match size {
            0 => Self::EMPTY,
            _ => Self::flat(device.0 + 1, start_block, size),
        }
    }

    pub(crate) const fn flat(device: u16, block: u64, size: u64) -> Self {
        Self {
            size,
            place: Place::Flat { device, block },
        }
    }

    pub(crate) const fn chunked(chunk_size: ChunkSize, first: u64, size: u64) -> Self {
        Self {
            size,
            place: Place::Chunks {
                size: chunk_size,
                first,
            },
        }
    }

    /// Returns the length of the contents in bytes; 0 if they are [stored later](Self::later).
    pub fn size(&self) -> u64 {
        self.size
    }
}
