//! Numbers of inodes.

use core::fmt;

use crate::format;

/// The number of an inode: the position of its metadata, in units of 32 bytes from the start of the
/// metadata area.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Nid(u64);

impl Nid {
    /// Returns the inode number `nid`. There may be no such inode: reading it fails then.
    ///
    /// ```
    /// use erofs_reader::Nid;
    ///
    /// assert_eq!(Nid::new(36).get(), 36);
    /// assert_eq!(Nid::new(36).to_string(), "36");
    /// ```
    pub const fn new(nid: u64) -> Self {
        Self(nid)
    }

    /// Returns the number.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The area of the image that the inode lies in, and its slot there.
    pub(crate) fn area(self) -> (Area, u64) {
        if self.0 & format::EROFS_NID_METABOX == 0 {
            (Area::Primary, self.0)
        } else {
            (Area::Metabox, self.0 & !format::EROFS_NID_METABOX)
        }
    }
}

impl fmt::Display for Nid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.area() {
            (Area::Primary, slot) => write!(f, "{slot}"),
            (Area::Metabox, slot) => write!(f, "metabox:{slot}"),
        }
    }
}

impl From<u64> for Nid {
    fn from(nid: u64) -> Self {
        Self(nid)
    }
}

/// An area of metadata.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Area {
    /// The primary device.
    Primary,
    /// The data of the metabox inode.
    Metabox,
}
