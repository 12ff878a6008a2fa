//! Inodes.

use alloc::vec;
use alloc::vec::Vec;
use core::fmt;

use zerocopy::FromBytes;

use crate::areas::Areas;
use crate::corruption::Detail;
use crate::error::{Error, Unsupported};
use crate::file_type::{DeviceNumber, FileType};
use crate::format::{self, InodeCompact, InodeExtended};
use crate::nid::{Area, Nid};
use crate::num::{narrow, wide};
use crate::timestamp::Timestamp;

/// The layout of an inode's data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub enum Layout {
    /// Consecutive blocks (`EROFS_INODE_FLAT_PLAIN`).
    Plain,
    /// Consecutive blocks, except for the last one, which follows the inode
    /// (`EROFS_INODE_FLAT_INLINE`).
    Inline,
    /// Chunks of equal size anywhere (`EROFS_INODE_CHUNK_BASED`).
    Chunks,
    /// Compressed, with indexes of 8 bytes or encoded extents (`EROFS_INODE_COMPRESSED_FULL`).
    CompressedFull,
    /// Compressed, with packed indexes (`EROFS_INODE_COMPRESSED_COMPACT`).
    CompressedCompact,
}

impl Layout {
    /// Returns the layout in `i_format`, unless its value is reserved.
    fn of_format(i_format: u16) -> Option<Self> {
        let layout = i_format >> format::EROFS_I_DATALAYOUT_SHIFT & format::EROFS_I_DATALAYOUT_MASK;
        Some(match layout {
            format::EROFS_INODE_FLAT_PLAIN => Self::Plain,
            format::EROFS_INODE_FLAT_INLINE => Self::Inline,
            format::EROFS_INODE_CHUNK_BASED => Self::Chunks,
            format::EROFS_INODE_COMPRESSED_FULL => Self::CompressedFull,
            format::EROFS_INODE_COMPRESSED_COMPACT => Self::CompressedCompact,
            _ => return None,
        })
    }
}

impl fmt::Display for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Plain => "plain",
            Self::Inline => "inline",
            Self::Chunks => "chunks",
            Self::CompressedFull => "compressed-full",
            Self::CompressedCompact => "compressed-compact",
        })
    }
}

/// An inode: everything that `stat` reports, and the position of its data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inode {
    pub(crate) nid: Nid,
    /// Where the inode begins in its area, in bytes.
    pub(crate) position: u64,
    /// 32 or 64.
    pub(crate) inode_size: u64,
    pub(crate) file_type: FileType,
    mode: u16,
    uid: u32,
    gid: u32,
    nlink: u32,
    pub(crate) size: u64,
    mtime: i64,
    mtime_nsec: u32,
    rdev: u32,
    ino: u32,
    /// The size in bytes of the xattr area after the inode.
    pub(crate) xattr_size: u64,
    pub(crate) layout: Layout,
    /// The first block of flat data; `None` for data that is all zeros (`EROFS_NULL_ADDR`).
    pub(crate) start_block: Option<u64>,
    pub(crate) chunk_format: u16,
    pub(crate) dot_omitted: bool,
}

impl Inode {
    /// Returns the number of the inode.
    pub fn nid(&self) -> Nid {
        self.nid
    }

    /// Returns the file type.
    pub fn file_type(&self) -> FileType {
        self.file_type
    }

    /// Returns whether it is a directory.
    pub fn is_dir(&self) -> bool {
        self.file_type == FileType::Directory
    }

    /// Returns whether it is a regular file.
    pub fn is_file(&self) -> bool {
        self.file_type == FileType::Regular
    }

    /// Returns whether it is a symbolic link.
    pub fn is_symlink(&self) -> bool {
        self.file_type == FileType::Symlink
    }

    /// Returns the permission bits, at most `0o7777`.
    ///
    /// ```no_run
    /// use erofs_reader::{Buffered, Image};
    ///
    /// let image = Image::open(Buffered::new(std::fs::File::open("image.erofs")?))?;
    /// let inode = image.metadata("/bin/ping")?;
    /// println!("set-user-ID: {}", inode.mode() & 0o4000 != 0);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn mode(&self) -> u16 {
        self.mode & 0o7777
    }

    /// Returns the user ID of the owner.
    pub fn uid(&self) -> u32 {
        self.uid
    }

    /// Returns the group ID.
    pub fn gid(&self) -> u32 {
        self.gid
    }

    /// Returns the stored link count.
    pub fn nlink(&self) -> u32 {
        self.nlink
    }

    /// Returns the size in bytes: of a file's contents, a directory's entries or a symbolic link's
    /// target.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Returns the modification time, the only time that EROFS stores.
    ///
    /// A compact inode's seconds count from the superblock's `epoch`, as in Linux 6.15 and later;
    /// earlier kernels show the epoch itself.
    pub fn mtime(&self) -> Timestamp {
        Timestamp {
            secs: self.mtime,
            nanos: self.mtime_nsec,
        }
    }

    /// Returns the device number of a device file, and 0:0 for other types.
    pub fn rdev(&self) -> DeviceNumber {
        // `new_decode_dev` of the kernel: 12 bits of major, 20 bits of minor around them.
        let major = (self.rdev & 0x000f_ff00) >> 8;
        let minor = (self.rdev & 0xff) | ((self.rdev >> 12) & 0x000f_ff00);
        DeviceNumber { major, minor }
    }

    /// Returns the inode number that `stat` shows on 32-bit systems (`i_ino`).
    pub fn ino(&self) -> u32 {
        self.ino
    }

    /// Returns whether the inode has the compact form (32 bytes).
    pub fn is_compact(&self) -> bool {
        self.inode_size == wide(size_of::<InodeCompact>())
    }

    /// Returns whether the inode has an xattr area. The area may be empty.
    pub fn has_xattrs(&self) -> bool {
        self.xattr_size > 0
    }

    /// Returns the size in bytes of the xattr area after the inode.
    pub fn xattr_size(&self) -> u64 {
        self.xattr_size
    }

    /// Returns the layout of the data. It has no meaning for devices, fifos and sockets.
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// Returns whether the data is compressed.
    pub fn is_compressed(&self) -> bool {
        matches!(
            self.layout,
            Layout::CompressedFull | Layout::CompressedCompact
        )
    }

    /// Returns where the inode itself begins, in bytes: on the primary device, or in the data of
    /// the metabox inode.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// The area of the inode and of the structures after it.
    pub(crate) fn area(&self) -> Area {
        self.nid.area().0
    }

    /// The position after the inode and its xattrs in its area, in bytes.
    pub(crate) fn tail(&self) -> Result<u64, Error> {
        self.position
            .checked_add(self.inode_size)
            .and_then(|at| at.checked_add(self.xattr_size))
            .ok_or_else(|| self.corrupt(self.position, Detail::AddressOverflow))
    }

    /// The number and position of the inode, for errors.
    pub(crate) fn place(&self) -> (Nid, u64) {
        (self.nid, self.position)
    }

    pub(crate) fn corrupt(&self, offset: u64, what: Detail) -> Error {
        Error::corrupt(self.nid, offset, what)
    }

    /// Fails unless the inode is of type `expected`.
    pub(crate) fn expect(&self, expected: FileType) -> Result<(), Error> {
        if self.file_type == expected {
            Ok(())
        } else {
            Err(self.wrong_type(expected))
        }
    }

    /// Returns the error that the inode has another type than `expected`.
    pub(crate) fn wrong_type(&self, expected: FileType) -> Error {
        Error::WrongType {
            nid: self.nid,
            expected,
            found: self.file_type,
        }
    }

    pub(crate) fn read<A: Areas>(image: &A, nid: Nid) -> Result<Self, Error> {
        let (area, slot) = nid.area();
        let sb = image.superblock();
        let base = match area {
            Area::Primary => sb.block_size.position(sb.meta_block.into()),
            Area::Metabox => Some(0),
        };
        let position = slot
            .checked_mul(format::EROFS_SLOT_SIZE)
            .and_then(|at| at.checked_add(base?))
            .ok_or_else(|| Error::corrupt(nid, 0, Detail::AddressOverflow))?;
        let mut raw = [0; size_of::<InodeExtended>()];
        let compact_size = size_of::<InodeCompact>();
        let got = image.read_area_upto(area, nid, &mut raw, position)?;
        let available = raw.get(..got).unwrap_or_default();
        let beyond = |length: usize| image.beyond(area, nid, position, wide(length));
        let Ok((compact, _)) = InodeCompact::read_from_prefix(available) else {
            return Err(beyond(compact_size));
        };
        let i_format = compact.i_format.get();
        let bogus_format = || Error::unsupported(nid, Unsupported::InodeFormat(i_format));
        if i_format & !format::EROFS_I_ALL != 0 {
            return Err(bogus_format());
        }
        let layout = Layout::of_format(i_format).ok_or_else(bogus_format)?;
        let mode = compact.i_mode.get();
        let file_type = FileType::from_mode(mode)
            .ok_or_else(|| Error::corrupt(nid, position, Detail::Mode(mode)))?;
        let bit4 = i_format & format::EROFS_I_BIT4 != 0;
        let is_dir = file_type == FileType::Directory;
        let xattr_size = match compact.i_xattr_icount.get() {
            0 => 0,
            n => u64::from(n)
                .saturating_sub(1)
                .saturating_mul(4)
                .saturating_add(wide(size_of::<format::XattrIbodyHeader>())),
        };
        let mut inode = Self {
            nid,
            position,
            inode_size: wide(compact_size),
            file_type,
            mode,
            uid: compact.i_uid.get().into(),
            gid: compact.i_gid.get().into(),
            nlink: compact.i_nb.get().into(),
            size: compact.i_size.get().into(),
            mtime: sb.epoch.wrapping_add(compact.i_mtime.get().into()),
            mtime_nsec: sb.fixed_nsec,
            rdev: 0,
            ino: compact.i_ino.get(),
            xattr_size,
            layout,
            start_block: None,
            chunk_format: 0,
            dot_omitted: is_dir && bit4,
        };
        let (i_u, block_hi, null_block);
        if i_format & format::EROFS_I_VERSION_MASK == 0 {
            i_u = compact.i_u.get();
            if bit4 && !is_dir {
                inode.nlink = 1;
                block_hi = compact.i_nb.get();
                null_block = 0xffff_ffff_ffff;
            } else {
                block_hi = 0;
                null_block = 0xffff_ffff;
            }
        } else {
            let Ok((extended, _)) = InodeExtended::read_from_prefix(available) else {
                return Err(beyond(size_of::<InodeExtended>()));
            };
            inode.inode_size = wide(size_of::<InodeExtended>());
            inode.uid = extended.i_uid.get();
            inode.gid = extended.i_gid.get();
            inode.nlink = extended.i_nlink.get();
            inode.size = extended.i_size.get();
            inode.mtime = extended.i_mtime.get().cast_signed();
            inode.mtime_nsec = extended.i_mtime_nsec.get();
            i_u = extended.i_u.get();
            block_hi = extended.i_nb.get();
            null_block = 0xffff_ffff_ffff;
        }
        if inode.size > i64::MAX.cast_unsigned() {
            return Err(inode.corrupt(position, Detail::Size(inode.size)));
        }
        inode.decode_i_u(i_u, block_hi, null_block)?;
        Ok(inode)
    }

    /// Decodes `i_u`, whose meaning depends on the type and the layout: the number of a device, the
    /// first block of the data with `block_hi` as its upper half, or the format of chunks.
    fn decode_i_u(&mut self, i_u: u32, block_hi: u16, null_block: u64) -> Result<(), Error> {
        match self.file_type {
            FileType::CharDevice | FileType::BlockDevice => self.rdev = i_u,
            FileType::Fifo | FileType::Socket => {}
            FileType::Regular | FileType::Directory | FileType::Symlink => match self.layout {
                Layout::Plain | Layout::Inline => {
                    let block = u64::from(i_u) | u64::from(block_hi).wrapping_shl(32);
                    // Only plain data may be all zeros: data with an inline tail has an address
                    // that may mean nothing.
                    if self.layout == Layout::Inline || block & null_block != null_block {
                        self.start_block = Some(block);
                    }
                }
                Layout::Chunks => {
                    // `struct erofs_inode_chunk_info`: the format in the lower half.
                    self.chunk_format = u16::try_from(i_u & 0xffff).unwrap_or_default();
                    if self.chunk_format & !format::EROFS_CHUNK_FORMAT_ALL != 0 {
                        let what = Unsupported::ChunkFormat(self.chunk_format);
                        return Err(Error::unsupported(self.nid, what));
                    }
                }
                Layout::CompressedFull | Layout::CompressedCompact => {}
            },
        }
        Ok(())
    }

    /// The size in bytes that the last block of inline data has.
    pub(crate) fn inline_size(&self, block_bytes: u64) -> u64 {
        match (self.layout, self.size) {
            (Layout::Inline, 1..) => {
                // A last block that is full is inline too.
                let before = self.size.saturating_sub(1).checked_div(block_bytes);
                self.size
                    .saturating_sub(before.unwrap_or(0).saturating_mul(block_bytes))
            }
            _ => 0,
        }
    }

    /// Reads the inode's xattr area.
    pub(crate) fn xattr_area<A: Areas>(&self, image: &A) -> Result<Vec<u8>, Error> {
        let start = self.position.saturating_add(self.inode_size);
        // At most 12 + 4 * 65534 bytes, but only what the image really has.
        image.check_area(self.area(), self.nid, start, self.xattr_size)?;
        let mut area = vec![0; narrow(self.xattr_size)];
        image.read_area(self.area(), self.nid, &mut area, start)?;
        Ok(area)
    }
}

#[cfg(feature = "serde")]
impl serde::Serialize for Inode {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeStruct;

        let mut fields = serializer.serialize_struct("Inode", 10)?;
        fields.serialize_field("nid", &self.nid())?;
        fields.serialize_field("file_type", &self.file_type())?;
        fields.serialize_field("mode", &self.mode())?;
        fields.serialize_field("uid", &self.uid())?;
        fields.serialize_field("gid", &self.gid())?;
        fields.serialize_field("nlink", &self.nlink())?;
        fields.serialize_field("size", &self.size())?;
        fields.serialize_field("mtime", &self.mtime())?;
        fields.serialize_field("rdev", &self.rdev())?;
        fields.serialize_field("layout", &self.layout())?;
        fields.end()
    }
}
