//! The devices of an open image, its superblock and its caches.

use alloc::vec;
use alloc::vec::Vec;

use crate::compressed::cache::PclusterCache;
use crate::compressed::decode::SpareDecoders;
use crate::corruption::Detail;
use crate::error::Error;
use crate::nid::Nid;
use crate::num::wide;
use crate::read_at::{ReadAt, read_full};
use crate::superblock::Superblock;

/// The devices of an image, its superblock, and caches that all readers of the image share.
#[derive(Debug)]
pub(crate) struct Storage<R> {
    volumes: Vec<Volume<R>>,
    pub(crate) superblock: Superblock,
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

impl<R: ReadAt> Storage<R> {
    /// Reads the superblock of the image on `primary`. `judge` decides about problems that do not
    /// prevent reading the rest.
    pub(crate) fn open(
        primary: R,
        judge: impl FnMut(Error) -> Result<(), Error>,
    ) -> Result<Self, Error> {
        let primary = Volume::new(primary, 0)?;
        let superblock = Superblock::read(&primary.reader, primary.size, judge)?;
        Ok(Self {
            volumes: vec![primary],
            superblock,
            pclusters: PclusterCache::default(),
            decoders: SpareDecoders::default(),
        })
    }

    /// Adds the devices of the device table, which must be as many.
    pub(crate) fn add_devices(&mut self, devices: Vec<R>) -> Result<(), Error> {
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

    /// Returns whether the devices of the device table were passed separately, and do not lie on
    /// the primary one.
    pub(crate) fn has_devices(&self) -> bool {
        self.volumes.len() > 1
    }

    /// Returns the size of a device in bytes. Device 0 is the primary one.
    pub(crate) fn device_size(&self, device: u16) -> Option<u64> {
        self.volumes
            .get(usize::from(device))
            .map(|volume| volume.size)
    }

    /// The bytes of all devices together.
    pub(crate) fn total_size(&self) -> u64 {
        self.volumes
            .iter()
            .fold(0, |sum, volume| sum.saturating_add(volume.size))
    }

    /// Returns the device and the byte on it of block address `block` of device `device`.
    ///
    /// Device 0 stands for the unified address space, of which the primary device is the part that
    /// no device has. This is `erofs_map_dev` of the kernel.
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

    pub(crate) fn read_device_upto(
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
}
