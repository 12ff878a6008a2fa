//! Reads the merged metadata ahead, before programs need it.
//!
//! The kernel reads metadata page by page, and each page of an image with 512-byte blocks in eight
//! requests to the disk, because it uses buffers of the file system's block size. Readahead uses
//! requests as large as the disk supports, and an image's names and inodes are in memory before the
//! first program looks for its libraries.

use std::fs::File;
use std::num::NonZeroU64;
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::fs::{Advice, fadvise};

use super::failure::{Failure, Step};

/// The offset of the superblock, in bytes (`EROFS_SUPER_OFFSET`).
const SUPERBLOCK: u64 = 1024;

/// `EROFS_SUPER_MAGIC_V1`.
const MAGIC: [u8; 4] = 0xe0f5_e1e2_u32.to_le_bytes();

/// The most bytes that are read ahead.
const MOST: u64 = 16 << 20;

/// The kernel reads no more at a time from a disk with the usual readahead of 128 KiB.
const STEP: u64 = 128 << 10;

/// Starts reading the metadata of the mounted image on the disk at `image`, without waiting.
pub(crate) fn metadata(image: &Path) -> Result<(), Failure> {
    let step = format!("reading ahead on {}", image.display());
    let disk = File::open(image).step(step.clone())?;
    let mut superblock = [0; 128];
    disk.read_exact_at(&mut superblock, SUPERBLOCK)
        .step(step.clone())?;
    let length = metadata_length(&superblock).unwrap_or(0).min(MOST);
    for start in (0..length).step_by(STEP as usize) {
        let piece = NonZeroU64::new(STEP.min(length - start));
        fadvise(&disk, start, piece, Advice::WillNeed).step(step.clone())?;
    }
    Ok(())
}

/// Returns how many bytes at the beginning of the disk are metadata: the whole primary device
/// (`blocks` of `struct erofs_super_block`) if contents are on other devices (`extra_devices`).
fn metadata_length(superblock: &[u8; 128]) -> Option<u64> {
    let field = |at: usize, len: usize| superblock.get(at..at + len);
    let block_bits = *field(12, 1)?.first()?;
    let blocks = u32::from_le_bytes(field(36, 4)?.try_into().ok()?);
    let extra_devices = u16::from_le_bytes(field(86, 2)?.try_into().ok()?);
    if field(0, 4)? != MAGIC || extra_devices == 0 {
        return None;
    }
    u64::from(blocks).checked_mul(1_u64.checked_shl(block_bits.into())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn superblock(blocks: u32, extra_devices: u16) -> [u8; 128] {
        let mut bytes = [0; 128];
        bytes[..4].copy_from_slice(&MAGIC);
        bytes[12] = 9;
        bytes[36..40].copy_from_slice(&blocks.to_le_bytes());
        bytes[86..88].copy_from_slice(&extra_devices.to_le_bytes());
        bytes
    }

    #[test]
    fn metadata_length_is_the_size_of_the_first_device() {
        assert_eq!(metadata_length(&superblock(1497, 8)), Some(766_464));
    }

    #[test]
    fn images_of_one_device_and_other_bytes_are_left_alone() {
        assert_eq!(metadata_length(&superblock(1497, 0)), None);
        assert_eq!(metadata_length(&[0xff; 128]), None);
        let mut odd = superblock(u32::MAX, 1);
        odd[12] = 255;
        assert_eq!(metadata_length(&odd), None);
    }
}
