//! What can be wrong with an image, or with a question about it.

use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
#[cfg(feature = "std")]
use std::io;

use crate::extent::Algorithm;
use crate::inode::{FileType, Nid};
use crate::read_at::SourceError;

/// Why an image could not be read.
///
/// Three kinds matter to a caller: the source failed ([`Error::Io`]), the image is fine but uses something this crate
/// does not read ([`Error::Unsupported`]), and the image is damaged or hostile ([`Error::Corrupt`]). [`Error::At`] says at which
/// path one of them was met; [`Error::reason`] looks through it. The rest answer questions that the image gives no answer to.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The source failed.
    #[error("device {device}, byte {offset}: {source}")]
    Io {
        /// Which device: 0 is the primary one, `n` the `n`-th of the device table.
        device: u16,
        /// Where on it, in bytes.
        offset: u64,
        /// What it said.
        source: SourceError,
    },
    /// There is no EROFS superblock at byte 1024.
    #[error("no EROFS superblock: its magic number would be 0xe0f5e1e2, here is {magic:#010x}")]
    NotErofs {
        /// What is there instead.
        magic: u32,
    },
    /// The image uses a feature that this crate does not read.
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
        /// Where the bad structure begins, in bytes; on the primary device unless `what` names another.
        offset: u64,
        /// What is wrong with it.
        what: Corruption,
    },
    /// The number of devices given is not the number in the device table.
    #[error("the image wants {expected} extra devices, {given} were given")]
    DeviceCount {
        /// What the superblock says.
        expected: usize,
        /// What was given.
        given: usize,
    },
    /// There is no such path.
    #[error("no such file or directory: {}", path.escape_ascii())]
    NotFound {
        /// The path up to the component that does not exist.
        path: Vec<u8>,
    },
    /// Following symbolic links did not come to an end.
    #[error("too many levels of symbolic links: {}", path.escape_ascii())]
    TooManyLinks {
        /// The path that was looked up.
        path: Vec<u8>,
    },
    /// The inode is of another type than the operation needs.
    #[error("nid {nid} is a {found}, not a {expected}")]
    WrongType {
        /// The inode.
        nid: Nid,
        /// What the operation needs.
        expected: FileType,
        /// What the inode is.
        found: FileType,
    },
    /// An extraction would write more than it was allowed to.
    #[error("more than {limit} bytes of file contents")]
    Limit {
        /// What was allowed.
        limit: u64,
    },
    /// The destination of an extraction failed.
    #[cfg(feature = "std")]
    #[error("{}: {source}", shown(path))]
    Output {
        /// The path inside the image that was being extracted.
        path: Vec<u8>,
        /// What the destination said.
        source: io::Error,
    },
    /// What is at a path could not be read, where paths come from the image: in a walk or an extraction.
    #[error("{}: {source}", shown(path))]
    At {
        /// The path inside the image; the root's is empty.
        path: Vec<u8>,
        /// What is wrong there.
        source: Box<Error>,
    },
}

fn of(nid: Option<Nid>) -> String {
    nid.map(|nid| format!("nid {nid}: ")).unwrap_or_default()
}

/// A path that stands before what is wrong there.
fn shown(path: &[u8]) -> String {
    match path {
        [] => String::from("/"),
        path => format!("{}", path.escape_ascii()),
    }
}

impl Error {
    pub(crate) fn corrupt(nid: impl Into<Option<Nid>>, offset: u64, what: Corruption) -> Self {
        Self::Corrupt {
            nid: nid.into(),
            offset,
            what,
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
    /// What is wrong, without the path that it is wrong at.
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
                path: path.to_vec(),
                source: Box::new(error),
            },
        }
    }

    /// What the system said, where the source or the destination of an extraction failed with a [`std::io::Error`].
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
            Error::Corrupt { .. } | Error::NotErofs { .. } => io::ErrorKind::InvalidData,
            Error::Limit { .. } => io::ErrorKind::FileTooLarge,
            Error::At { .. }
            | Error::DeviceCount { .. }
            | Error::TooManyLinks { .. }
            | Error::WrongType { .. } => io::ErrorKind::InvalidInput,
        };
        Self::new(kind, error)
    }
}

/// A feature of the format that this crate does not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Unsupported {
    /// Bits of `feature_incompat` that are unknown.
    #[error("feature_incompat {0:#x}")]
    IncompatibleFeatures(u32),
    /// `dirblkbits` is not 0: directory blocks larger than blocks.
    #[error("dirblkbits {0}")]
    DirectoryBlockBits(u8),
    /// Bits of `i_format` that are unknown, or a data layout that is reserved.
    #[error("i_format {0:#x}")]
    InodeFormat(u16),
    /// Bits of the chunk format that are unknown.
    #[error("chunk format {0:#x}")]
    ChunkFormat(u16),
    /// An xattr area that holds its header and nothing else, which the format reserves.
    #[error("an xattr area without entries")]
    EmptyXattrArea,
    /// The inode's data is compressed in a way that this build does not read.
    #[error("compressed data ({0})")]
    Compression(&'static str),
}

/// A structure of an image that is no inode's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Structure {
    /// The superblock and its extension slots.
    #[error("superblock")]
    Superblock,
    /// The device table.
    #[error("device table")]
    DeviceTable,
    /// The configurations of compression algorithms, which follow the superblock.
    #[error("compression configurations")]
    CompressionConfigurations,
    /// The table of long xattr name prefixes.
    #[error("xattr prefix table")]
    XattrPrefixes,
    /// An xattr that inodes share.
    #[error("shared xattrs")]
    SharedXattr,
}

/// What is wrong with an image.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Corruption {
    /// `blkszbits` is not in 9 (512 bytes) ..= 16 (64 KiB).
    #[error("block size of 2^{0} bytes")]
    BlockSize(u8),
    /// The image ends inside its superblock, or `sb_extslots` says it is larger than the kernel reads.
    #[error("superblock of {0} bytes")]
    SuperblockSize(u64),
    /// The superblock's checksum is wrong.
    #[error("superblock checksum {stored:#010x}, computed {computed:#010x}")]
    Checksum {
        /// In the superblock.
        stored: u32,
        /// Over the superblock's block.
        computed: u32,
    },
    /// The device table lies beyond the primary device.
    #[error("device table of {slots} slots ends at byte {end}, the device at {size}")]
    DeviceTable {
        /// How many slots.
        slots: u16,
        /// Where the table ends.
        end: u64,
        /// The size of the primary device.
        size: u64,
    },
    /// The root inode is not a directory.
    #[error("the root is a {0}")]
    RootType(FileType),
    /// An address computed from the image does not fit in 64 bits.
    #[error("address overflow")]
    AddressOverflow,
    /// Something lies partly or wholly past the end of a device.
    #[error("{length} bytes at byte {start} of device {device}, which has {size}")]
    BeyondDevice {
        /// Which device.
        device: u16,
        /// Where the thing begins on it, in bytes.
        start: u64,
        /// Its length in bytes.
        length: u64,
        /// The device's size in bytes.
        size: u64,
    },
    /// A device number that is not in the device table.
    #[error("device {0} is not in the device table")]
    DeviceId(u16),
    /// The metabox or the packed inode is stored inside itself, or is of a kind that would need itself to be read.
    #[error("the metabox or packed inode needs itself")]
    SelfReference,
    /// A nid in the metabox, or data in the packed inode, where the image has none.
    #[error("the image has no metabox or packed inode")]
    NoSpecialInode,
    /// `i_mode` has no known file type.
    #[error("mode {0:#o} has no file type")]
    Mode(u16),
    /// `i_size` is negative as the kernel reads it.
    #[error("size {0:#x}")]
    Size(u64),
    /// The last block of an inode with inline data does not end before its metadata block does.
    #[error("{0} bytes of inline data cross a block boundary")]
    InlineData(u64),
    /// The number of shared xattrs does not fit in the xattr area.
    #[error("{shared} shared xattrs in an xattr area of {area} bytes")]
    SharedXattrCount {
        /// `h_shared_count`.
        shared: u8,
        /// The size of the area in bytes.
        area: u64,
    },
    /// An xattr's name or value ends after its area.
    #[error("xattr of {length} bytes with {remaining} left in its area")]
    XattrLength {
        /// The entry's length in bytes, header included.
        length: u64,
        /// What is left of the area.
        remaining: u64,
    },
    /// An xattr's name contains a NUL.
    #[error("bad xattr name \"{}\"", .0.escape_ascii())]
    XattrName(Vec<u8>),
    /// An xattr's name index means nothing, so that the kernel does not show it.
    #[error("xattr name index {0}")]
    XattrIndex(u8),
    /// The inode's name filter says that an xattr is not there, so that the kernel does not find it.
    #[error("xattr \"{}\" is not in the inode's name filter", .0.escape_ascii())]
    XattrFilter(Vec<u8>),
    /// An xattr refers to a name prefix that the image does not have.
    #[error("long xattr prefix {0} is not in the table")]
    XattrPrefix(u8),
    /// The table of long xattr name prefixes is malformed.
    #[error("long xattr prefix of {0} bytes")]
    XattrPrefixLength(u16),
    /// A directory block's first name offset, which says how many entries there are, is impossible.
    #[error("first name at {nameoff} in a directory block of {length} bytes")]
    DirentCount {
        /// `nameoff` of the first entry.
        nameoff: u16,
        /// The bytes in the block.
        length: u64,
    },
    /// A name of a directory ends before it begins, is too long, or lies outside its block.
    #[error("name at {start}..{end} in a directory block of {length} bytes")]
    NameRange {
        /// Where the name begins.
        start: u64,
        /// Where the next one does.
        end: u64,
        /// The bytes in the block.
        length: u64,
    },
    /// A name that no file can have: empty, or with a slash or a NUL.
    #[error("bad name \"{}\"", .0.escape_ascii())]
    Name(Vec<u8>),
    /// A name does not come after the one before it, as the format's binary search needs.
    #[error("name \"{}\" is a duplicate or out of order", .0.escape_ascii())]
    NameOrder(Vec<u8>),
    /// A directory's `.` or `..` is missing or does not point to itself or its parent.
    #[error("\"{name}\" points to nid {found:?}, expected {expected}")]
    Dot {
        /// `.` or `..`.
        name: &'static str,
        /// Where it should point.
        expected: Nid,
        /// Where it points, if it is there.
        found: Option<Nid>,
    },
    /// The type in a directory entry is not that of the inode.
    #[error("directory entry of type {entry}, but the inode is a {inode}")]
    EntryType {
        /// The entry's `file_type`.
        entry: u8,
        /// What the inode is.
        inode: FileType,
    },
    /// A directory that several entries point to: a loop, or a tree the kernel cannot show.
    #[error("directory linked more than once")]
    DirectoryLinkedTwice,
    /// Directories are nested deeper than [`MAX_DEPTH`](crate::MAX_DEPTH).
    #[error("directories nested too deeply")]
    Depth,
    /// The directories met so far are larger than the image: their blocks are shared.
    #[error("directories overlap each other")]
    DirectoriesOverlap,
    /// A symbolic link's target is empty, or longer than a path can be.
    #[error("symbolic link of {0} bytes")]
    SymlinkLength(u64),
    /// A symbolic link's target contains a NUL.
    #[error("symbolic link with a NUL byte")]
    SymlinkNul,
    /// An inode's link count is not the number of names that point to it.
    #[error("link count {stored}, {found} links found")]
    LinkCount {
        /// `i_nlink`.
        stored: u32,
        /// The names found.
        found: u64,
    },
    /// Two pieces of metadata share bytes.
    #[error("metadata at {start}..{end} overlaps that of nid {other}")]
    MetadataOverlap {
        /// Where this inode's metadata begins.
        start: u64,
        /// Where it ends.
        end: u64,
        /// Whose metadata is there too.
        other: Nid,
    },
    /// Something lies in a structure that is no inode's.
    #[error("bytes {start}..{end} are a part of the {other}")]
    StructureOverlap {
        /// Where the thing begins, in bytes.
        start: u64,
        /// Where it ends.
        end: u64,
        /// What is there too.
        other: Structure,
    },
    /// Two files' physical clusters share some of their bytes, but not all.
    #[error("physical cluster at {start}..{end} shares a part of another one's bytes")]
    ClusterOverlap {
        /// Where the cluster begins on the primary device, in bytes.
        start: u64,
        /// Where it ends.
        end: u64,
    },
    /// The configuration of a compression algorithm, behind the superblock, is one that the kernel does not mount.
    #[error("configuration of {algorithm}: {what}")]
    CompressionConfiguration {
        /// The algorithm.
        algorithm: Algorithm,
        /// What is wrong.
        what: &'static str,
    },
    /// The number of inodes is not what the superblock says.
    #[error("{stored} inodes in the superblock, {found} found")]
    InodeCount {
        /// `inos`.
        stored: u64,
        /// Inodes reachable from the root.
        found: u64,
    },
    /// Bytes that the format reserves are not zero.
    #[error("reserved field {0} is not zero")]
    Reserved(&'static str),
    /// Unknown bits in `feature_compat`.
    #[error("unknown bits {0:#x} in feature_compat")]
    CompatibleFeatures(u32),
    /// Two devices of the device table share unified addresses.
    #[error("device {0} shares unified addresses with another")]
    DevicesOverlap(u16),
    /// Nanoseconds are a second or more.
    #[error("{0} nanoseconds")]
    Nanoseconds(u32),
    /// A file's data lies in metadata.
    #[error("data at {start}..{end} lies in the metadata of nid {other}")]
    DataInMetadata {
        /// Where the data begins on the primary device, in bytes.
        start: u64,
        /// Where it ends.
        end: u64,
        /// Whose metadata is there.
        other: Nid,
    },
    /// An inode's compression header is inconsistent.
    #[error("compression header: {0}")]
    CompressionHeader(&'static str),
    /// A logical cluster's index is inconsistent.
    #[error("compression index of logical cluster {cluster}: {what}")]
    CompressionIndex {
        /// Which logical cluster.
        cluster: u64,
        /// What is wrong.
        what: &'static str,
    },
    /// An extent of compressed data begins before the one in front of it ends.
    #[error("extent at byte {logical} of the file follows one that ends at {expected}")]
    ExtentOrder {
        /// Where the extent begins in the file, in bytes.
        logical: u64,
        /// Where it should.
        expected: u64,
    },
    /// A fragment reaches past the end of the packed inode's data.
    #[error("fragment of {length} bytes at {start} of the packed inode, which has {size}")]
    Fragment {
        /// Where it begins there, in bytes.
        start: u64,
        /// Its length in bytes.
        length: u64,
        /// The packed inode's size.
        size: u64,
    },
    /// Compressed bytes do not decode, or not to the number of bytes they should.
    #[error("{0} data does not decode")]
    Decompression(&'static str),
}
