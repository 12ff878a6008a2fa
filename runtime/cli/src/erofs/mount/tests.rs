//! Tests that compare a FUSE mount with the kernel's own.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::{Path, PathBuf};
use std::thread;

use erofs_reader::Nid;
use fuser::INodeNo;
use testkit::{TarBuilder, Walk, walk};

use super::config;
use super::tree::Tree;
use crate::erofs::source::Source;

fn image(options: &[&str], dir: &Path) -> Option<PathBuf> {
    let mut mkfs = testkit::oracle("mkfs.erofs")?;
    let tar = TarBuilder::new()
        .dir("./")
        .xattr("user.root", "of the root")
        .file("a", vec![b'a'; 3_000_000])
        .xattr("user.one", "1")
        .xattr("trusted.two", vec![2; 3000])
        .link("b", "a")
        .file("empty", "")
        .symlink("link", "a")
        .device("null", b'3', 1, 3)
        .device("disk", b'4', 259, 70_000)
        .finish();
    let tree = dir.join("tree.tar");
    std::fs::write(&tree, tar).unwrap();
    let path = dir.join("image.erofs");
    let status = mkfs
        .args(["--quiet", "--tar=f"])
        .args(options)
        .args([&path, &tree])
        .status();
    assert!(status.unwrap().success());
    Some(path)
}

/// Walks the tree of `image` mounted with [`Mount`].
fn through_fuse(image: &Path) -> Walk {
    let point = tempfile::tempdir().unwrap();
    let tree = Tree::new(Source::of(image).open().unwrap()).unwrap();
    let session = fuser::spawn_mount(tree, point.path(), &config(image)).unwrap();
    let found = walk(point.path()).unwrap();
    let root = std::fs::symlink_metadata(point.path()).unwrap();
    let many = many_threads_read(point.path());
    session.umount_and_join().unwrap();
    assert!(many.windows(2).all(|pair| pair[0] == pair[1]));
    let opened = Source::of(image).open().unwrap();
    let nid = opened.root().unwrap().nid();
    assert_eq!(std::os::unix::fs::MetadataExt::ino(&root), nid.get());
    found
}

/// Reads the middle of a file in several threads at once.
fn many_threads_read(root: &Path) -> Vec<(u64, u64)> {
    let threads: Vec<_> = (0..4)
        .map(|_| {
            let path = root.join("a");
            thread::spawn(move || testkit::digest(&mut std::fs::File::open(path).unwrap()).unwrap())
        })
        .collect();
    threads
        .into_iter()
        .map(|thread| thread.join().unwrap())
        .collect()
}

#[test]
fn a_fuse_mount_shows_what_the_kernels_mount_shows() {
    if !Path::new("/dev/fuse").exists() || !rustix::process::geteuid().is_root() {
        return testkit::skip("/dev/fuse, as root");
    }
    if !testkit::kernel_mounts() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    for options in [
        &["-b4096"][..],
        &["-zlz4", "-C65536"],
        &["-E48bit,dot-omitted"],
    ] {
        let Some(image) = image(options, dir.path()) else {
            return;
        };
        let ours = through_fuse(&image);
        let mount = testkit::Mount::erofs(&image, &[]);
        let theirs = walk(mount.path()).unwrap();
        testkit::Difference::between(&ours, &theirs).assert_none();
    }
}

#[test]
fn a_damaged_inode_is_listed_and_its_attributes_are_an_error() {
    if !Path::new("/dev/fuse").exists() || !rustix::process::geteuid().is_root() {
        return testkit::skip("/dev/fuse, as root");
    }
    let dir = tempfile::tempdir().unwrap();
    let Some(image) = image(&["-b4096"], dir.path()) else {
        return;
    };
    let inode = Source::of(&image)
        .open()
        .unwrap()
        .metadata("empty")
        .unwrap();
    let mut bytes = std::fs::read(&image).unwrap();
    // Bits of `i_format` that no kernel knows.
    bytes[usize::try_from(inode.position()).unwrap() + 1] = 0xff;
    // Clears `EROFS_FEATURE_COMPAT_SB_CHKSUM`: the inode is in the first block, which needs no
    // checksum then.
    bytes[1024 + 8] &= !1;
    std::fs::write(&image, bytes).unwrap();
    let point = tempfile::tempdir().unwrap();
    let tree = Tree::new(Source::of(&image).open().unwrap()).unwrap();
    let session = fuser::spawn_mount(tree, point.path(), &config(&image)).unwrap();
    let names: Vec<_> = std::fs::read_dir(point.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    let damaged = point.path().join("empty").symlink_metadata();
    let whole = point.path().join("a").symlink_metadata();
    session.umount_and_join().unwrap();
    assert!(names.contains(&"empty".into()), "{names:?}");
    assert!(damaged.is_err(), "{damaged:?}");
    assert_eq!(whole.unwrap().len(), 3_000_000);
}

#[test]
fn every_nid_has_a_number_of_its_own_and_the_roots_is_1() {
    let dir = tempfile::tempdir().unwrap();
    let Some(image) = image(&[], dir.path()) else {
        return;
    };
    let mut tree = Tree::new(Source::of(&image).open().unwrap()).unwrap();
    for root in [0, 1, 36] {
        tree.root = Nid::new(root);
        let mut nodes = std::collections::HashSet::new();
        for nid in [0, 1, 2, 36, 1 << 63, u64::MAX - 1] {
            let node = tree.node(Nid::new(nid));
            assert!(node.0 != 0 && nodes.insert(node.0));
            assert_eq!(node == INodeNo::ROOT, nid == root);
            assert_eq!(tree.nid(node).get(), nid);
        }
    }
}
