//! Attributes and types of inodes.

use crate::file_data::FileData;
use crate::timestamp::Timestamp;

/// Attributes of an inode.
///
/// ```
/// use std::time::SystemTime;
/// use erofs_writer::Metadata;
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
    /// The permission bits, `0o7777` at most. The file type comes from the [`Node`].
    pub mode: u16,
    /// The owner's user ID.
    pub uid: u32,
    /// The group ID.
    pub gid: u32,
    /// The modification time, the only time that EROFS stores.
    pub mtime: Timestamp,
    /// Extended attributes by full name, such as `user.a`, in any order.
    ///
    /// EROFS has the namespaces `user.`, `trusted.` and `security.`, and the names
    /// `system.posix_acl_access` and `system.posix_acl_default`, whose values are in the form of
    /// `getxattr(2)`.
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

/// The type of an inode, and the data that belongs to the type.
///
/// Exhaustive, so that programs handle every kind: POSIX has these seven, and no more will come.
#[derive(Clone, Debug)]
pub enum Node {
    /// A directory. It is empty until nodes are added to it.
    Directory,
    /// A regular file with these contents.
    File(FileData),
    /// A symbolic link with this target: 1 to 4095 bytes without NUL.
    Symlink(Vec<u8>),
    /// A character device.
    CharDevice(DeviceNumber),
    /// A block device.
    BlockDevice(DeviceNumber),
    /// A named pipe.
    Fifo,
    /// A Unix domain socket.
    Socket,
}

/// The type of an inode that is in the image already.
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

/// The number of a character or block device (`st_rdev`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeviceNumber {
    /// The number of the driver, below 2^12.
    pub major: u32,
    /// The number of the device among those of the driver, below 2^20.
    pub minor: u32,
}
