//! `blockbox ext4` with real trees: the kernel's mount of the image equals the input.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use common::Blockbox;
use testkit::{Difference, Kind, Mount, TarBuilder, Walk, kernel_mounts, oracle, walk};

fn text(dir: &Path, name: &str) -> String {
    dir.join(name).display().to_string()
}

fn assert_clean(image: &str) {
    let Some(mut e2fsck) = oracle("e2fsck") else {
        return;
    };
    let output = e2fsck.args(["-fn", image]).output().unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stdout)
    );
}

fn walk_image(image: &str) -> Walk {
    let mount = Mount::ext4(Path::new(image), false);
    let mut walk = walk(mount.path()).unwrap();
    walk.remove(&b"lost+found"[..]);
    walk
}

#[test]
fn a_stack_of_layers_becomes_the_tree_of_a_container() {
    let blockbox = Blockbox::new();
    let dir = tempfile::tempdir().unwrap();
    let lower = TarBuilder::new()
        .dir("etc")
        .file("etc/kept", b"kept")
        .file("etc/gone", b"gone")
        .file("replaced", b"old")
        .dir("opaque")
        .file("opaque/old", b"old")
        .finish();
    let upper = TarBuilder::new()
        .file("etc/.wh.gone", b"")
        .file("replaced", b"new, and longer")
        .link("etc/also", "etc/kept")
        .dir("opaque")
        .file("opaque/.wh..wh..opq", b"")
        .file("opaque/new", b"new")
        .finish();
    for (name, tar) in [("lower.tar", &lower), ("upper.tar", &upper)] {
        fs::write(dir.path().join(name), tar).unwrap();
    }
    let path = |name: &str| text(dir.path(), name);
    for name in ["lower", "upper"] {
        let (tar, image) = (path(&format!("{name}.tar")), path(&format!("{name}.erofs")));
        blockbox.ok(["erofs", "build", "--tar", &tar, "-o", &image]);
    }
    blockbox.ok([
        "erofs",
        "merge",
        &path("lower.erofs"),
        &path("upper.erofs"),
        "-o",
        &path("fsmeta.erofs"),
        "--vmdk",
        &path("disk.vmdk"),
    ]);
    let stacks: [&[&str]; 3] = [
        &["lower.tar", "upper.tar"],
        &["lower.erofs", "upper.tar"],
        &["disk.vmdk"],
    ];
    for (number, stack) in stacks.into_iter().enumerate() {
        let image = path(&format!("{number}.ext4"));
        let layers = stack
            .iter()
            .flat_map(|name| ["--layer".to_owned(), path(name)]);
        let arguments = ["ext4", "create", "--size", "32M", "-o", &image];
        blockbox.ok(arguments.into_iter().map(str::to_owned).chain(layers));
        assert_clean(&image);
        if !kernel_mounts() {
            continue;
        }
        let found = walk_image(&image);
        let names: Vec<_> = found
            .keys()
            .map(|name| name.escape_ascii().to_string())
            .collect();
        let expected = [
            "",
            "etc",
            "etc/also",
            "etc/kept",
            "opaque",
            "opaque/new",
            "replaced",
        ];
        assert_eq!(names, expected, "{stack:?}");
        let replaced = &found[&b"replaced"[..]].kind;
        assert!(matches!(replaced, Kind::File { size: 15, .. }));
        assert_eq!(
            found[&b"etc/kept"[..]].first_name,
            Some(b"etc/also".to_vec())
        );
    }
}

#[test]
fn a_folder_keeps_holes_and_names_like_whiteouts() {
    if !kernel_mounts() {
        return;
    }
    let blockbox = Blockbox::new();
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("folder");
    fs::create_dir(&folder).unwrap();
    let sparse = File::create(folder.join("sparse")).unwrap();
    sparse.set_len(200 << 20).unwrap();
    sparse.write_all_at(b"data", 100 << 20).unwrap();
    fs::write(folder.join(".wh.name"), "no mark").unwrap();
    let image = text(dir.path(), "image.ext4");
    let folder_name = text(dir.path(), "folder");
    blockbox.ok([
        "ext4",
        "create",
        "--size",
        "16M",
        "--dir",
        &folder_name,
        "-o",
        &image,
    ]);
    assert_clean(&image);
    Difference::between(&walk_image(&image), &walk(&folder).unwrap()).assert_none();
    let mount = Mount::ext4(Path::new(&image), false);
    assert!(fs::metadata(mount.path().join("sparse")).unwrap().blocks() <= 8);
}

#[test]
fn options_are_those_of_the_library_and_wrong_ones_are_explained() {
    let blockbox = Blockbox::new();
    let dir = tempfile::tempdir().unwrap();
    let image = text(dir.path(), "image.ext4");
    blockbox.ok([
        "ext4",
        "create",
        "--size",
        "64M",
        "--block-size",
        "1024",
        "--label",
        "named",
        "--uuid",
        "01234567-89ab-cdef-0123-456789abcdef",
        "--journal",
        "4M",
        "--inode-ratio",
        "4096",
        "--reserved",
        "5",
        "-O",
        "inline_data,ea_inode,^orphan_file,meta_bg,quota,project",
        "-o",
        &image,
    ]);
    assert_clean(&image);
    let info = blockbox.ok(["ext4", "info", &image, "--format", "json"]);
    let info: serde_json::Value = serde_json::from_str(&info).unwrap();
    assert_eq!(info["uuid"], "01234567-89ab-cdef-0123-456789abcdef");
    assert_eq!(info["label"], "named");
    assert_eq!(
        (&info["block_size"], &info["inodes"]),
        (&1024.into(), &16384.into())
    );
    let features = info["features"].as_array().unwrap();
    for (name, there) in [
        ("inline_data", true),
        ("ea_inode", true),
        ("meta_bg", true),
        ("quota", true),
        ("project", true),
        ("orphan_file", false),
        ("resize_inode", false),
    ] {
        assert_eq!(features.contains(&name.into()), there, "{name}");
    }
    for (arguments, hint) in [
        (["-O", "bigalloc"], "ea_inode"),
        (["--block-size", "512"], "1024"),
        (["--uuid", "12"], "32 hexadecimal"),
    ] {
        let all = ["ext4", "create", "--size", "16M", "-o", &image];
        let output = blockbox.output(all.into_iter().chain(arguments));
        assert!(!output.status.success());
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.contains(hint), "{said}");
    }
}
