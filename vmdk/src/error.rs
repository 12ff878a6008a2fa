use std::io;
use std::path::{Path, PathBuf};

/// An error of writing, parsing or reading a disk.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file or another source could not be opened or read.
    #[error("failed to read {}", path.display())]
    Io {
        /// The file, or the name that a descriptor has for the source.
        path: PathBuf,
        /// What the operating system or the source reported.
        source: io::Error,
    },
    /// The file name of an extent is not allowed.
    #[error("extent file name {name:?} {problem}")]
    Name {
        /// The name as given.
        name: String,
        /// What is wrong with it.
        problem: NameProblem,
    },
    /// A file is not a positive whole number of sectors.
    #[error("{name:?} has {bytes} bytes, not a positive multiple of 512")]
    Unaligned {
        /// The file's name.
        name: String,
        /// Its size in bytes.
        bytes: u64,
    },
    /// The bytes to be written as a sparse image are not a positive whole number of sectors.
    #[error("the disk has {bytes} bytes, not a positive multiple of 512")]
    DiskSize {
        /// Their number.
        bytes: u64,
    },
    /// An extent of no sectors.
    #[error("an extent of 0 sectors")]
    EmptyExtent,
    /// Text that a descriptor cannot hold: with quotes, line ends or other control characters.
    #[error("the value of {key:?} cannot be written")]
    Value {
        /// The key that it is a value of, or is.
        key: String,
    },
    /// A disk without extents.
    #[error("the disk has no extents")]
    NoExtents,
    /// All extents together exceed what a signed 64-bit byte offset can say.
    #[error("the disk's size overflows")]
    Overflow,
    /// A descriptor over [`MAX_DESCRIPTOR`](crate::MAX_DESCRIPTOR) bytes.
    #[error(
        "the descriptor has {bytes} bytes, over the limit of {}",
        crate::MAX_DESCRIPTOR
    )]
    TooLong {
        /// Its size in bytes.
        bytes: u64,
    },
    /// A line of the descriptor is not what the format allows.
    #[error("descriptor line {line}: {problem}")]
    Syntax {
        /// Counted from 1; 0 where the descriptor as a whole is meant.
        line: usize,
        /// What is wrong.
        problem: SyntaxProblem,
    },
    /// Reading the bytes to be converted, or writing the image, failed.
    #[error("failed to convert the disk")]
    Stream {
        /// What the reader or the writer reported.
        source: io::Error,
    },
    /// A grain would lie beyond the 2 TiB of a file that a grain table can address.
    #[error("the image grows beyond 2 TiB, where grain tables cannot address it")]
    GrainAddress,
    /// A sparse image is damaged or not one.
    #[error("{}sector {sector}: {problem}", prefix(file.as_deref()))]
    Sparse {
        /// The file, or the name that a descriptor has for it; `None` for the source that a disk
        /// was opened from.
        file: Option<PathBuf>,
        /// The sector of the file where the damage shows.
        sector: u64,
        /// What is wrong.
        problem: SparseProblem,
    },
    /// The descriptor is valid, but reading such disks is not supported.
    #[error("unsupported: {what}")]
    Unsupported {
        /// The extent type, `createType` or feature.
        what: String,
    },
    /// An extent's file ends before the extent does.
    #[error("{} has {actual} bytes, its extent needs {needed}", path.display())]
    ShortFile {
        /// The file.
        path: PathBuf,
        /// Bytes from the file's start to the extent's end.
        needed: u64,
        /// Bytes in the file.
        actual: u64,
    },
}

impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        let kind = match &error {
            Error::Io { source, .. } | Error::Stream { source } => source.kind(),
            Error::Sparse { .. } | Error::Syntax { .. } | Error::ShortFile { .. } => {
                io::ErrorKind::InvalidData
            }
            Error::Unsupported { .. } => io::ErrorKind::Unsupported,
            _ => io::ErrorKind::InvalidInput,
        };
        Self::new(kind, error)
    }
}

fn prefix(file: Option<&Path>) -> String {
    file.map(|file| format!("{}: ", file.display()))
        .unwrap_or_default()
}

/// Why a file name is not allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NameProblem {
    /// No characters at all.
    #[error("is empty")]
    Empty,
    /// Over 511 bytes: QEMU cuts it.
    #[error("is longer than 511 bytes")]
    TooLong,
    /// Starts at the root of a filesystem.
    #[error("is absolute")]
    Absolute,
    /// Has a `..` component.
    #[error("contains `..`")]
    ParentDir,
    /// A quote, a backslash, a control character or not ASCII: no way to write it that all readers
    /// share.
    #[error("has a character that not every reader supports")]
    Character,
    /// A blank where Cloud Hypervisor splits, or at an end.
    #[error("has a blank")]
    Blank,
    /// A colon: QEMU takes what is before it for a protocol.
    #[error("has a colon")]
    Colon,
    /// It leads, through a symlink or `..`, to a place outside the allowed folder.
    #[error("leads outside the allowed folder")]
    Outside,
    /// It is a folder, a device, a pipe or a socket.
    #[error("is not a regular file")]
    NotAFile,
}

/// A problem of a sparse image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SparseProblem {
    /// No `KDMV` at the beginning.
    #[error("not a sparse image")]
    Magic,
    /// The bytes that reveal a transfer in text mode are changed.
    #[error("line ends were converted: the file was copied as text")]
    LineEnds,
    /// A grain size that is not a power of two, or under 4 KiB or over 4 MiB.
    #[error("bad grain size")]
    GrainSize,
    /// The capacity is 0, overflows, or is not that of the extent in the descriptor.
    #[error("bad capacity")]
    Capacity,
    /// A descriptor that does not lie in the file, or is not of one `SPARSE` extent.
    #[error("bad embedded descriptor")]
    Descriptor,
    /// A grain directory, grain table or grain beyond the end of the file.
    #[error("points beyond the end of the file")]
    Bounds,
    /// The footer of a streamOptimized image is missing or differs from the header.
    #[error("bad footer")]
    Footer,
    /// A compressed grain that is not the one its table says.
    #[error("bad grain marker")]
    Marker,
    /// A compressed grain that does not inflate to a grain.
    #[error("a grain does not inflate")]
    Deflate,
}

/// A problem in a line of a descriptor.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SyntaxProblem {
    /// The text is not UTF-8.
    #[error("not UTF-8 text")]
    NotText,
    /// It begins neither with `# Disk DescriptorFile` nor with its version.
    #[error("`# Disk DescriptorFile` expected")]
    NoSignature,
    /// Neither a comment, nor `key=value`, nor an extent.
    #[error("neither a comment, a key nor an extent")]
    Unintelligible,
    /// A key that was there before, with another value.
    #[error("{0:?} has two values")]
    Duplicate(String),
    /// A key that must be there is not.
    #[error("{0:?} is missing")]
    Missing(&'static str),
    /// A value that its key does not allow.
    #[error("bad value of {0:?}")]
    Value(String),
    /// An extent line lacks a field, or a field is malformed; the field's name.
    #[error("bad {0} in an extent")]
    Extent(&'static str),
}
