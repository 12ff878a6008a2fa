//! An inode, decoded.

use crate::format::{
    EXT4_EXTENTS_FL, Inode as RawInode, S_IFBLK, S_IFCHR, S_IFDIR, S_IFIFO, S_IFLNK, S_IFMT,
    S_IFREG, S_IFSOCK,
};
use crate::{DeviceNumber, Error, Kind, Metadata, Timestamp};

/// An inode of a filesystem that is read.
#[derive(Clone, Debug)]
pub struct Inode {
    pub(super) number: u32,
    pub(super) raw: RawInode,
    /// Where it lies in the image, in bytes.
    pub(super) offset: u64,
    kind: Kind,
}

impl Inode {
    /// `None` where its type is none.
    pub(super) fn new(number: u32, raw: RawInode, offset: u64) -> Option<Self> {
        let kind = match raw.i_mode.get() & S_IFMT {
            S_IFDIR => Kind::Directory,
            S_IFREG => Kind::File,
            S_IFLNK => Kind::Symlink,
            S_IFCHR => Kind::CharDevice,
            S_IFBLK => Kind::BlockDevice,
            S_IFIFO => Kind::Fifo,
            S_IFSOCK => Kind::Socket,
            _ => return None,
        };
        Some(Self {
            number,
            raw,
            offset,
            kind,
        })
    }

    /// The inode's number.
    pub fn number(&self) -> u32 {
        self.number
    }

    /// The type.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Whether it is a directory.
    pub fn is_dir(&self) -> bool {
        self.kind == Kind::Directory
    }

    /// Whether it is a regular file.
    pub fn is_file(&self) -> bool {
        self.kind == Kind::File
    }

    /// Whether it is a symbolic link.
    pub fn is_symlink(&self) -> bool {
        self.kind == Kind::Symlink
    }

    /// The permission bits with set-user-ID, set-group-ID and sticky (`0o7777`).
    pub fn mode(&self) -> u16 {
        self.raw.i_mode.get() & 0o7777
    }

    /// The owner's user ID.
    pub fn uid(&self) -> u32 {
        u32::from(self.raw.i_uid.get()) | u32::from(self.raw.l_i_uid_high.get()) << 16
    }

    /// The group ID.
    pub fn gid(&self) -> u32 {
        u32::from(self.raw.i_gid.get()) | u32::from(self.raw.l_i_gid_high.get()) << 16
    }

    /// The modification time.
    pub fn mtime(&self) -> Timestamp {
        Timestamp::decode(self.raw.i_mtime.get(), self.raw.i_mtime_extra.get())
    }

    /// The size in bytes (`i_size`).
    pub fn size(&self) -> u64 {
        u64::from(self.raw.i_size_lo.get()) | u64::from(self.raw.i_size_high.get()) << 32
    }

    /// How many names it has (`i_links_count`).
    pub fn nlink(&self) -> u32 {
        self.raw.i_links_count.get().into()
    }

    /// The number of a character or block device; 0:0 for everything else.
    pub fn device(&self) -> DeviceNumber {
        if !matches!(self.kind, Kind::CharDevice | Kind::BlockDevice) {
            return DeviceNumber { major: 0, minor: 0 };
        }
        let word = |at: usize| {
            let bytes = self.raw.i_block.get(at..).and_then(|b| b.first_chunk());
            bytes.map_or(0, |bytes| u32::from_le_bytes(*bytes))
        };
        // The old encoding, or the new one after it (`ext4_iget`).
        match (word(0), word(4)) {
            (0, new) => DeviceNumber {
                major: (new & 0xf_ff00) >> 8,
                minor: new & 0xff | (new >> 12) & 0xf_ff00,
            },
            (old, _) => DeviceNumber {
                major: old >> 8 & 0xff,
                minor: old & 0xff,
            },
        }
    }

    pub(super) fn has_extents(&self) -> bool {
        self.raw.i_flags.get() & EXT4_EXTENTS_FL != 0
    }

    /// The block that holds extended attributes; 0 where there is none.
    pub(super) fn xattr_block(&self) -> u64 {
        let low = u64::from(self.raw.i_file_acl_lo.get());
        low | u64::from(self.raw.l_i_file_acl_high.get()) << 32
    }

    /// Attributes but the extended ones.
    pub(super) fn attributes(&self) -> Metadata {
        Metadata::new(self.mode())
            .owner(self.uid(), self.gid())
            .mtime(self.mtime())
    }

    /// Fails if the inode has another type than `expected`.
    pub(super) fn expect(&self, expected: Kind) -> Result<(), Error> {
        if self.kind == expected {
            return Ok(());
        }
        Err(Error::WrongType {
            inode: self.number,
            expected,
            found: self.kind,
        })
    }
}
