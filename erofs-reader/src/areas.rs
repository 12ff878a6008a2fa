//! Areas that hold metadata: the primary device, and the data of the metabox inode.
//!
//! Reading an inode in the metabox requires the block map and the data of the metabox inode, which
//! is never stored in itself. The code that reads inodes, block maps and data is therefore generic
//! over [`Areas`]: [`Storage`] has only the primary device, which is enough to read the metabox,
//! and [`Image`](crate::Image) has both areas.

use crate::corruption::Detail;
use crate::error::Error;
use crate::nid::{Area, Nid};
use crate::num::wide;
use crate::read_at::ReadAt;
use crate::storage::Storage;
use crate::superblock::Superblock;

/// An image of which metadata can be read.
pub(crate) trait Areas {
    /// The devices.
    type Source: ReadAt;

    fn storage(&self) -> &Storage<Self::Source>;

    /// The size in bytes of the metabox, which `nid` needs.
    fn metabox_size(&self, nid: Nid) -> Result<u64, Error>;

    /// Reads from byte `offset` of the metabox, which `nid` needs, into `buf`, and returns the
    /// number of bytes.
    fn read_metabox(&self, nid: Nid, buf: &mut [u8], offset: u64) -> Result<usize, Error>;

    fn superblock(&self) -> &Superblock {
        &self.storage().superblock
    }

    /// The bytes that area `area` has.
    fn area_size(&self, area: Area, nid: Nid) -> Result<u64, Error> {
        match area {
            Area::Primary => Ok(self.storage().device_size(0).unwrap_or(0)),
            Area::Metabox => self.metabox_size(nid),
        }
    }

    /// Fails unless `length` bytes at `start` of area `area` exist.
    fn check_area(&self, area: Area, nid: Nid, start: u64, length: u64) -> Result<(), Error> {
        let size = self.area_size(area, nid)?;
        match start.checked_add(length) {
            Some(end) if end <= size => Ok(()),
            _ => Err(self.beyond(area, nid, start, length)),
        }
    }

    /// Fills `buf` with metadata of inode `nid` from byte `offset` of area `area`.
    fn read_area(&self, area: Area, nid: Nid, buf: &mut [u8], offset: u64) -> Result<(), Error> {
        let got = self.read_area_upto(area, nid, buf, offset)?;
        if got == buf.len() {
            Ok(())
        } else {
            Err(self.beyond(area, nid, offset, wide(buf.len())))
        }
    }

    /// Like [`read_area`](Self::read_area), but returns the number of bytes read.
    fn read_area_upto(
        &self,
        area: Area,
        nid: Nid,
        buf: &mut [u8],
        offset: u64,
    ) -> Result<usize, Error> {
        match area {
            Area::Primary => self.storage().read_device_upto(0, Some(nid), buf, offset),
            Area::Metabox => self.read_metabox(nid, buf, offset),
        }
    }

    fn beyond(&self, area: Area, nid: Nid, start: u64, length: u64) -> Error {
        let size = self.area_size(area, nid).unwrap_or(0);
        Error::corrupt(
            nid,
            start,
            Detail::BeyondDevice {
                device: 0,
                start,
                length,
                size,
            },
        )
    }
}

impl<R: ReadAt> Areas for Storage<R> {
    type Source = R;

    fn storage(&self) -> &Self {
        self
    }

    fn metabox_size(&self, nid: Nid) -> Result<u64, Error> {
        Err(Error::corrupt(nid, 0, Detail::SelfReference))
    }

    fn read_metabox(&self, nid: Nid, _: &mut [u8], _: u64) -> Result<usize, Error> {
        Err(Error::corrupt(nid, 0, Detail::SelfReference))
    }
}
