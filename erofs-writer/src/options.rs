//! Options of an image.

use std::num::NonZeroUsize;

use crate::block_size::BlockSize;
use crate::{Compression, Error, Fragments, PerFile, Progress, Timestamp, XattrPrefixes};

/// Options of an image.
///
/// ```
/// use erofs_writer::{BlockSize, Label, Options};
///
/// let options = Options::default()
///     .block_size(BlockSize::B4096)
///     .label(Label::new("packages")?)
///     .inline_tails(true);
/// # Ok::<(), erofs_writer::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Options {
    /// Size of a block. Default: 512 bytes.
    pub block_size: BlockSize,
    /// The volume's UUID (`s_uuid`, shown by `blkid`). Default: derived from content.
    pub uuid: Uuid,
    /// The volume's name. Default: empty.
    pub label: Label,
    /// The build time of the image, in seconds since 1970 (`SOURCE_DATE_EPOCH`). The field on disk
    /// has 32 bits of seconds after the [epoch](Self::epoch); other values are clamped. Default:
    /// the epoch.
    pub build_time: Option<i64>,
    /// The form of inodes. Default: [`InodeLayout::Auto`].
    pub inodes: InodeLayout,
    /// The time that compact inodes share (`epoch` and `fixed_nsec`). Default: the commonest
    /// modification time.
    pub epoch: Option<Timestamp>,
    /// Prefixes of xattr names that are stored once for the whole image. Default: none.
    pub xattr_prefixes: XattrPrefixes,
    /// Whether to omit the filter of xattr names (`h_name_filter`): 32 bits for each inode with
    /// xattrs, with which Linux 6.6 and later skip most names that the inode does not have.
    /// Default: no.
    pub no_xattr_filter: bool,
    /// The width of block addresses. Default: 32 bits.
    pub addresses: Addresses,
    /// Whether files in chunks name the device of each chunk (`struct erofs_inode_chunk_index`, 8
    /// bytes) instead of having a block map of unified addresses (4 bytes). Default: no.
    pub chunk_indexes: bool,
    /// Whether the last, partial block of a regular file goes after its inode, where it takes no
    /// block of its own. Saves most with large blocks and small files, at the price of metadata
    /// spread wider, and of memory for all the tails until the image is finished; and no other
    /// image can point at such contents. Default: no.
    pub inline_tails: bool,
    /// The compression of contents written by [`Builder::data`](crate::Builder::data). Other images
    /// cannot refer to compressed contents. Default: none.
    pub compression: Option<Compression>,
    /// Whether compressed files have indexes of 8 bytes for each block
    /// (`EROFS_INODE_COMPRESSED_FULL`) instead of packed ones of 2
    /// (`EROFS_INODE_COMPRESSED_COMPACT`), which blocks larger than 4096 bytes do not have.
    /// Default: no.
    pub full_indexes: bool,
    /// Chooses the compression of each file written by
    /// [`Builder::data_for`](crate::Builder::data_for). Default: all use
    /// [`compression`](Self::compression).
    pub per_file: Option<PerFile>,
    /// Whether the end of a compressed file goes after its indexes where it would not fill a block
    /// (`ztailpacking`), at the price of memory for all those ends until the image is finished.
    /// Linux 5.17 and later. Default: no.
    pub tail_packing: bool,
    /// The parts of compressed files that are packed into one hidden file. With fragments and
    /// [`Builder::with_dedupe`](crate::Builder::with_dedupe), equal clusters of different files are
    /// stored once, too, which takes about 40 bytes of memory for each cluster. Default: none.
    pub fragments: Fragments,
    /// Whether equal parts of compressed files are stored once, at any position of any file. It
    /// takes memory for each cluster, and full indexes. Linux 6.1 and later. Default: no.
    pub dedupe_extents: bool,
    /// The number of threads that compress. The image does not depend on it. Default: one for each
    /// processor.
    pub threads: Option<NonZeroUsize>,
    /// The callback that receives the bytes of contents stored so far, holes included. Default:
    /// none.
    pub progress: Option<Progress>,
}

impl Options {
    /// Sets [`progress`](field@Self::progress).
    #[must_use]
    pub fn progress(mut self, progress: impl Into<Option<Progress>>) -> Self {
        self.progress = progress.into();
        self
    }

    /// Sets [`block_size`](field@Self::block_size).
    #[must_use]
    pub fn block_size(mut self, block_size: BlockSize) -> Self {
        self.block_size = block_size;
        self
    }

    /// Sets [`uuid`](field@Self::uuid).
    #[must_use]
    pub fn uuid(mut self, uuid: Uuid) -> Self {
        self.uuid = uuid;
        self
    }

    /// Sets [`label`](field@Self::label).
    #[must_use]
    pub fn label(mut self, label: Label) -> Self {
        self.label = label;
        self
    }

    /// Sets [`build_time`](field@Self::build_time).
    #[must_use]
    pub fn build_time(mut self, build_time: impl Into<Option<i64>>) -> Self {
        self.build_time = build_time.into();
        self
    }

    /// Sets [`inodes`](field@Self::inodes).
    #[must_use]
    pub fn inodes(mut self, inodes: InodeLayout) -> Self {
        self.inodes = inodes;
        self
    }

    /// Sets [`epoch`](field@Self::epoch).
    #[must_use]
    pub fn epoch(mut self, epoch: impl Into<Option<Timestamp>>) -> Self {
        self.epoch = epoch.into();
        self
    }

    /// Sets [`xattr_prefixes`](field@Self::xattr_prefixes).
    #[must_use]
    pub fn xattr_prefixes(mut self, xattr_prefixes: XattrPrefixes) -> Self {
        self.xattr_prefixes = xattr_prefixes;
        self
    }

    /// Sets [`no_xattr_filter`](field@Self::no_xattr_filter).
    #[must_use]
    pub fn no_xattr_filter(mut self, no_xattr_filter: bool) -> Self {
        self.no_xattr_filter = no_xattr_filter;
        self
    }

    /// Sets [`addresses`](field@Self::addresses).
    #[must_use]
    pub fn addresses(mut self, addresses: Addresses) -> Self {
        self.addresses = addresses;
        self
    }

    /// Sets [`chunk_indexes`](field@Self::chunk_indexes).
    #[must_use]
    pub fn chunk_indexes(mut self, chunk_indexes: bool) -> Self {
        self.chunk_indexes = chunk_indexes;
        self
    }

    /// Sets [`inline_tails`](field@Self::inline_tails).
    #[must_use]
    pub fn inline_tails(mut self, inline_tails: bool) -> Self {
        self.inline_tails = inline_tails;
        self
    }

    /// Sets [`compression`](field@Self::compression).
    #[must_use]
    pub fn compression(mut self, compression: impl Into<Option<Compression>>) -> Self {
        self.compression = compression.into();
        self
    }

    /// Sets [`full_indexes`](field@Self::full_indexes).
    #[must_use]
    pub fn full_indexes(mut self, full_indexes: bool) -> Self {
        self.full_indexes = full_indexes;
        self
    }

    /// Sets [`per_file`](field@Self::per_file).
    #[must_use]
    pub fn per_file(mut self, per_file: impl Into<Option<PerFile>>) -> Self {
        self.per_file = per_file.into();
        self
    }

    /// Sets [`tail_packing`](field@Self::tail_packing).
    #[must_use]
    pub fn tail_packing(mut self, tail_packing: bool) -> Self {
        self.tail_packing = tail_packing;
        self
    }

    /// Sets [`fragments`](field@Self::fragments).
    #[must_use]
    pub fn fragments(mut self, fragments: Fragments) -> Self {
        self.fragments = fragments;
        self
    }

    /// Sets [`dedupe_extents`](field@Self::dedupe_extents).
    #[must_use]
    pub fn dedupe_extents(mut self, dedupe_extents: bool) -> Self {
        self.dedupe_extents = dedupe_extents;
        self
    }

    /// Sets [`threads`](field@Self::threads).
    #[must_use]
    pub fn threads(mut self, threads: impl Into<Option<NonZeroUsize>>) -> Self {
        self.threads = threads.into();
        self
    }

    /// Whether any contents may be compressed.
    pub(crate) fn compresses(&self) -> bool {
        self.compression.is_some() || self.per_file.is_some()
    }
}

/// The volume's UUID.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Uuid {
    /// A hash of everything in the image, as a version 8 UUID: equal for equal images.
    #[default]
    Derived,
    /// This one.
    Given([u8; 16]),
    /// All zeros.
    Nil,
}

/// The volume's name: up to 15 bytes, none of them NUL (`volume_name`, which the kernel wants
/// terminated).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Label([u8; 16]);

impl Label {
    /// A volume name.
    ///
    /// ```
    /// use erofs_writer::{Label, Options};
    ///
    /// let options = Options::default().label(Label::new("rootfs")?);
    /// # let _ = options;
    /// # Ok::<(), erofs_writer::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Label`] where `name` is longer than 15 bytes or holds a NUL.
    pub fn new(name: impl AsRef<[u8]>) -> Result<Self, Error> {
        let name = name.as_ref();
        let mut bytes = [0; 16];
        if name.len() >= bytes.len() || name.contains(&0) {
            return Err(Error::Label(name.into()));
        }
        bytes[..name.len()].copy_from_slice(name);
        Ok(Self(bytes))
    }

    /// The name padded with NULs, as on disk.
    pub fn bytes(self) -> [u8; 16] {
        self.0
    }
}

/// How wide block addresses are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Addresses {
    /// 32 bits: image and devices together have 2 TiB at most in blocks of 512 bytes, 16 TiB in
    /// blocks of 4096.
    #[default]
    Bits32,
    /// 48 bits, for Linux 6.15 and later. As those kernels read the modification times of compact
    /// inodes, which are 32 bits of seconds after the epoch, most inodes can be compact.
    ///
    /// Of devices beyond 32 bits, kernels up to 6.18 at least read the lower bits alone from the
    /// device table. They read such images right where the devices are appended to the image, and
    /// otherwise files in chunks with [`chunk_indexes`](Options::chunk_indexes).
    Bits48,
}

impl Addresses {
    /// The number of blocks that can be addressed: all ones means a hole.
    pub(crate) fn limit(self) -> u64 {
        match self {
            Self::Bits32 => u32::MAX.into(),
            Self::Bits48 => (1 << 48) - 1,
        }
    }
}

/// Which of the two inode forms is used.
///
/// A compact inode takes 32 bytes instead of 64. It has 16 bits for each of user, group and number
/// of links, 32 for the size, and its modification time is the image's [epoch](Options::epoch).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum InodeLayout {
    /// Compact wherever nothing is lost, extended elsewhere.
    #[default]
    Auto,
    /// All extended.
    Extended,
    /// Compact wherever nothing but the modification time is lost, extended elsewhere.
    Compact,
}
