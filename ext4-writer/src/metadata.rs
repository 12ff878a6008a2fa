//! Attributes of inodes.

use std::fmt;

use crate::Timestamp;

/// Attributes of an inode.
///
/// ```
/// use std::time::SystemTime;
/// use ext4_writer::Metadata;
///
/// let metadata = Metadata::new(0o644)
///     .owner(1000, 100)
///     .mtime(SystemTime::UNIX_EPOCH)
///     .xattr("user.origin", "example");
/// assert_eq!(metadata.gid, 100);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Metadata {
    /// Permission bits with set-user-ID, set-group-ID and sticky (`0o7777`). Bits of the file type
    /// are ignored: the method that adds the node decides the type.
    pub mode: u16,
    /// The owner's user ID.
    pub uid: u32,
    /// The group ID.
    pub gid: u32,
    /// The modification time, which is stored as access, change and creation time too.
    pub mtime: Timestamp,
    /// Extended attributes: full names (`user.comment`) and values in the form of `getxattr(2)`.
    /// POSIX ACLs (`system.posix_acl_access`, `system.posix_acl_default`) are converted to ext4's
    /// form.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Metadata {
    /// Returns attributes with the permission bits `mode`, owned by root, with the modification
    /// time 1970-01-01 and without extended attributes.
    pub fn new(mode: u16) -> Self {
        Self {
            mode,
            uid: 0,
            gid: 0,
            mtime: Timestamp::default(),
            xattrs: Vec::new(),
        }
    }

    /// Sets the permission bits.
    #[must_use]
    pub fn mode(mut self, mode: u16) -> Self {
        self.mode = mode;
        self
    }

    /// Sets the user ID.
    #[must_use]
    pub fn uid(mut self, uid: u32) -> Self {
        self.uid = uid;
        self
    }

    /// Sets the group ID.
    #[must_use]
    pub fn gid(mut self, gid: u32) -> Self {
        self.gid = gid;
        self
    }

    /// Sets the user ID and the group ID.
    #[must_use]
    pub fn owner(self, uid: u32, gid: u32) -> Self {
        self.uid(uid).gid(gid)
    }

    /// Sets the modification time.
    #[must_use]
    pub fn mtime(mut self, mtime: impl Into<Timestamp>) -> Self {
        self.mtime = mtime.into();
        self
    }

    /// Adds an extended attribute.
    #[must_use]
    pub fn xattr(mut self, name: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) -> Self {
        self.xattrs.push((name.into(), value.into()));
        self
    }

    /// Replaces all extended attributes.
    #[must_use]
    pub fn xattrs(mut self, xattrs: Vec<(Vec<u8>, Vec<u8>)>) -> Self {
        self.xattrs = xattrs;
        self
    }
}

/// The type of a node.
///
/// Exhaustive, so that programs handle every kind: POSIX has these seven, and no more will come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A directory.
    Directory,
    /// A regular file.
    File,
    /// A symbolic link.
    Symlink,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
    /// A named pipe.
    Fifo,
    /// A Unix domain socket.
    Socket,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Directory => "directory",
            Self::File => "regular file",
            Self::Symlink => "symbolic link",
            Self::CharDevice => "character device",
            Self::BlockDevice => "block device",
            Self::Fifo => "fifo",
            Self::Socket => "socket",
        })
    }
}

/// The number of a character or block device (`st_rdev`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeviceNumber {
    /// The number of the driver, below 2^12.
    pub major: u32,
    /// The number of the device among those of the driver, below 2^20.
    pub minor: u32,
}
