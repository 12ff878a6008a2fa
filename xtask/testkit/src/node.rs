//! Devices, fifos and sockets in directory trees.

use std::io;
use std::path::Path;

use nix::sys::stat::{Mode, SFlag, mknod};

/// A file that is neither a regular file nor a directory nor a symbolic link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Node {
    /// A character device, by its major and minor number.
    CharDevice(u32, u32),
    /// A block device, by its major and minor number.
    BlockDevice(u32, u32),
    /// A fifo.
    Fifo,
    /// A socket that nothing listens on.
    Socket,
}

impl Node {
    /// Makes the file with these permissions, less those of the umask.
    ///
    /// # Errors
    ///
    /// That of `mknod`: devices are for root.
    pub fn make(self, path: impl AsRef<Path>, mode: u16) -> io::Result<()> {
        let (kind, (major, minor)) = match self {
            Self::CharDevice(major, minor) => (SFlag::S_IFCHR, (major, minor)),
            Self::BlockDevice(major, minor) => (SFlag::S_IFBLK, (major, minor)),
            Self::Fifo => (SFlag::S_IFIFO, (0, 0)),
            Self::Socket => (SFlag::S_IFSOCK, (0, 0)),
        };
        let mode = Mode::from_bits_truncate(rustix::fs::RawMode::from(mode));
        let device = rustix::fs::makedev(major, minor);
        Ok(mknod(path.as_ref(), kind, mode, device)?)
    }
}
