//! What a check is asked for, and what it has found.

use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;

use blockbox_path::BytePath;

use crate::corruption::{Corruption, Detail};
use crate::error::{Error, Unsupported};
use crate::nid::Nid;
use crate::progress::Progress;

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

/// The result of [`Image::check`](crate::Image::check).
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

    pub(super) fn add(&mut self, finding: Finding) {
        if self.findings.len() < MAX_FINDINGS {
            self.findings.push(finding);
        } else {
            self.truncated = true;
        }
    }

    pub(super) fn warn(
        &mut self,
        nid: Option<Nid>,
        path: Option<&[u8]>,
        offset: u64,
        what: Detail,
    ) {
        self.add(Finding {
            severity: Severity::Warning,
            nid,
            path: path.map(BytePath::from),
            offset: Some(offset),
            problem: Problem::Corrupt(what.into()),
        });
    }

    pub(super) fn error(&mut self, path: Option<&[u8]>, error: Error) {
        self.add(Finding::of(path, &error));
    }
}
