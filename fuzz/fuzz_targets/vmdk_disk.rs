//! Any bytes as a disk: a descriptor that finds no files, or a sparse image.
#![no_main]

use std::io::{Read, Write};

use libfuzzer_sys::fuzz_target;

/// A disk may claim any size: this much of it is read.
const READ: u64 = 4 << 20;

fuzz_target!(|bytes: &[u8]| {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let path = folder.path().join("disk.vmdk");
    let mut file = std::fs::File::create(&path).expect("created");
    file.write_all(bytes).expect("written");
    if let Ok(disk) = vmdk::Disk::open(&path) {
        let size = disk.size();
        let _ = disk.read_at(&mut [0; 4096], size.saturating_sub(4000));
        let _ = disk.take(READ).read_to_end(&mut Vec::new());
    }
});
