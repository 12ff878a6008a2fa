//! Whole images: with any number of layers, with sparse files, and the demo image.

use std::fs::File;
use std::path::PathBuf;

use crate::common::Blockbox;
use crate::common::layout::{Compression, Layout};
use crate::views::{
    as_containers_storage, compare_but, forget_mtimes, kernel_walk, overlay_walk, skopeo_walk,
    text, umoci_walk,
};
use testkit::{Difference, Kind, Mount, TarBuilder, kernel_mounts, oracle};

#[test]
fn many_layers_and_an_empty_one_and_one_that_occurs_twice() {
    if !kernel_mounts() {
        return;
    }
    let mut tars = vec![TarBuilder::new().dir("./").dir("etc").finish()];
    for i in 0..39 {
        let contents = "x".repeat(i * 700);
        tars.push(
            TarBuilder::new()
                .file(format!("etc/f{i}"), contents)
                .file("etc/last", format!("{i}"))
                .finish(),
        );
    }
    tars.push(TarBuilder::new().finish());
    tars.push(tars[3].clone());
    let walk = compare_but(&tars, &[], false, Some(&["etc"]));
    assert_eq!(walk.len(), 2 + 39 + 1);
}

#[test]
fn images_of_0_1_2_127_128_and_500_layers_arrive_whole() {
    if !kernel_mounts() {
        return;
    }
    for count in [0, 1, 2, 127, 128, 500] {
        let layers = (0..count).map(|i| {
            let name = format!("f{i}");
            let number = i.to_string();
            TarBuilder::new().file(name, &number).file("last", &number)
        });
        let layout = layers
            .fold(Layout::new(), |layout, tar| {
                layout.layer(&tar.finish(), Compression::Gzip)
            })
            .finish();
        let blockbox = Blockbox::new();
        blockbox.ok(["pull", "-q", &layout.reference()]);
        let walk = kernel_walk(&blockbox, &layout.reference());
        let expected = |number: usize| {
            let digest = testkit::digest(&mut number.to_string().as_bytes()).unwrap();
            let (size, digest) = digest;
            Some(Kind::File { size, digest })
        };
        assert_eq!(walk.len(), if count == 0 { 1 } else { count + 2 });
        for number in 0..count {
            assert_eq!(text(&walk, &format!("f{number}")), expected(number));
        }
        assert_eq!(text(&walk, "last"), count.checked_sub(1).and_then(expected));
    }
}

#[test]
fn the_holes_of_a_sparse_file_take_no_space_in_layer_or_disk() {
    if !kernel_mounts() {
        return;
    }
    // GNU tar's sparse format 1.0: the map of data comes first, then the data.
    let (size, at) = (3 << 30, 1 << 30);
    let map = format!("3\n0\n700\n{at}\n5000\n{size}\n0\n");
    let mut stored = map.into_bytes();
    stored.resize(512, 0);
    stored.extend([b'a'; 700]);
    stored.extend([b'b'; 5000]);
    let tar = TarBuilder::new()
        .dir("./")
        .pax("GNU.sparse.major", "1")
        .pax("GNU.sparse.minor", "0")
        .pax("GNU.sparse.name", "sparse")
        .pax("GNU.sparse.realsize", size.to_string())
        .file("GNUSparseFile.0/sparse", stored)
        .finish();
    let layout = Layout::new().layer(&tar, Compression::Gzip).finish();
    let blockbox = Blockbox::new();
    blockbox.ok(["pull", "-q", &layout.reference()]);
    let disks = blockbox.inspect(&layout.reference());
    let on_disk: u64 = disks
        .layers
        .iter()
        .chain([&disks.fsmeta])
        .map(|f| f.metadata().unwrap().len())
        .sum();
    assert!(on_disk < 1 << 20, "{on_disk} bytes");

    let stitched = disks.stitched();
    let mounted = Mount::erofs(stitched.path(), &[]);
    let file = File::open(mounted.path().join("sparse")).unwrap();
    assert_eq!(file.metadata().unwrap().len(), size);
    let read = |offset: u64| {
        let mut bytes = [0; 4];
        std::os::unix::fs::FileExt::read_exact_at(&file, &mut bytes, offset).unwrap();
        bytes
    };
    assert_eq!(read(698), *b"aa\0\0");
    assert_eq!(read(at - 2), *b"\0\0bb");
    assert_eq!(read(at + 4998), *b"bb\0\0");
    assert_eq!(read(size - 4), [0; 4]);
}

/// The image that `cargo xtask demo` makes.
#[test]
fn the_demo_image() {
    if !kernel_mounts() {
        return;
    }
    let layout = std::env::var_os("BLOCKBOX_DEMO_IMAGE")
        .map_or_else(|| testkit::made("demo/image"), PathBuf::from);
    if !layout.join("index.json").exists() {
        return testkit::skip("no demo image: `cargo xtask demo` makes it");
    }
    let blockbox = Blockbox::new();
    let reference = format!("oci:{}:latest", layout.display());
    blockbox.ok(["pull", "-q", &reference]);
    let ours = kernel_walk(&blockbox, &reference);
    // Old versions of umoci do not read zstd; this is the same image with gzip.
    if let Some(theirs) = umoci_walk(&layout.with_file_name("image-gzip")) {
        Difference::between(&ours, &theirs).assert_none();
    }
    if let Some(mut theirs) = skopeo_walk(&layout.with_file_name("image-gzip")) {
        let mut ours = ours.clone();
        forget_mtimes(&mut ours, &[""]);
        as_containers_storage(&mut ours);
        as_containers_storage(&mut theirs);
        Difference::between(&ours, &theirs).assert_none();
    }
    Difference::between(&ours, &overlay_walk(&blockbox, &reference)).assert_none();
    if let Some(mut fsck) = oracle("fsck.erofs") {
        let disks = blockbox.inspect(&reference);
        let stitched = disks.stitched();
        let images = disks
            .layers
            .iter()
            .map(PathBuf::as_path)
            .chain([stitched.path()]);
        for image in images {
            let output = fsck.arg(image).output().unwrap();
            assert!(
                output.status.success(),
                "{}",
                String::from_utf8_lossy(&output.stderr)
            );
            fsck = oracle("fsck.erofs").unwrap();
        }
    }
}
