//! What a name in an image refers to.

use crate::FileData;

/// A point in time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp {
    /// Seconds since 1970-01-01 00:00 UTC; negative before.
    pub secs: i64,
    /// Nanoseconds after `secs`, below 1,000,000,000.
    pub nanos: u32,
}

/// The attributes of an inode. The default is `0755`, owned by root, from 1970.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Metadata {
    /// The permission bits, `0o7777` at most; the file's type comes from its [`Node`].
    pub mode: u16,
    /// The owner.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// The modification time. EROFS has no other.
    pub mtime: Timestamp,
    /// Extended attributes by full name, such as `user.a`, in any order.
    ///
    /// EROFS knows the namespaces `user.`, `trusted.` and `security.`, and `system.posix_acl_access` and
    /// `system.posix_acl_default`, whose values are as `getxattr(2)` gives them.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Default for Metadata {
    fn default() -> Self {
        Self {
            mode: 0o755,
            uid: 0,
            gid: 0,
            mtime: Timestamp::default(),
            xattrs: Vec::new(),
        }
    }
}

/// The type of an inode and what belongs to the type.
#[derive(Clone, Debug)]
pub enum Node {
    /// A directory, empty until something is added to it.
    Directory,
    /// A regular file with these contents.
    File(FileData),
    /// A symbolic link with this target: 1 to 4095 bytes, none of them NUL.
    Symlink(Vec<u8>),
    /// A character device: `major` below 2^12, `minor` below 2^20.
    CharDevice {
        /// The driver's number.
        major: u32,
        /// The driver's number for the device.
        minor: u32,
    },
    /// A block device: `major` below 2^12, `minor` below 2^20.
    BlockDevice {
        /// The driver's number.
        major: u32,
        /// The driver's number for the device.
        minor: u32,
    },
    /// A named pipe.
    Fifo,
    /// A Unix domain socket.
    Socket,
}

/// An inode of the image being built.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub(crate) u32);

/// A device, usually another image, on which files' contents lie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// What identifies it, for example a digest in hex (`tag`). The kernel wants the first byte not to be zero.
    pub tag: [u8; 64],
    /// Its size in blocks of the image being built (`blocks`).
    pub blocks: u64,
}

/// A [`Device`] of the image being built.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeviceId(pub(crate) u16);
