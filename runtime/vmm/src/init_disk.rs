//! A disk with init only.

use std::fs::File;
use std::io;

use blockbox_protocol::INIT_PATH;

use crate::guest::INIT;

/// The size of the disk in bytes, mostly holes.
const SIZE: u64 = 16 << 20;

/// Writes an ext4 image with init, where the kernel looks for it, to the empty file `file`: the
/// boot disk of a machine without a writable disk.
///
/// # Errors
///
/// If the file cannot be written.
pub fn write_init_disk(file: File) -> io::Result<()> {
    let write = || {
        let mut disk = ext4_writer::Builder::new(file, ext4_writer::Options::new(SIZE))?;
        let executable = ext4_writer::Metadata::new(0o755);
        let (folder, name) = disk.make_parents(INIT_PATH.as_bytes(), &executable)?;
        disk.add_file(folder, name, executable, INIT, Some(INIT.len() as u64))?;
        disk.finish()?;
        Ok(())
    };
    write().map_err(|error: ext4_writer::Error| io::Error::other(error))
}
