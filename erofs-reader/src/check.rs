//! Checking an image for corruption.

mod inodes;
mod ranges;
mod report;
mod structures;
mod tree;

use zerocopy::FromBytes;

use crate::corruption::Detail;
use crate::error::Error;
use crate::format::{self, SuperBlock};
use crate::image::Image;
use crate::read_at::ReadAt;
use crate::superblock::COMPAT;

pub use report::{CheckOptions, Finding, MAX_FINDINGS, Problem, Report, Severity};

impl<R: ReadAt> Image<R> {
    /// Checks everything that is reachable from the root, and reports all problems.
    ///
    /// That is: the superblock's sizes and reserved fields, the device table, compression
    /// configurations, xattr prefixes, every directory (order, duplicates, names, `.` and `..`,
    /// types, loops, depth), every inode (fields, link count, xattrs and their name filter, block
    /// map), that all data lies on its device and no metadata lies in other metadata. A wrong
    /// checksum of the superblock and unknown features are errors of [`Image::open`], and findings
    /// where the image was opened by [`Image::open_damaged`]. File contents are not read: see
    /// [`Image::check_with`].
    ///
    /// Takes time and memory in proportion to the image's metadata, never more than a small
    /// multiple of its size.
    ///
    /// ```no_run
    /// use erofs_reader::{Buffered, Image};
    ///
    /// let image = Image::open(Buffered::new(std::fs::File::open("image.erofs")?))?;
    /// let report = image.check();
    /// for finding in &report.findings {
    ///     eprintln!("{finding}");
    /// }
    /// assert!(report.is_clean());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn check(&self) -> Report {
        self.check_with(&CheckOptions::default())
    }

    /// Checks the image as [`Image::check`] does, with `options`.
    ///
    /// ```no_run
    /// use erofs_reader::{Buffered, CheckOptions, Image};
    ///
    /// let image = Image::open(Buffered::new(std::fs::File::open("image.erofs")?))?;
    /// let report = image.check_with(&CheckOptions::default().contents(true));
    /// assert!(report.is_clean());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn check_with(&self, options: &CheckOptions) -> Report {
        let overlooked = self.overlooked.iter().map(|error| Finding::of(None, error));
        let mut report = Report {
            findings: overlooked.collect(),
            ..Report::default()
        };
        self.check_superblock(&mut report);
        let metadata = structures::check(self, &mut report);
        tree::check(self, options, metadata, &mut report);
        report
    }

    fn check_superblock(&self, report: &mut Report) {
        let at = format::EROFS_SUPER_OFFSET;
        let sb = self.superblock();
        let size = self.device_size(0).unwrap_or(0);
        let claimed = sb.blocks.saturating_mul(sb.block_size.bytes());
        if claimed > size {
            let beyond = Detail::BeyondDevice {
                device: 0,
                start: 0,
                length: claimed,
                size,
            };
            report.error(None, Error::corrupt(None, at, beyond));
        }
        if sb.fixed_nsec >= 1_000_000_000 {
            report.warn(None, None, at, Detail::Nanoseconds(sb.fixed_nsec));
        }
        let known = COMPAT.iter().fold(0, |bits, (bit, _)| bits | bit);
        if sb.feature_compat & !known != 0 {
            let unknown = sb.feature_compat & !known;
            report.warn(None, None, at, Detail::CompatibleFeatures(unknown));
        }
        if let Ok(raw) = SuperBlock::read_from_bytes(&sb.raw)
            && (raw.reserved != [0; 2] || raw.reserved2.get() != 0)
        {
            report.warn(None, None, at, Detail::Reserved("of the superblock"));
        }
        let mut end = 0;
        for (number, device) in (1..=u16::MAX).zip(&sb.devices) {
            // Ranges ascend in every table that a tool writes; `erofs_map_dev` takes the first that
            // matches.
            if device.uniaddr != 0 {
                if device.uniaddr < end {
                    report.warn(None, None, at, Detail::DevicesOverlap(number));
                }
                end = device.uniaddr.saturating_add(device.blocks);
            }
            let claimed = device.blocks.saturating_mul(sb.block_size.bytes());
            if let Some(size) = self.device_size(number)
                && claimed > size
            {
                let beyond = Detail::BeyondDevice {
                    device: number,
                    start: 0,
                    length: claimed,
                    size,
                };
                report.error(None, Error::corrupt(None, at, beyond));
            }
        }
    }
}
