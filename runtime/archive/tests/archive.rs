//! Packed trees are unpacked unchanged, and no archive changes anything outside of its target.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use blockbox_archive::{Error, PackOptions, Problem, UnpackOptions, pack, unpack};
use blockbox_tar::{Body, Head, Timestamp, Writer};
use rustix::fs::XattrFlags;
use tempfile::TempDir;
use testkit::{Difference, Node, TarBuilder, walk};

/// Makes a tree with every kind of file that an archive holds.
fn source() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    fs::create_dir_all(at("a/b")).unwrap();
    fs::write(at("a/file"), "contents").unwrap();
    fs::hard_link(at("a/file"), at("a/b/again")).unwrap();
    fs::write(at("setuid"), "#!").unwrap();
    fs::set_permissions(at("setuid"), fs::Permissions::from_mode(0o4755)).unwrap();
    symlink("a/file", at("link")).unwrap();
    symlink("/nowhere", at("dangling")).unwrap();
    fs::write(
        folder.path().join(std::ffi::OsStr::from_bytes(b"\xff\n")),
        "",
    )
    .unwrap();
    fs::write(at(".wh.not a whiteout"), "x").unwrap();
    let sparse = fs::File::create(at("sparse")).unwrap();
    sparse.write_all_at(&[7; 5000], 1 << 20).unwrap();
    sparse.set_len(5 << 20).unwrap();
    Node::Fifo.make(at("fifo"), 0o622).unwrap();
    rustix::fs::setxattr(at("a"), "user.a", b"\0value", XattrFlags::empty()).unwrap();
    fs::set_permissions(at("a/b"), fs::Permissions::from_mode(0o1500)).unwrap();
    folder
}

fn packed(path: &Path, options: &PackOptions) -> Vec<u8> {
    let mut bytes = Vec::new();
    pack(path, options, &mut bytes).unwrap();
    bytes
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

#[test]
fn a_tree_is_packed_and_unpacked_unchanged() {
    if !is_root() {
        return testkit::skip("owners need root");
    }
    let source = source();
    let device = Node::CharDevice(1, 3);
    device.make(source.path().join("device"), 0o640).unwrap();
    std::os::unix::fs::chown(source.path().join("a/b"), Some(1000), Some(70_000)).unwrap();
    let bytes = packed(source.path(), &PackOptions::default());
    assert_eq!(bytes, packed(source.path(), &PackOptions::default()));
    let target = tempfile::tempdir().unwrap();
    let unpacked = unpack(
        target.path(),
        &bytes[..],
        UnpackOptions::trusted().owners(true),
    )
    .unwrap();
    assert!(unpacked.entries > 10 && unpacked.bytes > 5 << 20);
    let walks = [target.path(), source.path()].map(|root| walk(root).unwrap());
    Difference::between(&walks[0], &walks[1]).assert_none();
    let blocks = fs::metadata(target.path().join("sparse")).unwrap().blocks();
    assert!(blocks < 256, "{blocks}");

    // GNU tar agrees.
    let Some(mut tar) = testkit::oracle("tar") else {
        return;
    };
    let other = tempfile::tempdir().unwrap();
    let file = other.path().join("archive.tar");
    fs::write(&file, &bytes).unwrap();
    let tree = other.path().join("tree");
    fs::create_dir(&tree).unwrap();
    let status = tar
        .args(["--xattrs", "--xattrs-include=*", "-xpf"])
        .arg(&file)
        .arg("-C")
        .arg(&tree)
        .status()
        .unwrap();
    assert!(status.success());
    Difference::between(&walks[0], &walk(&tree).unwrap()).assert_none();
}

#[test]
fn the_top_has_the_requested_name_and_is_followed_on_demand() {
    let source = source();
    let link = source.path().join("link");
    let unpacked = |options: &PackOptions| {
        let target = tempfile::tempdir().unwrap();
        let bytes = packed(&link, options);
        unpack(target.path(), &bytes[..], UnpackOptions::untrusted()).unwrap();
        target
    };
    let target = unpacked(&PackOptions::default().name("new"));
    let to = fs::read_link(target.path().join("new")).unwrap();
    assert_eq!(to, Path::new("a/file"));
    let target = unpacked(&PackOptions::default().name("new").follow(true));
    let read = fs::read(target.path().join("new")).unwrap();
    assert_eq!(read, b"contents");
}

#[test]
fn files_replace_files_and_directories_keep_their_entries() {
    let target = tempfile::tempdir().unwrap();
    let at = |name: &str| target.path().join(name);
    let outside = tempfile::tempdir().unwrap();
    let victim = outside.path().join("victim");
    fs::write(&victim, "untouched").unwrap();
    fs::create_dir(at("kept")).unwrap();
    fs::write(at("kept/old"), "old").unwrap();
    symlink(&victim, at("link")).unwrap();
    let tar = TarBuilder::new()
        .dir("kept")
        .file("kept/new", "new")
        .file("link", "a file now")
        .finish();
    unpack(target.path(), &tar[..], UnpackOptions::untrusted()).unwrap();
    assert_eq!(fs::read(at("kept/old")).unwrap(), b"old");
    assert_eq!(fs::read(at("kept/new")).unwrap(), b"new");
    assert_eq!(fs::read(at("link")).unwrap(), b"a file now");
    assert_eq!(fs::read(&victim).unwrap(), b"untouched");
    for (tar, expected) in [
        (TarBuilder::new().file("kept", "x"), Problem::OverDirectory),
        (TarBuilder::new().dir("link"), Problem::OverFile),
    ] {
        let refused = unpack(target.path(), &tar.finish()[..], UnpackOptions::trusted());
        assert!(matches!(refused, Err(Error::Entry { problem, .. }) if problem == expected));
    }
}

#[test]
fn a_file_that_is_cut_off_is_not_left_behind() {
    let target = tempfile::tempdir().unwrap();
    let tar = TarBuilder::new()
        .file("whole", "contents")
        .file("part", vec![1; 100_000])
        .finish();
    let cut = &tar[..50_000];
    let error = unpack(target.path(), cut, UnpackOptions::untrusted()).unwrap_err();
    assert!(matches!(error, Error::Archive(_)), "{error:?}");
    let left = fs::read_dir(target.path()).unwrap();
    let left: Vec<_> = left.map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["whole"]);
}

#[test]
fn nothing_outside_of_the_target_is_made_changed_or_linked() {
    let outer = tempfile::tempdir().unwrap();
    let target = outer.path().join("target");
    let outside = outer.path().join("outside");
    let new = || TarBuilder::new();
    let way_out = || new().symlink("out", "../outside");
    for (tar, expected) in [
        (new().file("../escaped", "x"), Problem::Escape),
        (new().file("a/../../escaped", "x"), Problem::Escape),
        (new().link("l", "../outside/victim"), Problem::Escape),
        (way_out().file("out/new", "x"), Problem::Parent),
        (way_out().dir("out/new"), Problem::Parent),
        (way_out().link("l", "out/victim"), Problem::LinkTarget),
        (way_out().symlink("out/l", "x"), Problem::Parent),
        (way_out().dir("out"), Problem::OverFile),
        (new().link("l", "missing"), Problem::LinkTarget),
        (new().dir("d").link("l", "d"), Problem::LinkTarget),
        (
            new().symlink("a", "/").file("a/escaped", "x"),
            Problem::Parent,
        ),
    ] {
        fs::create_dir(&target).unwrap();
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("victim"), "untouched").unwrap();
        let tar = tar.finish();
        for options in [UnpackOptions::untrusted(), UnpackOptions::trusted()] {
            let refused = unpack(&target, &tar[..], options);
            assert!(
                matches!(&refused, Err(Error::Entry { problem, .. }) if *problem == expected),
                "{refused:?} is not {expected:?}"
            );
        }
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
        assert_eq!(fs::metadata(outside.join("victim")).unwrap().nlink(), 1);
        assert_eq!(fs::read_dir(outer.path()).unwrap().count(), 2);
        fs::remove_dir_all(&target).unwrap();
        fs::remove_dir_all(&outside).unwrap();
    }
    // Absolute names are below the target.
    fs::create_dir(&target).unwrap();
    let tar = new().file("/absolute", "x").finish();
    unpack(&target, &tar[..], UnpackOptions::untrusted()).unwrap();
    assert!(target.join("absolute").exists());
}

#[test]
fn an_archive_of_a_guest_gives_no_privileges_and_no_devices() {
    let target = tempfile::tempdir().unwrap();
    fs::set_permissions(target.path(), fs::Permissions::from_mode(0o700)).unwrap();
    let tar = TarBuilder::new()
        .mode(0o777)
        .dir("./")
        .device("sda", b'4', 8, 0)
        .mode(0o6755)
        .xattr(
            "security.capability",
            [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        )
        .file("tool", "#!")
        .finish();
    let unpacked = unpack(target.path(), &tar[..], UnpackOptions::untrusted()).unwrap();
    assert_eq!(unpacked.skipped, [b"sda"]);
    assert!(!target.path().join("sda").exists());
    let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o7777;
    assert_eq!(mode(&target.path().join("tool")), 0o755);
    assert_eq!(mode(target.path()), 0o700);
    let mut names = [0; 256];
    let length = rustix::fs::listxattr(target.path().join("tool"), &mut names[..]).unwrap();
    assert_eq!(length, 0);
}

#[test]
fn an_archive_that_is_cut_off_is_an_error() {
    let source = source();
    let bytes = packed(source.path(), &PackOptions::default());
    for length in [100, 512, 520, bytes.len() / 2 + 100] {
        let target = tempfile::tempdir().unwrap();
        let refused = unpack(target.path(), &bytes[..length], UnpackOptions::untrusted());
        assert!(matches!(refused, Err(Error::Archive(_))), "{length}");
    }
}

#[test]
fn directories_with_more_attributes_than_memory_is_given_are_refused() {
    let head = Head {
        path: b"again",
        mode: 0o755,
        uid: 0,
        gid: 0,
        mtime: Timestamp { secs: 0, nanos: 0 },
        xattrs: vec![(b"user.large".to_vec(), vec![b'x'; 7 << 20])],
    };
    let mut tar = Writer::new(Vec::new());
    for _ in 0..40 {
        tar.entry(&head, Body::Directory).unwrap();
    }
    let tar = tar.finish().unwrap();
    let target = tempfile::tempdir().unwrap();
    let refused = unpack(target.path(), &tar[..], UnpackOptions::untrusted());
    assert!(
        matches!(
            refused,
            Err(Error::Entry {
                problem: Problem::Directories,
                ..
            })
        ),
        "{refused:?}"
    );
}
