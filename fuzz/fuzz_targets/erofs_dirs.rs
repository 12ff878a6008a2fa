//! Any bytes as a directory.
#![no_main]

use blockbox_fuzz::{Fields, NID, crafted};
use erofs_reader::{Image, Nid};
use libfuzzer_sys::fuzz_target;

/// The crafted inode and what follows it end where a block does.
const PADDING: usize = 4 * 512 - (1024 + 128 + 32 + 64);

fuzz_target!(|bytes: &[u8]| {
    let fields = Fields {
        mode: 0o040_755,
        size: bytes.len() as u64,
        u: 4,
        ..Fields::default()
    };
    let body = [&[0; PADDING], bytes].concat();
    let image = crafted(&fields, &body);
    let image = Image::open(&image).expect("a good superblock");
    let dir = image.inode(Nid::new(NID)).expect("a good inode");
    let entries: Result<Vec<_>, _> = image.read_dir(&dir).expect("a directory").collect();
    let _ = image.child(&dir, b"name");
    if let Ok(entries) = entries {
        assert!(entries.is_sorted_by(|a, b| a.name < b.name));
        assert!(entries.len() <= bytes.len() / 12);
        // Every name that is listed is found.
        for entry in entries {
            let found = image
                .child(&dir, &entry.name)
                .expect("blocks that were read");
            assert_eq!(found.expect("listed").nid, entry.nid);
        }
    }
});
