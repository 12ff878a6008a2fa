//! The image that a command reads.

#[cfg(test)]
use std::path::Path;
use std::path::PathBuf;

use clap::Args;

pub(super) use blockbox::reader::Reader;

/// The image to read, for all commands that read one.
#[derive(Debug, Args)]
pub(super) struct Source {
    /// The image: a file, a block device, or a disk's VMDK
    #[arg(value_name = "IMAGE")]
    pub(super) image: PathBuf,
    /// A device of the image's device table; give each, in order. Without this option, the devices
    /// follow the image in its file
    #[arg(long = "device", value_name = "FILE")]
    devices: Vec<PathBuf>,
}

impl Source {
    /// Returns the source for the image in this file.
    #[cfg(test)]
    pub(super) fn of(image: &Path) -> Self {
        Self {
            image: image.to_owned(),
            devices: Vec::new(),
        }
    }

    pub(super) fn open(&self) -> anyhow::Result<Reader> {
        Ok(blockbox::reader::open(&self.image, &self.devices)?)
    }

    /// As [`open`](Self::open), to check an image that may be damaged.
    pub(super) fn open_damaged(&self) -> anyhow::Result<Reader> {
        Ok(blockbox::reader::open_damaged(&self.image, &self.devices)?)
    }
}
