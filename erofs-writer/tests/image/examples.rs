//! The examples do what they say.

use std::path::{Path, PathBuf};
use std::process::Command;

use testkit::{Difference, Mount, TarBuilder, kernel_mounts, skip, walk};

use crate::model::{acl, fsck, noise};

/// Where `cargo test` puts examples, unless it builds another target only.
fn examples() -> Option<PathBuf> {
    let tests = std::env::current_exe().unwrap();
    let folder = tests.parent()?.parent()?.join("examples");
    let built = folder.join("from_tar").exists();
    if !built {
        skip("the examples are not built");
    }
    built.then_some(folder)
}

fn run(example: &str, args: &[&Path]) {
    let mut command = Command::new(examples().unwrap().join(example));
    let output = command.args(args).output().unwrap();
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn a_tar_a_directory_and_an_index_over_the_tar_show_the_same() {
    if examples().is_none() {
        return;
    }
    let tar = TarBuilder::new()
        .owner(1000, 70_000)
        .dir("usr")
        .xattr("user.a", "value")
        .file("usr/file", noise(5000))
        .file("usr/small", "x")
        .file("usr/empty", "")
        .xattr("system.posix_acl_access", acl())
        .file("usr/same", noise(5000))
        .symlink("link", "usr/file")
        .link("hard", "usr/file")
        .device("null", b'3', 1, 3)
        .finish();
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    std::fs::write(path("tar"), &tar).unwrap();
    run("from_tar", &[&path("tar"), &path("image")]);
    run(
        "from_tar",
        &[Path::new("--index"), &path("tar"), &path("index")],
    );
    fsck(&path("image"), &[]);
    fsck(&path("index"), &[&path("tar")]);
    let index = std::fs::read(path("index")).unwrap();
    assert!(index.len() < 4096);
    std::fs::write(path("stitched"), [index, tar].concat()).unwrap();
    if !kernel_mounts() {
        return;
    }
    let image = Mount::erofs(&path("image"), &[]);
    let expected = walk(image.path()).unwrap();
    assert_eq!(expected.len(), 9);
    let found = walk(Mount::erofs(&path("index"), &[&path("tar")]).path()).unwrap();
    Difference::between(&found, &expected).assert_none();
    let found = walk(Mount::erofs(&path("stitched"), &[]).path()).unwrap();
    Difference::between(&found, &expected).assert_none();

    run("from_directory", &[image.path(), &path("copy")]);
    let mut without_xattrs = expected;
    for entry in without_xattrs.values_mut() {
        entry.xattrs.clear();
    }
    let found = walk(Mount::erofs(&path("copy"), &[]).path()).unwrap();
    Difference::between(&found, &without_xattrs).assert_none();

    run(
        "over_images",
        &[&path("merged"), &path("image"), &path("copy")],
    );
    let merged = Mount::erofs(&path("merged"), &[&path("image"), &path("copy")]);
    Difference::between(&walk(merged.path()).unwrap(), &found).assert_none();
}

#[test]
fn an_image_is_made_in_memory() {
    if examples().is_none() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("image");
    run("in_memory", &[&out]);
    fsck(&out, &[]);
    let image = erofs_reader::Image::open(std::fs::read(out).unwrap()).unwrap();
    assert_eq!(image.walk().count(), 4);
}

#[test]
fn rebuilt_image_shows_the_same_tree_with_any_compression() {
    if examples().is_none() {
        return;
    }
    let text = "all work and no play\n".repeat(3000);
    let tar = TarBuilder::new()
        .owner(1000, 70_000)
        .dir("usr")
        .xattr("user.a", "value")
        .file("usr/text", text)
        .file("usr/noise", noise(5000))
        .file("usr/small", "x")
        .file("usr/empty", "")
        .symlink("link", "usr/text")
        .link("hard", "usr/text")
        .device("null", b'3', 1, 3)
        .finish();
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    std::fs::write(path("tar"), &tar).unwrap();
    run("from_tar", &[&path("tar"), &path("first")]);
    let mut from = path("first");
    for algorithm in ["lz4", "zstd", "deflate", "lzma"] {
        let to = path(algorithm);
        run("rebuild", &[&from, &to, Path::new(algorithm)]);
        fsck(&to, &[]);
        assert!(to.metadata().unwrap().len() < path("first").metadata().unwrap().len() / 2);
        if kernel_mounts() {
            let expected = walk(Mount::erofs(&path("first"), &[]).path()).unwrap();
            let found = walk(Mount::erofs(&to, &[]).path()).unwrap();
            Difference::between(&found, &expected).assert_none();
        }
        from = to;
    }
    run("rebuild", &[&from, &path("plain")]);
    let image = erofs_reader::Image::open(std::fs::read(path("plain")).unwrap()).unwrap();
    assert_eq!(image.check().findings, []);
}

#[test]
fn a_directory_is_compressed_with_the_algorithm_that_is_named() {
    if examples().is_none() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (source, image) = (dir.path().join("source"), dir.path().join("image"));
    std::fs::create_dir(&source).unwrap();
    std::fs::write(source.join("zeros"), vec![0; 200_000]).unwrap();
    std::fs::write(source.join("noise"), noise(10_000)).unwrap();
    for algorithm in ["lz4", "zstd", "deflate", "lzma"] {
        run("from_directory", &[&source, &image, Path::new(algorithm)]);
        assert!(image.metadata().unwrap().len() < 50_000);
        fsck(&image, &[]);
        if kernel_mounts() {
            let mount = Mount::erofs(&image, &[]);
            Difference::between(&walk(mount.path()).unwrap(), &walk(&source).unwrap())
                .assert_none();
        }
    }
}
