//! The image that a command reads.

#[cfg(all(test, target_os = "linux"))]
use std::path::Path;
use std::path::PathBuf;

use blockbox::store::Meter;
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
    #[cfg(all(test, target_os = "linux"))]
    pub(super) fn of(image: &Path) -> Self {
        Self {
            image: image.to_owned(),
            devices: Vec::new(),
        }
    }

    pub(super) fn open(&self) -> anyhow::Result<Reader> {
        Ok(blockbox::reader::open(&self.image, &self.devices)?)
    }

    /// As [`open`](Self::open); `meter` counts the bytes that are read.
    pub(super) fn open_metered(&self, meter: &Meter) -> anyhow::Result<Reader> {
        let Self { image, devices } = self;
        Ok(blockbox::reader::open_metered(image, devices, meter)?)
    }

    /// As [`open`](Self::open), to check an image that may be damaged.
    pub(super) fn open_damaged(&self, meter: &Meter) -> anyhow::Result<Reader> {
        let Self { image, devices } = self;
        Ok(blockbox::reader::open_damaged(image, devices, meter)?)
    }

    /// Returns how many bytes the image and its devices have, if they are in files.
    pub(super) fn bytes(&self) -> Option<u64> {
        length_of([&self.image].into_iter().chain(&self.devices))
    }
}

/// Returns how many bytes regular files have together; `None` if one is something else, as a disk
/// whose bytes are in other files.
pub(super) fn length_of<'a>(paths: impl IntoIterator<Item = &'a PathBuf>) -> Option<u64> {
    let length = |path: &PathBuf| {
        let found = path.metadata().ok()?;
        let whole = found.is_file() && path.extension().is_none_or(|kind| kind != "vmdk");
        whole.then_some(found.len())
    };
    paths.into_iter().map(length).sum()
}
