use std::io;
use std::path::PathBuf;

use blockbox_path::BytePath;
use thiserror::Error;

use crate::compress::Algorithm;

/// An error of writing an image. Messages do not repeat the [source](std::error::Error::source).
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// Writing the output, or reading back from it, failed.
    #[error("cannot write the image")]
    Output {
        /// The error that the output returned.
        source: io::Error,
    },
    /// Reading the contents of a file failed, or they ended too early.
    #[error("cannot read the contents of a file")]
    Contents {
        /// The error that the reader returned.
        source: io::Error,
    },
    /// A tar archive could not be read, or holds something that no filesystem can.
    #[cfg(feature = "tar")]
    #[error("cannot read the archive")]
    Archive {
        /// What is wrong, and where.
        source: Box<fsmerge::Error>,
    },
    /// A directory of this host could not be read.
    #[cfg(all(feature = "dir", unix))]
    #[error("cannot read the directory {}", path.display())]
    Directory {
        /// The path on this host.
        path: PathBuf,
        /// What is wrong, and where in the directory.
        source: Box<fsmerge::Error>,
    },
    /// The file of the image could not be created.
    #[error("cannot create {}", path.display())]
    Create {
        /// The path on this host.
        path: PathBuf,
        /// The error that the system returned.
        source: io::Error,
    },
    /// The output cannot be read, which finding equal contents requires: it was opened for writing
    /// only.
    #[error("the output cannot be read back, which deduplication requires")]
    NotReadable {
        /// The error that reading returned.
        source: io::Error,
    },
    /// The block size in bytes is not a power of two from 512 to 65,536.
    #[error("{0} bytes is not a block size: a power of two from 512 to 65536")]
    BlockSize(u32),
    /// The volume name is longer than 15 bytes or holds a NUL.
    #[error("'{0}' is not a volume name: at most 15 bytes, no NUL")]
    Label(BytePath),
    /// The name is empty, `.`, `..`, longer than 255 bytes, or holds a `/` or a NUL.
    #[error("'{name}' is not a valid file name, in '{directory}'")]
    InvalidName {
        /// The path of the directory.
        directory: BytePath,
        /// The name.
        name: BytePath,
    },
    /// A node with this path exists already.
    #[error("'{path}' exists already")]
    AlreadyExists {
        /// The path.
        path: BytePath,
    },
    /// No node has this path.
    #[error("'{path}' does not exist")]
    NotFound {
        /// The path.
        path: BytePath,
    },
    /// The parent of a new node is not a directory.
    #[error("'{path}' is not a directory")]
    NotADirectory {
        /// The path of the node.
        path: BytePath,
    },
    /// The target of a hard link is a directory.
    #[error("'{path}' is a directory: it cannot have a second name")]
    LinkToDirectory {
        /// The path of the directory.
        path: BytePath,
    },
    /// The path leads through more than 40 symbolic links, the most that Linux follows.
    #[error("too many symbolic links on the way to '{path}'")]
    SymlinkLoop {
        /// The path.
        path: BytePath,
    },
    /// The node belongs to another builder, or was removed from this one.
    #[error("the node is not in this image")]
    ForeignNode,
    /// The device is not one of this builder's.
    #[error("'{path}': device {device} is not in this image")]
    UnknownDevice {
        /// The path of the file.
        path: BytePath,
        /// The device's place in the order of devices.
        device: u16,
    },
    /// The file lies beyond the end of its device.
    #[error("'{path}': blocks {start}..{end} are beyond the device, which has {blocks}")]
    BeyondDevice {
        /// The path of the file.
        path: BytePath,
        /// The file's first block.
        start: u64,
        /// The block after its last.
        end: u64,
        /// The device's blocks.
        blocks: u64,
    },
    /// The contents were written through another builder.
    #[error("'{0}': its contents were written to another image")]
    ForeignData(BytePath),
    /// The contents of the file, promised by [`FileData::later`](crate::FileData::later), were
    /// never stored.
    #[error("'{0}': its contents were never stored")]
    NoContents(BytePath),
    /// A device was added after contents were written, which follow the device table.
    #[error("devices must be added before contents are written")]
    DeviceAfterData,
    /// There are more devices than the device table can hold.
    #[error("more than {0} devices")]
    TooManyDevices(u64),
    /// There are more inodes or names than 32 bits count.
    #[error("more than {} inodes or names", u32::MAX - 1)]
    TooManyNodes,
    /// An attribute has a value that EROFS cannot hold.
    #[error("'{path}': {attribute} {value} is out of range")]
    Attribute {
        /// The path.
        path: BytePath,
        /// The attribute: `mode`, `mtime` (nanoseconds), `major`, `minor`, `size` or `symlink` (its
        /// target's length).
        attribute: &'static str,
        /// Its value.
        value: u64,
    },
    /// A symbolic link's target holds a NUL.
    #[error("'{path}': the target '{target}' holds a NUL")]
    SymlinkTarget {
        /// The path of the link.
        path: BytePath,
        /// The target.
        target: BytePath,
    },
    /// An extended attribute that EROFS cannot hold.
    #[error("'{path}': xattr '{name}': {problem}")]
    Xattr {
        /// The path.
        path: BytePath,
        /// The attribute's full name.
        name: BytePath,
        /// What is wrong with it.
        problem: XattrProblem,
    },
    /// The beginning of xattr names cannot be stored once for all, see
    /// [`XattrPrefixes::new`](crate::XattrPrefixes::new).
    #[error(
        "'{0}' is not a prefix of xattr names, is a duplicate, or exceeds the number of prefixes"
    )]
    XattrPrefix(BytePath),
    /// The [epoch](crate::Options::epoch)'s nanoseconds are a second or more.
    #[error("an epoch's {0} nanoseconds are a second or more")]
    Epoch(u32),
    /// The size of compressed clusters, in bytes, is not a multiple of the block size, or is more
    /// than 1 MiB or 2047 blocks.
    #[error("{0} bytes is not a cluster size: whole blocks, at most 2047, up to 1 MiB")]
    ClusterSize(u32),
    /// The crate was built without the algorithm's cargo feature.
    #[error("erofs-writer was built without its feature {0}")]
    AlgorithmNotBuilt(Algorithm),
    /// No compression algorithm of EROFS has this name.
    #[error("unknown compression algorithm {0:?}: lz4, lzma, deflate or zstd")]
    UnknownAlgorithm(String),
    /// There are no chunks of so many blocks.
    #[error("chunks cannot have 2^{0} blocks: the limit is 2^31")]
    ChunkSize(u8),
    /// A file is too long for its chunk size.
    #[error("{size} bytes are more than {limit} chunks of {chunk_size} bytes")]
    TooManyChunks {
        /// The file's size in bytes.
        size: u64,
        /// The chunks' size in bytes.
        chunk_size: u64,
        /// The most chunks of one file.
        limit: u64,
    },
    /// A file's contents would lie beyond what block addresses of the image can reach.
    #[error(
        "the image and its devices need {blocks} blocks of {block_size} bytes, addresses reach {limit}"
    )]
    TooLarge {
        /// The blocks needed.
        blocks: u64,
        /// The block size in bytes.
        block_size: u32,
        /// The blocks that can be addressed.
        limit: u64,
    },
}

impl From<io::Error> for Error {
    /// Returns the error that a writer of contents wrapped for [`Write`](io::Write), or else
    /// [`Error::Output`].
    fn from(source: io::Error) -> Self {
        source
            .downcast::<Self>()
            .unwrap_or_else(|source| Self::Output { source })
    }
}

/// Why an extended attribute cannot be stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum XattrProblem {
    /// EROFS has no index for the namespace.
    #[error("unknown namespace")]
    UnknownNamespace,
    /// There is nothing after the namespace, the name holds a NUL, or it is longer than 255 bytes.
    #[error("invalid name")]
    InvalidName,
    /// The name occurs twice.
    #[error("duplicate name")]
    Duplicate,
    /// The value is longer than 65,535 bytes.
    #[error("value longer than 65535 bytes")]
    ValueTooLong,
    /// A POSIX ACL that the kernel would not accept, which would make the file inaccessible.
    #[error("malformed ACL")]
    MalformedAcl,
    /// All of an inode's attributes together are longer than `i_xattr_icount` counts.
    #[error("too many attributes on one inode")]
    TooMany,
}
