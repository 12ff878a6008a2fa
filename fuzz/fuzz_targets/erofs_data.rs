//! Any bytes as what maps a file's data: chunk tables, compression headers, indexes and encoded
//! extents.
#![no_main]

use blockbox_fuzz::{Fields, NID, crafted};
use erofs_reader::{Image, Nid};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Some((&[format, size @ .., features], body)) = bytes.split_first_chunk::<5>() else {
        return;
    };
    let fields = Fields {
        // Always chunks, big clusters, inline tails; fragments, zeros before data and 48-bit
        // addresses are the input's.
        feature_incompat: 0x16 | u32::from(features & 0xa1),
        mode: 0o100_644,
        format: u16::from(format % 5) << 1,
        size: u32::from_le_bytes([size[0], size[1], size[2], 0]).into(),
        u: u32::from(features & 0x60) | u32::from(format / 5 % 4),
        ..Fields::default()
    };
    let image = crafted(&fields, body);
    let image = Image::open(&image).expect("a good superblock");
    let inode = image.inode(Nid::new(NID)).expect("a good inode");
    let Ok(extents) = image.extents(&inode) else {
        return;
    };
    let file = image.file(&inode).expect("a file that was mapped");
    let mut end = 0;
    for extent in &extents {
        assert_eq!(extent.logical, end);
        assert!(extent.length > 0);
        end = extent.end();
    }
    assert_eq!(end, inode.size());
    for extent in extents.iter().take(8) {
        // Reading on gives what reading from there gives.
        let (mut on, mut anew) = ([0; 64], [0; 64]);
        let first = file.read_at(&mut on, extent.logical);
        let again = image.file(&inode).expect("as before");
        let second = { again }.read_at(&mut anew, extent.logical);
        match (first, second) {
            (Ok(first), Ok(second)) => assert_eq!(on[..first], anew[..second]),
            (first, second) => assert_eq!(first.is_err(), second.is_err()),
        }
    }
});
