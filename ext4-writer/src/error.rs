//! Errors.

use std::io;
use std::path::PathBuf;

use blockbox_path::BytePath;

use crate::Kind;

/// An error of writing or reading a filesystem. Messages do not repeat the
/// [source](std::error::Error::source).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The output could not be read, written or positioned.
    #[error("cannot access the image at byte {offset}")]
    Output {
        /// Where in the image, in bytes.
        offset: u64,
        /// The error that the output returned.
        source: io::Error,
    },
    /// Reading the contents of a file failed, or they ended before their size.
    #[error("cannot read the contents of {name}")]
    Contents {
        /// The file's name in its directory.
        name: BytePath,
        /// The error that the reader returned.
        source: io::Error,
    },
    /// The file of the image could not be created.
    #[error("cannot create {}", .path.display())]
    Create {
        /// The path on this host.
        path: PathBuf,
        /// The error that the system returned.
        source: io::Error,
    },
    /// Something in a directory of this host could not be read.
    #[error("cannot read {}", .path.display())]
    Host {
        /// Where it is.
        path: PathBuf,
        /// The error that the system returned.
        source: io::Error,
    },
    /// The contents of an archive could not be written to the spool file.
    #[cfg(feature = "tar")]
    #[error("cannot write the contents of an archive to a temporary file")]
    Spool {
        /// The error that the file returned.
        source: io::Error,
    },
    /// A tar archive could not be read, or has something that no filesystem can.
    #[cfg(feature = "tar")]
    #[error("cannot read the archive")]
    Archive {
        /// What is wrong, and where.
        source: Box<fsmerge::Error>,
    },
    /// An option has an invalid value.
    #[error("option {option} cannot be {value}")]
    Option {
        /// The field of [`Options`](crate::Options).
        option: &'static str,
        /// Its value.
        value: u64,
    },
    /// The size leaves no room for the filesystem's own structures.
    #[error("{size} bytes are too few for a filesystem with these options")]
    TooSmall {
        /// The requested size in bytes.
        size: u64,
    },
    /// The size needs more block groups than group descriptors fit in one group.
    #[error("{size} bytes are too many for blocks of {block_size} bytes")]
    TooLarge {
        /// The requested size in bytes.
        size: u64,
        /// The block size in bytes.
        block_size: u32,
    },
    /// All blocks are in use.
    #[error("no room for {} more blocks: {} are free", .wanted, .free)]
    NoSpace {
        /// How many blocks were wanted.
        wanted: u64,
        /// How many were left.
        free: u64,
    },
    /// All inodes are in use; a smaller [`inode_ratio`](crate::Options::inode_ratio) makes more.
    #[error("all {inodes} inodes are in use")]
    NoInodes {
        /// How many inodes the filesystem has.
        inodes: u32,
    },
    /// A name is empty, `.`, `..`, longer than 255 bytes, or holds `/` or NUL.
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
    /// The parent of a new node, or something on the way along a path, is not a directory.
    #[error("'{path}' is not a directory")]
    NotADirectory {
        /// The path of what is not a directory.
        path: BytePath,
    },
    /// The inode has another type than the operation requires.
    #[error("inode {inode} is a {found}, not a {expected}")]
    WrongType {
        /// The inode's number.
        inode: u32,
        /// The type that the operation requires.
        expected: Kind,
        /// The type of the inode.
        found: Kind,
    },
    /// A file is larger than [`MAX_READ`](crate::MAX_READ), or than memory.
    #[error("more than {limit} bytes of file contents")]
    Limit {
        /// The limit in bytes.
        limit: u64,
    },
    /// A file read as text is not valid UTF-8.
    #[error("inode {inode}: not UTF-8")]
    NotUtf8 {
        /// The inode's number.
        inode: u32,
    },
    /// The target of a hard link is a directory.
    #[error("'{path}' is a directory: it cannot have a second name")]
    LinkToDirectory {
        /// The path of the directory.
        path: BytePath,
    },
    /// The node has 65,000 names already, the most that an ext4 inode can count (`EXT4_LINK_MAX`).
    #[error("too many hard links: '{path}'")]
    TooManyLinks {
        /// The path that was to be added.
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
    /// A symlink's target is empty, holds a NUL, or does not fit in one block with a NUL after it.
    #[error("{} bytes of symlink target, of {} that fit", .length, .limit)]
    Target {
        /// The target's length in bytes.
        length: usize,
        /// The longest possible target in bytes.
        limit: usize,
    },
    /// A node was assigned to a project, but the filesystem has none
    /// ([`project`](crate::Options::project)).
    #[error("the filesystem has no projects")]
    NoProjects,
    /// A device number does not fit ext4's 12 bits of major and 20 bits of minor number.
    #[error("no such device number: {major}:{minor}")]
    DeviceNumber {
        /// The major number.
        major: u32,
        /// The minor number.
        minor: u32,
    },
    /// An extended attribute cannot be stored.
    #[error("extended attribute {name}: {problem}")]
    Xattr {
        /// The attribute's full name.
        name: BytePath,
        /// What is wrong with it.
        problem: XattrProblem,
    },
    /// A file is larger than 2^32 − 1 blocks, or its data ranges overlap, are out of order or end
    /// after its size.
    #[error("{name} cannot have {size} bytes")]
    FileSize {
        /// The file's name in its directory.
        name: BytePath,
        /// The offending size or offset in bytes.
        size: u64,
    },
    /// A directory has more entries than a hash tree of two index levels holds, or of three with
    /// [`large_dir`](crate::Options::large_dir).
    #[error("a directory of {entries} entries is too large for this block size")]
    DirectorySize {
        /// How many entries it has.
        entries: usize,
    },
    /// There is no ext2, ext3 or ext4 superblock at byte 1024.
    #[error("no ext4 filesystem")]
    NotExt4,
    /// A structure contradicts itself, its checksum or the rest of the filesystem; e2fsck may
    /// repair it.
    #[error("corrupt {structure} at byte {offset}")]
    Corrupt {
        /// What is corrupt, by the kernel's name.
        structure: &'static str,
        /// Where it lies in the image, in bytes.
        offset: u64,
    },
    /// The filesystem has features that this crate does not know how to keep right, or lacks some
    /// that it needs.
    #[error("cannot handle the features {features}")]
    Features {
        /// Their names as `dumpe2fs` prints them; missing ones with a `^` before them.
        features: String,
    },
    /// The filesystem is mounted, was not unmounted, or is known to have errors. Mounting and
    /// unmounting it, or e2fsck, makes it clean.
    #[error("the filesystem is not clean: {reason}")]
    NotClean {
        /// Which sign of it was found.
        reason: &'static str,
    },
    /// A filesystem cannot grow to this size in place.
    #[error("cannot grow to {size} bytes: {smallest} to {largest} are possible")]
    GrowSize {
        /// The requested size in bytes.
        size: u64,
        /// The filesystem's size in bytes.
        smallest: u64,
        /// The largest size in bytes that the blocks reserved for group descriptors, and 32 bits of
        /// inode and block numbers that refer to them, allow.
        largest: u64,
    },
}

/// Why an extended attribute cannot be stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum XattrProblem {
    /// ext4 has no number for the name's prefix.
    #[error("not in one of the namespaces user, trusted, security and system")]
    Namespace,
    /// The name after the prefix is empty where it must not be, holds a NUL, or is longer than 255
    /// bytes.
    #[error("not a valid name")]
    Name,
    /// The name occurs twice.
    #[error("duplicate name")]
    Duplicate,
    /// The value, or all of the inode's attributes together, fit neither in the inode nor in one
    /// block; or, with [`ea_inode`](crate::Options::ea_inode), their names do not, or the value has
    /// more than 65,536 bytes (`XATTR_SIZE_MAX`).
    #[error("too large")]
    TooLarge,
    /// A POSIX ACL is not in the form the kernel's interface uses (`posix_acl_xattr_header`,
    /// version 2).
    #[error("not a POSIX ACL")]
    Acl,
}
