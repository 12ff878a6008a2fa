//! EROFS images as files of this host: self-contained, with devices, or on a disk of several files.

use std::path::{Path, PathBuf};

use blockbox_files::open_disk;
use blockbox_store::Meter;
use erofs_reader::{Buffered, Image, ReadAt, ReadAtError};

use crate::error::{Error, Result};

/// An image with any source.
pub type Reader = Image<Buffered<Box<dyn ReadAt + Send + Sync>>>;

/// Opens the image at `path`: a file, a block device, or the VMDK of a disk that begins with the
/// image. `devices` are the devices of its device table, in order; without any, the listed devices
/// follow the image in its file.
///
/// # Errors
///
/// If a file cannot be read or is not an image, or the device table has another number of devices.
pub fn open(path: &Path, devices: &[PathBuf]) -> Result<Reader> {
    open_metered(path, devices, &Meter::default())
}

/// As [`open`]; `meter` counts the bytes that are read.
///
/// # Errors
///
/// As for [`open`].
pub fn open_metered(path: &Path, devices: &[PathBuf], meter: &Meter) -> Result<Reader> {
    let (primary, devices) = sources(path, devices, meter)?;
    if devices.is_empty() {
        return Image::open(primary).map_err(failed(path));
    }
    Image::open_with_devices(primary, devices).map_err(failed(path))
}

/// As [`open`], to [check](Image::check) the image. The check reports a damaged superblock, if the
/// rest can be read. `meter` counts the bytes that are read.
///
/// # Errors
///
/// If a file cannot be read or is not an image, or the device table has another number of devices.
pub fn open_damaged(path: &Path, devices: &[PathBuf], meter: &Meter) -> Result<Reader> {
    let (primary, devices) = sources(path, devices, meter)?;
    Image::open_damaged(primary, devices).map_err(failed(path))
}

fn failed(path: &Path) -> impl Fn(erofs_reader::Error) -> Error {
    |source| Error::Read {
        path: path.to_owned(),
        source,
    }
}

type Bytes = Buffered<Box<dyn ReadAt + Send + Sync>>;

fn sources(path: &Path, devices: &[PathBuf], meter: &Meter) -> Result<(Bytes, Vec<Bytes>)> {
    let devices = devices.iter().map(|path| source(path, meter));
    Ok((source(path, meter)?, devices.collect::<Result<_>>()?))
}

fn source(path: &Path, meter: &Meter) -> Result<Bytes> {
    let source: Box<dyn ReadAt + Send + Sync> = if is_vmdk(path) {
        let disk = vmdk::Disk::open(path).map_err(|source| Error::Vmdk {
            path: path.to_owned(),
            source,
        })?;
        Box::new(Disk(disk))
    } else {
        Box::new(open_disk(path).map_err(Error::io(path))?)
    };
    let meter = meter.clone();
    let metered: Box<dyn ReadAt + Send + Sync> = Box::new(Metered { source, meter });
    Ok(Buffered::new(metered))
}

/// A source whose bytes are counted.
struct Metered {
    source: Box<dyn ReadAt + Send + Sync>,
    meter: Meter,
}

impl ReadAt for Metered {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize, ReadAtError> {
        let read = self.source.read_at(buf, offset)?;
        self.meter.add(read as u64);
        Ok(read)
    }

    fn size(&self) -> Result<u64, ReadAtError> {
        self.source.size()
    }
}

/// Returns whether a file is a disk's descriptor, by its name.
pub(crate) fn is_vmdk(path: &Path) -> bool {
    path.extension().is_some_and(|e| e == "vmdk")
}

/// A VMDK disk as an image's source.
struct Disk(vmdk::Disk);

impl ReadAt for Disk {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize, ReadAtError> {
        Ok(self.0.read_at(buf, offset)?)
    }

    fn size(&self) -> Result<u64, ReadAtError> {
        Ok(self.0.size())
    }
}
