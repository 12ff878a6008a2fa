//! An open image, and everything that reads its bytes.

use alloc::vec;
use alloc::vec::Vec;

use crate::check::Finding;
use crate::compressed::{PclusterCache, SpareDecoders};
use crate::corruption::Detail;
use crate::error::Error;
use crate::file_type::FileType;
use crate::format;
use crate::inode::{Inode, Nid};
use crate::num::wide;
use crate::read_at::{ReadAt, read_full};
use crate::superblock::Superblock;
use crate::sync::Once;
use crate::xattr::Prefix;

/// Which bytes metadata lies in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Area {
    /// The primary device.
    Primary,
    /// The data of the metabox inode.
    Metabox,
}

/// An EROFS image.
///
/// Opening reads the superblock and the device table; everything else is read when it is asked for. Nothing is ever
/// taken on trust: a method on any bytes returns, without a panic, in a time and with an amount of memory bounded by what
/// it returns and by the size of the image.
#[derive(Debug)]
pub struct Image<R> {
    volumes: Vec<Volume<R>>,
    superblock: Superblock,
    /// What was wrong with the superblock and overlooked.
    pub(crate) overlooked: Vec<Finding>,
    pub(crate) xattr_prefixes: Once<Vec<Prefix>>,
    pub(crate) pclusters: PclusterCache,
    pub(crate) decoders: SpareDecoders,
}

#[derive(Debug)]
struct Volume<R> {
    reader: R,
    size: u64,
}

impl<R: ReadAt> Volume<R> {
    fn new(reader: R, device: u16) -> Result<Self, Error> {
        let size = reader.size().map_err(|source| Error::Io {
            device,
            offset: 0,
            source,
        })?;
        Ok(Self { reader, size })
    }
}

impl<R: ReadAt> Image<R> {
    /// Opens the image on `primary`.
    ///
    /// Where the image has a device table, the devices are taken to follow each other on `primary` at their unified
    /// addresses, as the kernel does when it is given no `device=` options.
    ///
    /// ```no_run
    /// use erofs_reader::{Buffered, Image};
    ///
    /// let image = Image::open(Buffered::new(std::fs::File::open("image.erofs")?))?;
    /// println!("{:?}", image.superblock());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Where there is no superblock, it is damaged, or it needs features that are unknown.
    pub fn open(primary: R) -> Result<Self, Error> {
        Self::open_judged(primary, Err)
    }

    fn open_judged(
        primary: R,
        judge: impl FnMut(Error) -> Result<(), Error>,
    ) -> Result<Self, Error> {
        let primary = Volume::new(primary, 0)?;
        let superblock = Superblock::read(&primary.reader, primary.size, judge)?;
        Ok(Self {
            volumes: vec![primary],
            superblock,
            overlooked: Vec::new(),
            xattr_prefixes: Once::new(),
            pclusters: PclusterCache::default(),
            decoders: SpareDecoders::default(),
        })
    }

    /// Opens the image on `primary` whose device table lists `devices`, in that order.
    ///
    /// # Errors
    ///
    /// As [`Image::open`]; and where the device table has another number of devices.
    pub fn open_with_devices(primary: R, devices: Vec<R>) -> Result<Self, Error> {
        let mut image = Self::open(primary)?;
        image.add_devices(devices)?;
        Ok(image)
    }

    fn add_devices(&mut self, devices: Vec<R>) -> Result<(), Error> {
        let expected = self.superblock.devices.len();
        if devices.len() != expected {
            return Err(Error::DeviceCount {
                expected,
                given: devices.len(),
            });
        }
        for (number, device) in (1..=u16::MAX).zip(devices) {
            self.volumes.push(Volume::new(device, number)?);
        }
        Ok(())
    }

    /// Opens an image for whoever wants to know all that is wrong with it, also where the superblock's checksum is wrong or it
    /// needs features that are unknown: [`Image::check`] then reports that among the rest, which is read as if those features
    /// were not there. Without `devices` they are taken to lie on `primary`.
    ///
    /// ```no_run
    /// use erofs_reader::{Buffered, Image};
    ///
    /// let file = std::fs::File::open("image.erofs")?;
    /// let image = Image::open_damaged(Buffered::new(file), Vec::new())?;
    /// for finding in image.check().findings {
    ///     println!("{finding}");
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Where there is no superblock or nothing can be read by it; and where the device table has another number of devices.
    pub fn open_damaged(primary: R, devices: Vec<R>) -> Result<Self, Error> {
        let mut overlooked = Vec::new();
        let mut image = Self::open_judged(primary, |error| {
            overlooked.push(Finding::of(None, error));
            Ok(())
        })?;
        image.overlooked = overlooked;
        if !devices.is_empty() {
            image.add_devices(devices)?;
        }
        Ok(image)
    }

    /// What the image says of itself.
    pub fn superblock(&self) -> &Superblock {
        &self.superblock
    }

    /// The root directory.
    ///
    /// # Errors
    ///
    /// Where it cannot be read, or is not a directory.
    pub fn root(&self) -> Result<Inode, Error> {
        let root = self.inode(self.superblock.root_nid)?;
        if root.file_type() != FileType::Directory {
            return Err(root.corrupt(root.position(), Detail::RootType(root.file_type())));
        }
        Ok(root)
    }

    /// The inode `nid`.
    ///
    /// # Errors
    ///
    /// Where the bytes there are no inode; some bytes that were not meant as one may look like one.
    pub fn inode(&self, nid: Nid) -> Result<Inode, Error> {
        Inode::read(self, nid)
    }

    /// Whether the devices of the device table were given, and are not taken to lie on the primary one.
    pub fn has_devices(&self) -> bool {
        self.volumes.len() > 1
    }

    /// The size in bytes of device `device`: 0 is the primary one.
    pub fn device_size(&self, device: u16) -> Option<u64> {
        self.volumes
            .get(usize::from(device))
            .map(|volume| volume.size)
    }

    /// Whether zeros are in front of what a cluster holds, and not behind it.
    pub(crate) fn is_padded(&self) -> bool {
        self.superblock
            .has_incompat(format::EROFS_FEATURE_INCOMPAT_ZERO_PADDING)
    }

    /// The bytes of all devices together.
    pub(crate) fn total_size(&self) -> u64 {
        self.volumes
            .iter()
            .fold(0, |sum, volume| sum.saturating_add(volume.size))
    }

    /// Which device, and which byte of it, block address `block` of device `device` is at.
    ///
    /// Device 0 stands for the unified address space, of which the primary device is the part that no device has. This is
    /// `erofs_map_dev` of the kernel.
    pub(crate) fn locate(&self, nid: Nid, device: u16, block: u64) -> Result<(u16, u64), Error> {
        let unit = self.superblock.block_size;
        let overflow = || Error::corrupt(nid, 0, Detail::AddressOverflow);
        if device != 0 {
            let slot = usize::from(device)
                .checked_sub(1)
                .and_then(|index| self.superblock.devices.get(index))
                .ok_or_else(|| Error::corrupt(nid, 0, Detail::DeviceId(device)))?;
            let (device, block) = if self.has_devices() {
                (device, Some(block))
            } else {
                (0, block.checked_add(slot.uniaddr))
            };
            let at = block.and_then(|block| unit.position(block));
            return Ok((device, at.ok_or_else(overflow)?));
        }
        if self.has_devices() {
            for (number, slot) in (1..=u16::MAX).zip(&self.superblock.devices) {
                if let Some(block) = block.checked_sub(slot.uniaddr)
                    && slot.uniaddr != 0
                    && block < slot.blocks
                {
                    return Ok((number, unit.position(block).ok_or_else(overflow)?));
                }
            }
        }
        Ok((0, unit.position(block).ok_or_else(overflow)?))
    }

    /// Fails unless `length` bytes at `start` of device `device` exist.
    pub(crate) fn check_range(
        &self,
        device: u16,
        nid: Option<Nid>,
        start: u64,
        length: u64,
    ) -> Result<(), Error> {
        let size = self
            .device_size(device)
            .ok_or_else(|| Error::corrupt(nid, start, Detail::DeviceId(device)))?;
        match start.checked_add(length) {
            Some(end) if end <= size => Ok(()),
            _ => Err(Error::corrupt(
                nid,
                start,
                Detail::BeyondDevice {
                    device,
                    start,
                    length,
                    size,
                },
            )),
        }
    }

    /// Fills `buf` from byte `offset` of device `device`.
    pub(crate) fn read_device(
        &self,
        device: u16,
        nid: Option<Nid>,
        buf: &mut [u8],
        offset: u64,
    ) -> Result<(), Error> {
        self.check_range(device, nid, offset, wide(buf.len()))?;
        let got = self.read_device_upto(device, nid, buf, offset)?;
        if got == buf.len() {
            return Ok(());
        }
        // The source has shrunk since it was opened.
        let size = offset.saturating_add(wide(got));
        Err(Error::corrupt(
            nid,
            offset,
            Detail::BeyondDevice {
                device,
                start: offset,
                length: wide(buf.len()),
                size,
            },
        ))
    }

    fn read_device_upto(
        &self,
        device: u16,
        nid: Option<Nid>,
        buf: &mut [u8],
        offset: u64,
    ) -> Result<usize, Error> {
        let volume = self
            .volumes
            .get(usize::from(device))
            .ok_or_else(|| Error::corrupt(nid, offset, Detail::DeviceId(device)))?;
        read_full(&volume.reader, buf, offset).map_err(|source| Error::Io {
            device,
            offset,
            source,
        })
    }

    /// The bytes that area `area` has.
    pub(crate) fn area_size(&self, area: Area, nid: Nid) -> Result<u64, Error> {
        match area {
            Area::Primary => Ok(self.device_size(0).unwrap_or(0)),
            Area::Metabox => Ok(self.metabox(nid)?.size()),
        }
    }

    /// Fails unless `length` bytes at `start` of area `area` exist.
    pub(crate) fn check_area(
        &self,
        area: Area,
        nid: Nid,
        start: u64,
        length: u64,
    ) -> Result<(), Error> {
        let size = self.area_size(area, nid)?;
        match start.checked_add(length) {
            Some(end) if end <= size => Ok(()),
            _ => Err(self.beyond(area, nid, start, length)),
        }
    }

    /// Fills `buf` with metadata of inode `nid` from byte `offset` of area `area`.
    pub(crate) fn read_area(
        &self,
        area: Area,
        nid: Nid,
        buf: &mut [u8],
        offset: u64,
    ) -> Result<(), Error> {
        let got = self.read_area_upto(area, nid, buf, offset)?;
        if got == buf.len() {
            Ok(())
        } else {
            Err(self.beyond(area, nid, offset, wide(buf.len())))
        }
    }

    /// Like [`Image::read_area`], but says how much there was.
    pub(crate) fn read_area_upto(
        &self,
        area: Area,
        nid: Nid,
        buf: &mut [u8],
        offset: u64,
    ) -> Result<usize, Error> {
        match area {
            Area::Primary => self.read_device_upto(0, Some(nid), buf, offset),
            Area::Metabox => {
                let metabox = self.metabox(nid)?;
                self.data(&metabox)?.read_full_at(buf, offset)
            }
        }
    }

    pub(crate) fn beyond(&self, area: Area, nid: Nid, start: u64, length: u64) -> Error {
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

    /// The inode that other inodes lie in; `nid` is what needs it.
    fn metabox(&self, nid: Nid) -> Result<Inode, Error> {
        let found = self
            .superblock
            .metabox_nid
            .ok_or_else(|| Error::corrupt(nid, 0, Detail::NoSpecialInode))?;
        // That it does not lie in itself was checked when the image was opened.
        self.inode(found)
    }

    /// The inode that fragments lie in; `inode` is what needs it, and must not be needed to read it.
    pub(crate) fn packed(&self, inode: &Inode) -> Result<Inode, Error> {
        let nid = self
            .superblock
            .packed_nid
            .ok_or_else(|| inode.corrupt(inode.position(), Detail::NoSpecialInode))?;
        let in_metabox = nid.area().0 == Area::Metabox;
        let is_metabox = Some(inode.nid()) == self.superblock.metabox_nid;
        if inode.nid() == nid || (is_metabox && in_metabox) {
            return Err(inode.corrupt(inode.position(), Detail::SelfReference));
        }
        self.inode(nid)
    }
}

#[cfg(all(test, feature = "std"))]
mod tests {
    use super::*;

    #[test]
    fn one_image_serves_many_threads() {
        fn assert_shared<T: Send + Sync>() {}
        assert_shared::<Image<crate::Buffered<std::fs::File>>>();
        assert_shared::<Image<Box<dyn ReadAt + Send + Sync>>>();
    }
}
