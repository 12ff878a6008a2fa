//! Checking an image for corruption.

mod inodes;
mod ranges;
mod structures;
mod tree;

use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;

use blockbox_path::BytePath;
use zerocopy::FromBytes;

use crate::corruption::{Corruption, Detail};
use crate::error::{Error, Unsupported};
use crate::format::{self, SuperBlock};
use crate::image::Image;
use crate::nid::Nid;
use crate::progress::Progress;
use crate::read_at::ReadAt;
use crate::superblock::COMPAT;

/// How many findings a report holds at most.
pub const MAX_FINDINGS: usize = 10_000;

/// What to check.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct CheckOptions {
    /// Also read the contents of every file, so that all compressed data is decoded and all of
    /// every device read.
    ///
    /// This takes as long as extracting does, and a small image can describe large files: clusters
    /// may be shared.
    pub contents: bool,
    /// The callback for progress: inodes, and bytes of their contents.
    pub progress: Option<Progress>,
}

impl CheckOptions {
    /// Sets [`contents`](Self::contents).
    #[must_use]
    pub fn contents(mut self, contents: bool) -> Self {
        self.contents = contents;
        self
    }

    /// Sets [`progress`](Self::progress).
    #[must_use]
    pub fn progress(mut self, progress: impl Into<Option<Progress>>) -> Self {
        self.progress = progress.into();
        self
    }
}

/// How bad a [`Finding`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub enum Severity {
    /// The kernel reads the image as intended, but no tool should have written it so.
    Warning,
    /// Something cannot be read, or reads differently from what the image says elsewhere.
    Error,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Warning => "warning",
            Self::Error => "error",
        })
    }
}

/// What a [`Finding`] is about.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Problem {
    /// The image is damaged.
    #[error("{0}")]
    Corrupt(Corruption),
    /// The image uses something that this crate does not read, so that a part of it was not
    /// checked.
    #[error("{0} is not supported")]
    Unsupported(Unsupported),
    /// Reading a device failed.
    #[error("{0}")]
    Io(String),
}

/// A problem found in an image.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Finding {
    /// The severity.
    pub severity: Severity,
    /// The inode concerned, unless it is the whole image.
    pub nid: Option<Nid>,
    /// A path of that inode. The root's path is empty.
    pub path: Option<BytePath>,
    /// Where the bad structure begins on the primary device, in bytes, or in a directory's data for
    /// one of its entries.
    pub offset: Option<u64>,
    /// The problem itself.
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::serial::text"))]
    pub problem: Problem,
}

impl Finding {
    pub(crate) fn of(path: Option<&[u8]>, error: &Error) -> Self {
        let (nid, offset, problem) = match error {
            Error::Corrupt { nid, offset, what } => {
                (*nid, Some(*offset), Problem::Corrupt(what.clone()))
            }
            Error::Unsupported { nid, what } => (*nid, None, Problem::Unsupported(*what)),
            Error::Io { offset, source, .. } => {
                (None, Some(*offset), Problem::Io(source.to_string()))
            }
            Error::At { path, source } => return Self::of(Some(path), source),
            other => (None, None, Problem::Io(other.to_string())),
        };
        Self {
            severity: Severity::Error,
            nid,
            path: path.map(BytePath::from),
            offset,
            problem,
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.severity)?;
        if let Some(path) = &self.path {
            write!(f, "/{path}: ")?;
        }
        if let Some(nid) = self.nid {
            write!(f, "nid {nid}: ")?;
        }
        if let Some(offset) = self.offset {
            write!(f, "byte {offset}: ")?;
        }
        write!(f, "{}", self.problem)
    }
}

/// The result of [`Image::check`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Report {
    /// All problems, in the order in which they were found.
    pub findings: Vec<Finding>,
    /// Whether there were more than [`MAX_FINDINGS`] problems, of which the rest are missing here.
    pub truncated: bool,
    /// The number of inodes that are reachable from the root.
    pub inodes: u64,
    /// The number of directories among them.
    pub directories: u64,
    /// The number of names in all directories.
    pub names: u64,
    /// The total size in bytes of all regular files.
    pub bytes: u64,
}

impl Report {
    /// Returns whether no problem was found.
    ///
    /// ```no_run
    /// use erofs_reader::Image;
    ///
    /// let report = Image::open(std::fs::File::open("layer.erofs")?)?.check();
    /// for finding in report.errors() {
    ///     eprintln!("{finding}");
    /// }
    /// std::process::exit(if report.is_clean() { 0 } else { 1 });
    /// # #[allow(unreachable_code)]
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn is_clean(&self) -> bool {
        self.findings.is_empty()
    }

    /// Returns the findings that are errors.
    pub fn errors(&self) -> impl Iterator<Item = &Finding> {
        self.findings
            .iter()
            .filter(|finding| finding.severity == Severity::Error)
    }

    fn add(&mut self, finding: Finding) {
        if self.findings.len() < MAX_FINDINGS {
            self.findings.push(finding);
        } else {
            self.truncated = true;
        }
    }

    fn warn(&mut self, nid: Option<Nid>, path: Option<&[u8]>, offset: u64, what: Detail) {
        self.add(Finding {
            severity: Severity::Warning,
            nid,
            path: path.map(BytePath::from),
            offset: Some(offset),
            problem: Problem::Corrupt(what.into()),
        });
    }

    fn error(&mut self, path: Option<&[u8]>, error: Error) {
        self.add(Finding::of(path, &error));
    }
}

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
