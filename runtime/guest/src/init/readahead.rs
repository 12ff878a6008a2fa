//! Reads the merged metadata ahead, before programs need it, and keeps it in the page cache.
//!
//! The kernel reads metadata page by page, and each page of an image with 512-byte blocks in eight
//! requests to the disk, because it uses buffers of the file system's block size. Readahead uses
//! requests as large as the disk supports, and an image's names and inodes are in memory before the
//! first program looks for its libraries. If it was dropped from the cache, the kernel would read
//! it in small requests again. So init maps it and locks the mapping: mapped pages stay in the
//! cache.

use std::fs::File;
use std::num::NonZeroU64;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{Advice, fadvise};

use super::failure::{Failure, Step};
use super::sys;

/// The offset of the superblock, in bytes (`EROFS_SUPER_OFFSET`).
const SUPERBLOCK: u64 = 1024;

/// `EROFS_SUPER_MAGIC_V1`.
const MAGIC: [u8; 4] = 0xe0f5_e1e2_u32.to_le_bytes();

/// The most bytes that are read ahead.
const MOST: u64 = 16 << 20;

/// The kernel reads no more at a time from a disk with the usual readahead of 128 KiB.
const STEP: u64 = 128 << 10;

/// The part of the memory that locked metadata takes at most: one in so many bytes.
const SHARE: u64 = 32;

/// When the metadata is locked: most of what is read ahead has arrived by then, so that init waits
/// for little.
const DELAY: Duration = Duration::from_millis(100);

/// The metadata of an image, which is being read.
#[derive(Debug)]
pub(crate) struct Metadata {
    disk: File,
    /// In bytes, from the beginning of the disk.
    length: u64,
    due: Instant,
}

impl Metadata {
    /// Starts reading the metadata of the mounted image on the disk at `image`, without waiting.
    pub(crate) fn read_ahead(image: &Path) -> Result<Self, Failure> {
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
        Ok(Self {
            disk,
            length,
            due: Instant::now() + DELAY,
        })
    }

    /// Returns when to [`lock`](Self::lock) it.
    pub(crate) fn due(&self) -> Instant {
        self.due
    }

    /// Keeps the metadata in the page cache until the machine ends, as far as the memory allows.
    /// Without that, programs are only slower after the cache was dropped.
    pub(crate) fn lock(self) {
        let length = self.length.min(rustix::system::sysinfo().totalram / SHARE);
        let Some(length) = usize::try_from(length).ok().filter(|length| *length > 0) else {
            return;
        };
        if let Err(error) = sys::lock_in_memory(&self.disk, length) {
            eprintln!("blockbox-init: locking the metadata in memory: {error}");
        }
    }
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
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use super::*;

    #[test]
    fn metadata_is_locked_in_memory() {
        let mut image = tempfile::NamedTempFile::new().unwrap();
        let mut bytes = vec![0; 4 << 20];
        bytes[SUPERBLOCK as usize..][..128].copy_from_slice(&superblock(1497, 8));
        std::io::Write::write_all(&mut image, &bytes).unwrap();
        let locked = || -> u64 {
            let status = std::fs::read_to_string("/proc/self/status").unwrap();
            let line = status.lines().find(|line| line.starts_with("VmLck:"));
            line.unwrap()
                .split_whitespace()
                .nth(1)
                .unwrap()
                .parse()
                .unwrap()
        };
        let before = locked();
        let metadata = Metadata::read_ahead(image.path()).unwrap();
        assert!(metadata.due() > Instant::now());
        metadata.lock();
        // Whole pages.
        assert_eq!(locked() - before, 766_464_u64.next_multiple_of(4096) / 1024);
    }

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
