//! A disk with init only.

use std::fs::File;
use std::io;

use blockbox_protocol::INIT_PATH;

use crate::guest;
use crate::{Arch, VmmError};

/// The size of the disk in bytes, mostly holes.
const SIZE: u64 = 16 << 20;

/// Writes an ext4 image with the init of `arch`, where the kernel looks for it, to the empty file
/// `file`: the boot disk of a machine without a writable disk.
///
/// # Errors
///
/// If the file cannot be written; [`VmmError::NoInit`].
pub fn write_init_disk(file: File, arch: Arch) -> Result<(), VmmError> {
    let init = guest::init(arch)?;
    let write = || {
        let mut disk = ext4_writer::Builder::new(file, ext4_writer::Options::new(SIZE))?;
        let executable = ext4_writer::Metadata::new(0o755);
        let (folder, name) = disk.make_parents(INIT_PATH.as_bytes(), &executable)?;
        disk.add_file(folder, name, executable, init, Some(init.len() as u64))?;
        disk.finish()?;
        Ok(())
    };
    let failed = VmmError::io("cannot write a disk with init");
    write().map_err(|error: ext4_writer::Error| failed(io::Error::other(error)))
}
