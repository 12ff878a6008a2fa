//! Errors.

use alloc::boxed::Box;
use alloc::format;
use alloc::string::{String, ToString};
#[cfg(feature = "std")]
use std::io;

use blockbox_path::BytePath;

use crate::corruption::{Corruption, Detail};
use crate::file_type::FileType;
use crate::nid::Nid;
use crate::read_at::ReadAtError;

/// Why an image could not be read.
///
/// Three kinds matter most to a caller: the source failed ([`Error::Io`]), the image uses a feature
/// that this crate does not support ([`Error::Unsupported`]), or the image is damaged or hostile
/// ([`Error::Corrupt`]). [`Error::At`] adds the path at which one of them occurred;
/// [`Error::reason`] returns the inner error. The other kinds report invalid requests.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Reading a device failed.
    #[error("cannot read device {device} at byte {offset}")]
    Io {
        /// Which device: 0 is the primary one, `n` the `n`-th of the device table.
        device: u16,
        /// Where on it, in bytes.
        offset: u64,
        /// The error of the source.
        source: ReadAtError,
    },
    /// There is no EROFS superblock at byte 1024.
    #[error("no EROFS superblock: expected the magic number 0xe0f5e1e2, found {magic:#010x}")]
    NotErofs {
        /// The number found instead.
        magic: u32,
    },
    /// The image uses a feature that this crate does not support.
    #[error("{}{what} is not supported", of(*nid))]
    Unsupported {
        /// The inode concerned, unless it is the whole image.
        nid: Option<Nid>,
        /// The feature.
        what: Unsupported,
    },
    /// The image contradicts itself or its format.
    #[error("{}byte {offset}: {what}", of(*nid))]
    Corrupt {
        /// The inode concerned, unless it is the whole image.
        nid: Option<Nid>,
        /// Where the bad structure begins, in bytes; on the primary device unless `what` names
        /// another.
        offset: u64,
        /// The corruption.
        what: Corruption,
    },
    /// The number of devices passed differs from the number in the device table.
    #[error("the image has {expected} extra devices, but {given} were passed")]
    DeviceCount {
        /// The number in the superblock.
        expected: usize,
        /// The number passed.
        given: usize,
    },
    /// The path does not exist.
    #[error("no such file or directory: {path}")]
    NotFound {
        /// The path up to and with the missing component.
        path: BytePath,
    },
    /// A path leads through more than [`MAX_SYMLINKS`](crate::MAX_SYMLINKS) symbolic links.
    #[error("too many levels of symbolic links: {path}")]
    SymlinkLoop {
        /// The path that was looked up.
        path: BytePath,
    },
    /// The inode has another type than the operation requires.
    #[error("nid {nid} is a {found}, not a {expected}")]
    WrongType {
        /// The inode.
        nid: Nid,
        /// The type that the operation requires.
        expected: FileType,
        /// The type of the inode.
        found: FileType,
    },
    /// An extraction would write more than its limit.
    #[error("more than {limit} bytes of file contents")]
    Limit {
        /// The limit in bytes.
        limit: u64,
    },
    /// A file read as text is not valid UTF-8.
    #[error("nid {nid}: not UTF-8")]
    NotUtf8 {
        /// The inode.
        nid: Nid,
    },
    /// The destination of an extraction failed.
    #[cfg(feature = "std")]
    #[error("cannot extract {}", shown(path))]
    Output {
        /// The path inside the image that was being extracted.
        path: BytePath,
        /// The error of the destination.
        source: io::Error,
    },
    /// The file at a path could not be read, in a walk or an extraction.
    #[error("cannot read {}", shown(path))]
    At {
        /// The path inside the image; the root's is empty.
        path: BytePath,
        /// The error at that path.
        source: Box<Error>,
    },
}

fn of(nid: Option<Nid>) -> String {
    nid.map(|nid| format!("nid {nid}: ")).unwrap_or_default()
}

/// A path of the image, for messages.
fn shown(path: &BytePath) -> String {
    if path.is_empty() {
        return String::from("/");
    }
    path.to_string()
}

impl Error {
    pub(crate) fn corrupt(nid: impl Into<Option<Nid>>, offset: u64, what: Detail) -> Self {
        Self::Corrupt {
            nid: nid.into(),
            offset,
            what: what.into(),
        }
    }

    pub(crate) fn unsupported(nid: impl Into<Option<Nid>>, what: Unsupported) -> Self {
        Self::Unsupported {
            nid: nid.into(),
            what,
        }
    }
}

impl Error {
    /// Returns the error without the path of [`Error::At`].
    ///
    /// ```
    /// use erofs_reader::{Error, Image};
    ///
    /// fn is_damaged(error: &Error) -> bool {
    ///     matches!(error.reason(), Error::Corrupt { .. })
    /// }
    ///
    /// let error = Image::open(vec![0_u8; 4096]).unwrap_err();
    /// assert!(!is_damaged(&error));
    /// assert!(matches!(error, Error::NotErofs { .. }));
    /// ```
    pub fn reason(&self) -> &Self {
        let mut reason = self;
        while let Self::At { source, .. } = reason {
            reason = source;
        }
        reason
    }

    /// The error of reading what is at `path`, unless it names one already or is about none.
    pub(crate) fn of_path(self, path: &[u8]) -> Self {
        match self {
            #[cfg(feature = "std")]
            Self::Output { .. } => self,
            Self::At { .. } | Self::Limit { .. } => self,
            error => Self::At {
                path: path.into(),
                source: Box::new(error),
            },
        }
    }

    /// Returns the [`std::io::Error`] of the source or of the destination of an extraction, if that
    /// is the cause.
    #[cfg(feature = "std")]
    pub fn io_error(&self) -> Option<&io::Error> {
        match self.reason() {
            Self::Io { source, .. } => source.downcast_ref(),
            Self::Output { source, .. } => Some(source),
            _ => None,
        }
    }
}

#[cfg(feature = "std")]
impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        let kind = match error.reason() {
            Error::Io { .. } | Error::Output { .. } => {
                error.io_error().map_or(io::ErrorKind::Other, Self::kind)
            }
            Error::NotFound { .. } => io::ErrorKind::NotFound,
            Error::Unsupported { .. } => io::ErrorKind::Unsupported,
            Error::Corrupt { .. } | Error::NotErofs { .. } | Error::NotUtf8 { .. } => {
                io::ErrorKind::InvalidData
            }
            Error::Limit { .. } => io::ErrorKind::FileTooLarge,
            Error::At { .. }
            | Error::DeviceCount { .. }
            | Error::SymlinkLoop { .. }
            | Error::WrongType { .. } => io::ErrorKind::InvalidInput,
        };
        Self::new(kind, error)
    }
}

/// A feature of the format that this crate does not support.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Unsupported {
    /// Unknown bits of `feature_incompat`.
    #[error("feature_incompat {0:#x}")]
    IncompatibleFeatures(u32),
    /// `dirblkbits` is not 0: directory blocks larger than blocks.
    #[error("dirblkbits {0}")]
    DirectoryBlockBits(u8),
    /// Unknown bits of `i_format`, or a reserved data layout.
    #[error("i_format {0:#x}")]
    InodeFormat(u16),
    /// Unknown bits of the chunk format.
    #[error("chunk format {0:#x}")]
    ChunkFormat(u16),
    /// An xattr area of a header alone, which the format reserves.
    #[error("an xattr area without entries")]
    EmptyXattrArea,
    /// Compression that this build does not support.
    #[error("compressed data ({0})")]
    Compression(&'static str),
}

#[cfg(all(test, feature = "std"))]
mod tests {
    use std::error::Error as _;
    use std::string::ToString;

    use super::*;

    /// Whether errors like this one have a cause. Lists all variants, so that a new one is not
    /// forgotten here.
    fn has_cause(error: &Error) -> bool {
        match error {
            Error::Io { .. } | Error::Output { .. } | Error::At { .. } => true,
            Error::NotErofs { .. }
            | Error::Unsupported { .. }
            | Error::Corrupt { .. }
            | Error::DeviceCount { .. }
            | Error::NotFound { .. }
            | Error::SymlinkLoop { .. }
            | Error::WrongType { .. }
            | Error::Limit { .. }
            | Error::NotUtf8 { .. } => false,
        }
    }

    #[test]
    fn display_leaves_the_cause_to_source() {
        let io = || io::Error::other("THE CAUSE");
        let source = || Error::Io {
            device: 0,
            offset: 0,
            source: Box::new(io()),
        };
        let at = Error::At {
            path: "usr".into(),
            source: Box::new(source()),
        };
        let output = Error::Output {
            path: BytePath::default(),
            source: io(),
        };
        for error in [source(), at, output] {
            assert!(has_cause(&error));
            let source = error.source().expect("a cause").to_string();
            assert!(!error.to_string().contains(&source), "{error:?}");
            assert!(!error.to_string().contains("THE CAUSE"), "{error:?}");
        }
        assert!(!has_cause(&Error::Limit { limit: 0 }));
    }

    #[test]
    fn debug_of_an_error_shows_its_path_as_text() {
        let error = Error::NotFound {
            path: b"usr/l\xff".into(),
        };
        assert_eq!(format!("{error:?}"), r#"NotFound { path: "usr/l\xff" }"#);
        assert!(error.to_string().ends_with(r"directory: usr/l\xff"));
    }
}
