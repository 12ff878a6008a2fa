//! A disk that holds init and nothing else.

use std::fs::File;
use std::io;

use blockbox_protocol::INIT_PATH;

use crate::guest::INIT;

/// Bytes of the disk, nearly all of them holes.
const SIZE: u64 = 16 << 20;

/// Writes to `file`, which is empty, an ext4 image with init where the kernel looks for it: the
/// root of a machine that has no writable disk.
///
/// # Errors
///
/// When the file cannot be written.
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
