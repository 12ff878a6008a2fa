//! Makes an image again, with other options.

use testkit::{Difference, TarBuilder, kernel_mounts};

use crate::{Lab, noise};

fn layer() -> Vec<u8> {
    TarBuilder::new()
        .dir("./")
        .dir("d")
        .file("d/.wh..wh..opq", "")
        .file("d/.wh.gone", "")
        .file("implied/file", "all work and no play\n".repeat(9000))
        .xattr("trusted.overlay.opaque", "y")
        .xattr(
            "security.capability",
            "\x01\0\0\x02\x01\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
        )
        .file("noise", noise(70_000))
        .link("again", "noise")
        .file("empty", "")
        .symlink("link", "noise")
        .device("null", b'3', 1, 3)
        .pax("GNU.sparse.size", "3000000")
        .pax("GNU.sparse.map", "4096,512,2097152,0")
        .pax("GNU.sparse.name", "sparse")
        .file("GNUSparseFile.1/sparse", noise(512))
        .finish()
}

#[test]
fn a_layer_image_survives_a_rebuild_with_other_options_and_back() {
    let lab = Lab::new();
    lab.put("tar", layer());
    lab.ok(&["build", "--tar", "tar", "-o", "layer", "--label", "name"]);
    let again = |from: &str, to: &str, options: &[&str]| {
        lab.ok(&[&["build", "--image", from, "-o", to], options].concat());
        lab.check(to, &[]);
    };
    let large = ["--block-size", "4096", "--features", "inline-tails"];
    let packed = ["--compress", "lzma", "--features", "fragments"];
    again("layer", "large", &large);
    again("large", "packed", &packed);
    again("packed", "layer2", &[]);
    again("layer2", "layer3", &[]);
    // A rebuilt image depends on the tree, not on the layout of the source.
    let read = |name: &str| std::fs::read(lab.path(name)).unwrap();
    assert!(read("layer2") == read("layer3"));
    assert!(lab.ok(&["dump", "layer3"]).contains("name"));
    lab.ok(&["merge", "layer3", "-o", "fsmeta"]);
    if kernel_mounts() {
        let expected = lab.shown("layer", &[]);
        for image in ["large", "packed", "layer2"] {
            Difference::between(&lab.shown(image, &[]), &expected).assert_none();
        }
    }
}

#[test]
fn an_image_of_mkfs_and_an_index_become_self_contained_images() {
    let lab = Lab::new();
    lab.put("tar", layer());
    lab.ok(&["build", "--tar", "tar", "-o", "layer"]);
    lab.ok(&["build", "--tar", "tar", "--tar-index", "-o", "index"]);
    let device = ["--device", "tar"];
    lab.ok(&[&["build", "--image", "index", "-o", "copy"], &device[..]].concat());
    lab.check("copy", &[]);
    let mkfs = [
        "-zzstd",
        "-Efragments,dedupe",
        "-C65536",
        "--aufs",
        "--tar=f",
    ];
    let made = lab.mkfs(&[&mkfs[..], &["theirs", "tar"]].concat());
    if made {
        lab.ok(&["build", "--image", "theirs", "-o", "ours"]);
        lab.check("ours", &[]);
    }
    let error = lab.fails(&["build", "--image", "tar", "-o", "none"]);
    assert!(error.contains("tar"), "{error}");
    if kernel_mounts() {
        let found = lab.shown("copy", &[]);
        Difference::between(&found, &lab.shown("layer", &[])).assert_none();
        if made {
            let found = lab.shown("ours", &[]);
            Difference::between(&found, &lab.shown("theirs", &[])).assert_none();
        }
    }
}
