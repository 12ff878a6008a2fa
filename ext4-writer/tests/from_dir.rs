//! Filesystems of directories of this host.
#![cfg(feature = "dir")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};

use common::{Image, source};
use ext4_writer::{Error, Metadata, Options, from_dir};
use testkit::{Difference, Mount, walk};

fn options() -> Options {
    Options::new(64 << 20).inode_ratio(4096)
}

#[test]
fn directory_copied_into_an_image_is_the_same_under_the_kernel() {
    if !testkit::kernel_mounts() {
        return;
    }
    let source = source();
    let image = Image::new(options(), |image| image.add_dir_all(source.path()).unwrap());
    image.assert_clean();
    let mount = Mount::ext4(&image.path, false);
    let mut found = walk(mount.path()).unwrap();
    found.remove(&b"lost+found"[..]);
    Difference::between(&found, &walk(source.path()).unwrap()).assert_none();
}

#[test]
fn holes_stay_holes() {
    let source = tempfile::tempdir().unwrap();
    let path = |name: &str| source.path().join(name);
    let sparse = File::create(path("sparse")).unwrap();
    sparse.set_len(100 << 20).unwrap();
    sparse.write_all_at(b"in the midst", 50 << 20).unwrap();
    sparse.write_all_at(b"end", (100 << 20) - 3).unwrap();
    let hole = File::create(path("hole")).unwrap();
    hole.set_len(70 << 20).unwrap();
    if fs::metadata(path("hole")).unwrap().blocks() > 0 {
        testkit::skip("the temporary folder's filesystem has no holes");
        return;
    }
    // Larger than the filesystem, but for the holes.
    let image = Image::new(Options::new(16 << 20), |image| {
        image.add_dir_all(source.path()).unwrap();
    });
    image.assert_clean();
    if testkit::kernel_mounts() {
        let mount = Mount::ext4(&image.path, false);
        let stat = fs::metadata(mount.path().join("sparse")).unwrap();
        assert!(stat.blocks() <= 32, "{}", stat.blocks());
        let stat = fs::metadata(mount.path().join("hole")).unwrap();
        assert_eq!(stat.blocks(), 0);
        let mut found = walk(mount.path()).unwrap();
        found.remove(&b"lost+found"[..]);
        Difference::between(&found, &walk(source.path()).unwrap()).assert_none();
    }
}

#[test]
fn the_same_directory_gives_the_same_bytes() {
    let source = source();
    let make = || {
        let out = std::io::Cursor::new(Vec::new());
        from_dir(out, options(), source.path())
            .unwrap()
            .0
            .into_inner()
    };
    assert!(make() == make());
}

#[test]
fn errors_name_the_file_that_cannot_be_read() {
    let missing = "/nonexistent/folder";
    let out = std::io::Cursor::new(Vec::new());
    match from_dir(out, options(), missing) {
        Err(Error::Host { path, .. }) => assert_eq!(path.to_str(), Some(missing)),
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_root_has_the_directorys_attributes() {
    let source = tempfile::tempdir().unwrap();
    let image = Image::new(options(), |image| {
        image
            .set_metadata(image.root(), Metadata::new(0o700))
            .unwrap();
        image.add_dir_all(source.path()).unwrap();
    });
    if testkit::kernel_mounts() {
        let mount = Mount::ext4(&image.path, false);
        let (ours, theirs) = (
            fs::metadata(mount.path()).unwrap(),
            fs::metadata(source.path()).unwrap(),
        );
        assert_eq!(ours.mode(), theirs.mode());
        assert_eq!(ours.mtime(), theirs.mtime());
    }
}
