//! Which image a command works on.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use clap::Args;
use erofs_reader::{Buffered, Image, ReadAt};

use crate::error::Error;

/// An image of any source.
pub(super) type Reader = Image<Buffered<Box<dyn ReadAt + Send + Sync>>>;

/// Which image, shared by all commands that read one.
#[derive(Debug, Args)]
pub(super) struct Source {
    /// The image: a file, a block device, or a disk's VMDK
    #[arg(value_name = "IMAGE")]
    pub(super) image: PathBuf,
    /// A device of the image's device table; give each, in order. Without any, they follow the image in its file
    #[arg(long = "device", value_name = "FILE")]
    devices: Vec<PathBuf>,
}

impl Source {
    /// The image in this file.
    #[cfg(test)]
    pub(super) fn of(image: &Path) -> Self {
        Self {
            image: image.to_owned(),
            devices: Vec::new(),
        }
    }

    pub(super) fn open(&self) -> anyhow::Result<Reader> {
        let failed = |source| Error::Read {
            path: self.image.clone(),
            source,
        };
        let primary = reader(&self.image)?;
        if self.devices.is_empty() {
            return Ok(Image::open(primary).map_err(failed)?);
        }
        let devices = self
            .devices
            .iter()
            .map(|path| reader(path))
            .collect::<anyhow::Result<Vec<_>>>()?;
        Ok(Image::open_with_devices(primary, devices).map_err(failed)?)
    }
}

fn reader(path: &Path) -> anyhow::Result<Buffered<Box<dyn ReadAt + Send + Sync>>> {
    let reader: Box<dyn ReadAt + Send + Sync> = if path.extension().is_some_and(|e| e == "vmdk") {
        let disk = vmdk::Disk::open(path).map_err(|source| Error::Vmdk {
            path: path.to_owned(),
            source,
        })?;
        Box::new(Disk(disk))
    } else {
        Box::new(File::open(path).map_err(Error::io(path))?)
    };
    Ok(Buffered::new(reader))
}

/// A stitched disk as an image's source.
struct Disk(vmdk::Disk);

impl ReadAt for Disk {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.0.read_at(buf, offset)
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.0.size())
    }
}
