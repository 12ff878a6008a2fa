//! Nodes to be added.

use std::fmt;
use std::io::Read;

use blockbox_path::escaped;

use crate::DeviceNumber;

/// The type of a node to be added, and the data that belongs to the type.
///
/// Exhaustive, so that programs handle every kind: POSIX has these seven, and no more will come.
pub enum Node<'a> {
    /// A directory. It is empty until nodes are added to it.
    Directory,
    /// A regular file with all bytes that the reader returns: see [`file`](Self::file).
    File(Box<dyn Read + 'a>),
    /// A symbolic link with this target.
    Symlink(&'a [u8]),
    /// A character device.
    CharDevice(DeviceNumber),
    /// A block device.
    BlockDevice(DeviceNumber),
    /// A named pipe.
    Fifo,
    /// A Unix domain socket.
    Socket,
}

impl<'a> Node<'a> {
    /// Returns a regular file with all bytes that `contents` returns.
    pub fn file(contents: impl Read + 'a) -> Self {
        Self::File(Box::new(contents))
    }
}

impl fmt::Debug for Node<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Directory => f.write_str("Directory"),
            Self::File(_) => f.debug_tuple("File").finish_non_exhaustive(),
            Self::Symlink(target) => write!(f, "Symlink({:?})", escaped(target)),
            Self::CharDevice(number) => f.debug_tuple("CharDevice").field(number).finish(),
            Self::BlockDevice(number) => f.debug_tuple("BlockDevice").field(number).finish(),
            Self::Fifo => f.write_str("Fifo"),
            Self::Socket => f.write_str("Socket"),
        }
    }
}
