//! Opens any bytes as an EROFS image and reads everything in it: names, attributes, xattrs,
//! contents.
#![no_main]

use erofs_reader::Image;
use erofs_reader::extract::{TarOptions, extract_to_tar};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let bytes = blockbox_fuzz::repair_erofs(bytes);
    let Ok(image) = Image::open(&bytes) else {
        return;
    };
    let mut names = 0_usize;
    for step in image.walk() {
        // Each entry takes 13 bytes at least, and directories of together the image's size are
        // walked.
        names += 1;
        assert!(names <= bytes.len().max(16));
        let Ok((path, inode)) = step else {
            continue;
        };
        // In a damaged directory it may find another inode than the walk.
        let _ = image.lookup(&path);
        let _ = image.resolve(&path);
        let _ = image.xattrs(&inode);
        let _ = image.read_link(&inode);
        if let Ok(extents) = image.extents(&inode) {
            let mut end = 0;
            for extent in &extents {
                assert_eq!(extent.logical, end);
                assert!(extent.length > 0);
                end = extent.end();
            }
            assert_eq!(end, if extents.is_empty() { 0 } else { inode.size() });
        }
    }
    let options = TarOptions::default().max_bytes(1 << 20);
    let _ = extract_to_tar(&image, std::io::sink(), &options);
});
