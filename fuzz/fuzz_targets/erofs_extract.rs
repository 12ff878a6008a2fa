//! Extracts any bytes, as an EROFS image: into a directory, outside of which nothing may change,
//! and twice as a tar.
#![no_main]

use erofs_reader::Image;
use erofs_reader::extract::{DirOptions, TarOptions, extract_to_dir, extract_to_tar};
use libfuzzer_sys::fuzz_target;

const MAX_BYTES: Option<u64> = Some(1 << 20);

fuzz_target!(|bytes: &[u8]| {
    let bytes = blockbox_fuzz::repair_erofs(bytes);
    let Ok(image) = Image::open(&bytes) else {
        return;
    };
    let tar = TarOptions::default().max_bytes(MAX_BYTES);
    let (mut one, mut two) = (Vec::new(), Vec::new());
    let first = extract_to_tar(&image, &mut one, &tar);
    let second = extract_to_tar(&image, &mut two, &tar);
    assert_eq!(first.is_ok(), second.is_ok());
    assert!(one == two, "an extraction is deterministic");

    let folder = tempfile::tempdir().expect("a temporary directory");
    let tree = folder.path().join("tree");
    std::fs::create_dir(&tree).expect("an empty directory");
    let options = DirOptions::unprivileged().max_bytes(MAX_BYTES);
    let _ = extract_to_dir(&image, &tree, &options);
    let beside = folder.path().read_dir().expect("still there").count();
    assert_eq!(beside, 1);
});
