//! Checks any bytes as an EROFS image.
#![no_main]

use erofs_reader::Image;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let bytes = blockbox_fuzz::repair_erofs(bytes);
    let Ok(image) = Image::open_damaged(&bytes, Vec::new()) else {
        return;
    };
    let report = image.check();
    // An image that is clean reads without an error.
    if report.is_clean() {
        for step in image.walk() {
            let (path, inode) = step.expect("a clean image can be walked");
            assert_eq!(image.symlink_metadata(&path).expect("found").nid(), inode.nid());
            image.xattrs(&inode).expect("xattrs");
            image.extents(&inode).expect("extents");
        }
    }
    let _ = erofs_reader::dump(&image, std::io::sink());
});
