//! Merges layers of every kind into one self-contained image.

use std::fs;
use std::io::Write;
use std::path::Path;

use serde_json::Value;
use testkit::{Difference, Mount, TarBuilder, Walk, kernel_mounts, walk};

use crate::{Lab, noise};

/// Each name in three layers that replace, remove and link. None has implied directories, which
/// overlayfs does not support.
fn layers() -> [Vec<u8>; 3] {
    let base = TarBuilder::new()
        .dir("./")
        .dir("etc")
        .file("etc/hosts", "127.0.0.1 localhost\n")
        .file("etc/gone", "soon")
        .dir("old")
        .file("old/child", "child")
        .mode(0o755)
        .owner(1000, 70_000)
        .xattr("user.origin", "base")
        .file("program", noise(100_000))
        .file("replaced", noise(300_000))
        .link("alias", "program")
        .mode(0o777)
        .symlink("link", "etc/hosts");
    let middle = TarBuilder::new()
        .mtime(1_650_000_000)
        .dir("./")
        .dir("etc")
        .file("etc/.wh.gone", "")
        .file("etc/new", "127.0.0.1 localhost\n")
        .dir("old")
        .file("old/.wh..wh..opq", "")
        .file("old/other", "other")
        .file("replaced", "small");
    let top = TarBuilder::new()
        .mtime(1_660_000_000)
        .dir("./")
        .file("top", noise(70_000))
        .device("null", b'3', 1, 3);
    [base.finish(), middle.finish(), top.finish()]
}

/// Writes each layer in every form.
fn put(lab: &Lab) {
    for (i, tar) in layers().iter().enumerate() {
        lab.put(&format!("{i}.tar"), tar);
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(tar).unwrap();
        lab.put(&format!("{i}.tar.gz"), gzip.finish().unwrap());
        let (tar, image) = (format!("{i}.tar"), format!("{i}.erofs"));
        lab.ok(&["build", "--tar", &tar, "-o", &image]);
    }
}

/// Returns the tree that overlayfs shows of the layer images.
fn overlay(lab: &Lab) -> Walk {
    let mounts = [0, 1, 2].map(|i| Mount::erofs(&lab.path(&format!("{i}.erofs")), &[]));
    let points: Vec<&Path> = mounts.iter().map(Mount::path).collect();
    walk(Mount::overlay(&points, "").path()).unwrap()
}

fn full(lab: &Lab, output: &str, layers: &[&str], options: &[&str]) -> Value {
    let arguments = ["merge", "--full", "-o", output, "--format", "json"];
    let report = lab.ok(&[&arguments[..], layers, options].concat());
    lab.check(output, &[]);
    serde_json::from_str(&report).unwrap()
}

#[test]
fn layers_of_any_kind_become_the_image_that_overlayfs_shows() {
    let lab = Lab::new();
    put(&lab);
    full(&lab, "images", &["0.erofs", "1.erofs", "2.erofs"], &[]);
    full(&lab, "tars", &["0.tar", "1.tar.gz", "2.tar"], &[]);
    // The same contents for each file, in the same order.
    assert!(
        fs::read(lab.path("images")).unwrap().len() == fs::read(lab.path("tars")).unwrap().len()
    );
    lab.ok(&["merge", "0.erofs", "1.erofs", "2.erofs", "-o", "fsmeta"]);
    if !kernel_mounts() {
        return;
    }
    let expected = overlay(&lab);
    assert_eq!(expected.len(), 12);
    let shown = |image: &str| lab.shown(image, &[]);
    Difference::between(&shown("images"), &expected).assert_none();
    Difference::between(&shown("tars"), &expected).assert_none();
    let merged = lab.shown("fsmeta", &["0.erofs", "1.erofs", "2.erofs"]);
    Difference::between(&merged, &expected).assert_none();

    let top = Mount::erofs(&lab.path("2.erofs"), &[]);
    let folder = top.path().to_str().unwrap();
    full(&lab, "mixed", &["0.tar.gz", "1.erofs", folder], &[]);
    Difference::between(&shown("mixed"), &expected).assert_none();

    let mkfs = |tar: &str, image: &str, options: &[&str]| {
        lab.mkfs(&[&["--aufs", "--tar=f"], options, &[image, tar]].concat())
    };
    if mkfs("0.tar", "0.mkfs", &["-zzstd", "-Efragments", "-C65536"])
        && mkfs("1.tar", "1.mkfs", &["-zlz4hc", "-Eztailpacking"])
        && mkfs("2.tar", "2.mkfs", &[])
    {
        full(&lab, "mkfs", &["0.mkfs", "1.mkfs", "2.mkfs"], &[]);
        Difference::between(&shown("mkfs"), &expected).assert_none();
    }
}

#[test]
fn links_to_lower_layers_and_implied_directories_are_as_in_merged_metadata() {
    let lab = Lab::new();
    let base = TarBuilder::new()
        .dir("./")
        .mode(0o750)
        .owner(1000, 70_000)
        .dir("etc")
        .dir("usr/lib")
        .file("etc/hosts", "127.0.0.1 localhost\n")
        .mode(0o777)
        .symlink("lib", "usr/lib");
    // There is no entry for `etc`, which stays unchanged; a name below a lower symbolic link; a
    // link to a file that only the base has, whose first name is removed.
    let top = TarBuilder::new()
        .file("etc/new", noise(5000))
        .file("lib/library", noise(6000))
        .link("usr/hosts", "etc/hosts")
        .file("etc/.wh.hosts", "");
    lab.put("base.tar", base.finish());
    lab.put("top.tar", top.finish());
    for layer in ["base", "top"] {
        let (tar, image) = (format!("{layer}.tar"), format!("{layer}.erofs"));
        lab.ok(&["build", "--tar", &tar, "-o", &image]);
    }
    full(&lab, "tars", &["base.tar", "top.tar"], &[]);
    full(&lab, "images", &["base.erofs", "top.erofs"], &[]);
    lab.ok(&["merge", "base.erofs", "top.erofs", "-o", "fsmeta"]);
    assert_eq!(
        lab.ok(&["cat", "tars", "usr/hosts"]),
        "127.0.0.1 localhost\n"
    );
    assert_eq!(lab.ok(&["ls", "images", "usr/lib"]), "library\n");
    if kernel_mounts() {
        let expected = lab.shown("fsmeta", &["base.erofs", "top.erofs"]);
        assert_eq!(expected[&b"etc"[..]].mode, 0o750);
        for image in ["tars", "images"] {
            Difference::between(&lab.shown(image, &[]), &expected).assert_none();
        }
    }
    let error = lab.fails(&["merge", "--full", "top.tar", "-o", "none"]);
    assert!(error.contains("etc/hosts"), "{error}");
}

#[test]
fn only_visible_contents_are_copied_and_equal_ones_once() {
    let lab = Lab::new();
    put(&lab);
    for layers in [["0.erofs", "1.erofs"], ["0.tar", "1.tar"]] {
        let report = full(&lab, "image", &layers, &[]);
        // Without the 300,000 bytes that the upper layer replaces.
        assert!(report["bytes"].as_u64().unwrap() < 110_000, "{report}");
        // `etc/new` equals `etc/hosts` of the layer below.
        assert_eq!(report["deduplicated_bytes"], 20, "{report}");
    }
    let options = ["--provenance", "from"];
    full(&lab, "image", &["0.tar", "1.erofs", "2.tar.gz"], &options);
    let from = fs::read_to_string(lab.path("from")).unwrap();
    for line in ["0\t0\t/program", "1\t1\t/replaced", "2\t2\t/top"] {
        assert!(from.lines().any(|found| found == line), "{from}");
    }
}

#[test]
fn a_full_merge_supports_the_options_of_an_image_and_a_metadata_merge_does_not() {
    let lab = Lab::new();
    put(&lab);
    let layers = ["0.tar", "1.tar", "2.tar"];
    let large = [
        "--block-size",
        "4096",
        "--compress",
        "zstd,9",
        "--features",
        "fragments",
    ];
    let options = ["--label", "whole", "--mtime", "1600000000"];
    full(&lab, "large", &layers, &[&large[..], &options].concat());
    full(&lab, "small", &layers, &options);
    assert!(lab.ok(&["dump", "large"]).contains("whole"));
    let arguments = ["merge", "0.erofs", "1.erofs", "-o", "merged"];
    let error = lab.fails(&[&arguments[..], &large].concat());
    assert!(error.contains("--full"), "{error}");
    let error = lab.fails(&[&arguments[..], &["--full", "--vmdk", "x"]].concat());
    assert!(error.contains("--vmdk"), "{error}");
    if kernel_mounts() {
        let (large, small) = (lab.shown("large", &[]), lab.shown("small", &[]));
        Difference::between(&large, &small).assert_none();
        assert!(
            large
                .values()
                .all(|entry| entry.mtime == (1_600_000_000, 0))
        );
    }
}

#[test]
fn a_layer_that_cannot_be_read_leaves_no_image() {
    let lab = Lab::new();
    put(&lab);
    let tar = fs::read(lab.path("0.tar")).unwrap();
    lab.put("cut.tar", &tar[..tar.len() / 2]);
    let mut image = fs::read(lab.path("0.erofs")).unwrap();
    image[1100] ^= 1;
    lab.put("damaged.erofs", image);
    for (layer, expected) in [
        ("cut.tar", "cut off"),
        ("damaged.erofs", "checksum"),
        ("missing", "No such file"),
    ] {
        let error = lab.fails(&["merge", "--full", "0.tar", layer, "-o", "image"]);
        assert!(error.contains(layer) && error.contains(expected), "{error}");
        assert!(!lab.path("image").exists());
    }
}
