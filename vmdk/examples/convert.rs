//! Converts a disk: `convert DISK.vmdk TO`, to a streamOptimized image where `TO` ends in `.vmdk`,
//! else to raw bytes.

use std::error::Error;
use std::fs::File;
use std::io::BufWriter;
use std::path::PathBuf;

use vmdk::{Disk, SparseOptions, write_stream_optimized};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<_> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let [from, to] = &arguments[..] else {
        return Err("convert DISK.vmdk TO".into());
    };
    let mut disk = Disk::open(from)?;
    let size = disk.size();
    let mut out = BufWriter::new(File::create(to)?);
    if to.extension().is_some_and(|e| e == "vmdk") {
        let summary = write_stream_optimized(disk, size, out, &SparseOptions::default())?;
        println!("{size} bytes in {}", summary.bytes);
    } else {
        std::io::copy(&mut disk, &mut out)?;
    }
    Ok(())
}
