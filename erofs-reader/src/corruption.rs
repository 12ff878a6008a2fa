//! Corruption of an image.

use core::fmt;

use blockbox_path::BytePath;

use crate::algorithm::Algorithm;
use crate::file_type::FileType;
use crate::nid::Nid;

/// A corruption of an image: a [`kind`](Self::kind) that programs can match, and a detail that
/// [`Display`](fmt::Display) shows.
#[derive(Clone, PartialEq, Eq)]
pub struct Corruption(Detail);

/// The part of the format that is corrupt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub enum CorruptionKind {
    /// The superblock, its checksum or what follows it.
    Superblock,
    /// The device table, or a device that is not in it.
    Devices,
    /// An address past the end of a device, or of an area that does not exist.
    Bounds,
    /// Structures that overlap.
    Overlap,
    /// The fields of an inode.
    Inode,
    /// Extended attributes.
    Xattrs,
    /// The blocks or entries of a directory.
    Directory,
    /// The directories together: loops, nesting, shared blocks.
    Tree,
    /// The target of a symbolic link.
    Symlink,
    /// Compressed data or its block map.
    Compression,
}

impl Corruption {
    /// Returns the part of the format that is corrupt.
    ///
    /// ```
    /// use erofs_reader::{CorruptionKind, Error};
    ///
    /// fn is_in_a_directory(error: &Error) -> bool {
    ///     let Error::Corrupt { what, .. } = error.reason() else {
    ///         return false;
    ///     };
    ///     matches!(what.kind(), CorruptionKind::Directory | CorruptionKind::Tree)
    /// }
    /// # assert!(!is_in_a_directory(&Error::Limit { limit: 0 }));
    /// ```
    pub fn kind(&self) -> CorruptionKind {
        use CorruptionKind as Kind;
        match &self.0 {
            Detail::BlockSize(_)
            | Detail::SuperblockSize(_)
            | Detail::Checksum { .. }
            | Detail::CompatibleFeatures(_)
            | Detail::CompressionConfiguration { .. }
            | Detail::InodeCount { .. }
            | Detail::Reserved(_) => Kind::Superblock,
            Detail::DeviceTable { .. } | Detail::DeviceId(_) | Detail::DevicesOverlap(_) => {
                Kind::Devices
            }
            Detail::AddressOverflow | Detail::BeyondDevice { .. } => Kind::Bounds,
            Detail::MetadataOverlap { .. }
            | Detail::StructureOverlap { .. }
            | Detail::ClusterOverlap { .. }
            | Detail::DataInMetadata { .. } => Kind::Overlap,
            Detail::RootType(_)
            | Detail::SelfReference
            | Detail::NoSpecialInode
            | Detail::Mode(_)
            | Detail::Size(_)
            | Detail::InlineData(_)
            | Detail::LinkCount { .. }
            | Detail::Nanoseconds(_) => Kind::Inode,
            Detail::SharedXattrCount { .. }
            | Detail::XattrLength { .. }
            | Detail::XattrName(_)
            | Detail::XattrIndex(_)
            | Detail::XattrFilter(_)
            | Detail::XattrPrefix(_)
            | Detail::XattrPrefixLength(_) => Kind::Xattrs,
            Detail::DirentCount { .. }
            | Detail::NameRange { .. }
            | Detail::Name(_)
            | Detail::NameOrder(_)
            | Detail::Dot { .. }
            | Detail::EntryType { .. } => Kind::Directory,
            Detail::DirectoryLinkedTwice | Detail::Depth | Detail::DirectoriesOverlap => Kind::Tree,
            Detail::SymlinkLength(_) | Detail::SymlinkNul => Kind::Symlink,
            Detail::CompressionHeader(_)
            | Detail::CompressionIndex { .. }
            | Detail::ExtentOrder { .. }
            | Detail::Fragment { .. }
            | Detail::Decompression(_) => Kind::Compression,
        }
    }

    /// Returns the detail. It is not part of the stable API.
    #[doc(hidden)]
    pub fn detail(&self) -> &Detail {
        &self.0
    }
}

impl From<Detail> for Corruption {
    fn from(detail: Detail) -> Self {
        Self(detail)
    }
}

impl fmt::Debug for Corruption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for Corruption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl core::error::Error for Corruption {}

/// A structure of an image that does not belong to an inode.
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

/// The exact corruption of an image.
///
/// It is for tests and messages, and changes between versions. Programs match [`CorruptionKind`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Detail {
    /// `blkszbits` is not in 9 (512 bytes) ..= 16 (64 KiB).
    #[error("block size of 2^{0} bytes")]
    BlockSize(u8),
    /// The image ends inside its superblock, or `sb_extslots` says it is larger than the kernel
    /// reads.
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
    /// The metabox or the packed inode is stored inside itself, or is of a kind that would need
    /// itself to be read.
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
    #[error("bad xattr name \"{0}\"")]
    XattrName(BytePath),
    /// An xattr's name index means nothing, so that the kernel does not show it.
    #[error("xattr name index {0}")]
    XattrIndex(u8),
    /// The inode's name filter says that an xattr is not there, so that the kernel does not find
    /// it.
    #[error("xattr \"{0}\" is not in the inode's name filter")]
    XattrFilter(BytePath),
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
    #[error("bad name \"{0}\"")]
    Name(BytePath),
    /// A name does not come after the one before it, as the format's binary search needs.
    #[error("name \"{0}\" is a duplicate or out of order")]
    NameOrder(BytePath),
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
    /// The configuration of a compression algorithm, after the superblock, is one that the kernel
    /// does not mount.
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
