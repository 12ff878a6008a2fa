//! Trees taken out of images, as GNU tar, `mkfs.erofs` and the file system see them.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::fs::{self, File};
use std::process::Command;

use common::{mkfs, nasty_tar, run};
use erofs_reader::extract::{DirOptions, TarOptions, extract_to_dir, extract_to_tar};
use erofs_reader::{Buffered, Error, Image};
use testkit::{Difference, Mount, Walk, walk};

/// An image of the nasty tree, and the kernel's view of it.
struct Fixture {
    dir: tempfile::TempDir,
    image: Image<Buffered<File>>,
    theirs: Walk,
}

impl Fixture {
    fn new() -> Option<Self> {
        if !testkit::kernel_mounts() {
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        let tar = dir.path().join("nasty.tar");
        fs::write(&tar, nasty_tar()).unwrap();
        let options = ["--tar=f", "--chunksize=4096"];
        let path = mkfs(dir.path(), "tree.erofs", &options, &tar)?;
        let mount = Mount::erofs(&path, &[]);
        Some(Self {
            dir,
            image: Image::open(Buffered::new(File::open(&path).unwrap())).unwrap(),
            theirs: walk(mount.path()).unwrap(),
        })
    }
}

#[test]
fn a_directory_gets_everything_the_kernel_shows() {
    let Some(fixture) = Fixture::new() else {
        return;
    };
    let to = fixture.dir.path().join("out");
    fs::create_dir(&to).unwrap();
    let done = extract_to_dir(&fixture.image, &to, &DirOptions::default()).unwrap();
    assert_eq!(done.skipped, Vec::<Vec<u8>>::new());
    assert_eq!(done.entries, fixture.theirs.len() as u64);
    Difference::between(&walk(&to).unwrap(), &fixture.theirs).assert_none();
}

#[test]
fn what_takes_privileges_is_left_out_on_request() {
    let Some(fixture) = Fixture::new() else {
        return;
    };
    let to = fixture.dir.path().join("out");
    fs::create_dir(&to).unwrap();
    let done = extract_to_dir(&fixture.image, &to, &DirOptions::unprivileged()).unwrap();
    let mut expected = fixture.theirs.clone();
    for path in &done.skipped {
        assert!(path.starts_with(b"dev/"));
        expected.remove(path);
    }
    assert_eq!(done.skipped.len(), 3);
    for entry in expected.values_mut() {
        (entry.uid, entry.gid) = (0, 0);
        entry.xattrs.clear();
    }
    Difference::between(&walk(&to).unwrap(), &expected).assert_none();
}

#[test]
fn nothing_is_extracted_over_what_is_there() {
    let Some(fixture) = Fixture::new() else {
        return;
    };
    let to = fixture.dir.path().join("out");
    fs::create_dir(&to).unwrap();
    std::os::unix::fs::symlink("/nowhere", to.join("dev")).unwrap();
    let result = extract_to_dir(&fixture.image, &to, &DirOptions::default());
    assert!(matches!(result, Err(Error::Output { .. })), "{result:?}");
    assert_eq!(fs::read_dir(&to).unwrap().count(), 1);
}

#[test]
fn a_tar_stream_gives_mkfs_erofs_the_same_tree() {
    let Some(fixture) = Fixture::new() else {
        return;
    };
    let tar = fixture.dir.path().join("out.tar");
    let options = TarOptions::default();
    let out = File::create(&tar).unwrap();
    extract_to_tar(&fixture.image, out, &options).unwrap();
    let Some(again) = mkfs(fixture.dir.path(), "again.erofs", &["--tar=f"], &tar) else {
        return;
    };
    let mount = Mount::erofs(&again, &[]);
    Difference::between(&walk(mount.path()).unwrap(), &fixture.theirs).assert_none();
    let mut second = Vec::new();
    extract_to_tar(&fixture.image, &mut second, &options).unwrap();
    assert!(second == fs::read(&tar).unwrap(), "the bytes differ");
}

#[test]
fn gnu_tar_unpacks_a_tar_stream() {
    let Some(fixture) = Fixture::new() else {
        return;
    };
    let Some(mut gnu_tar) = testkit::oracle("tar") else {
        return;
    };
    let tar = fixture.dir.path().join("out.tar");
    let out = File::create(&tar).unwrap();
    extract_to_tar(&fixture.image, out, &TarOptions::default()).unwrap();
    let to = fixture.dir.path().join("out");
    fs::create_dir(&to).unwrap();
    let unpack: &mut Command =
        gnu_tar.args(["--extract", "--numeric-owner", "--preserve-permissions"]);
    run(unpack
        .args([
            "--xattrs",
            "--xattrs-include=*",
            "--delay-directory-restore",
        ])
        .arg("--file")
        .arg(&tar)
        .arg("--directory")
        .arg(&to));
    Difference::between(&walk(&to).unwrap(), &fixture.theirs).assert_none();
}

#[test]
fn a_limit_stops_an_extraction() {
    let Some(fixture) = Fixture::new() else {
        return;
    };
    let options = TarOptions {
        max_bytes: Some(100_000),
    };
    let mut out = Vec::new();
    let result = extract_to_tar(&fixture.image, &mut out, &options);
    assert!(matches!(result, Err(Error::Limit { limit: 100_000 })));
    assert!(out.len() < 1_000_000);
}

#[test]
fn sockets_go_into_directories_and_not_into_tars() {
    use erofs_writer::{ImageBuilder, Metadata, Node, Options};
    if !testkit::kernel_mounts() {
        return;
    }
    let mut builder =
        ImageBuilder::new(std::io::Cursor::new(Vec::new()), Options::default()).unwrap();
    builder
        .add_path(b"dir/socket", Metadata::default(), Node::Socket)
        .unwrap();
    let image = Image::open(builder.finish().unwrap().0.into_inner()).unwrap();
    let to = tempfile::tempdir().unwrap();
    let done = extract_to_dir(&image, to.path(), &DirOptions::default()).unwrap();
    assert_eq!((done.entries, done.skipped.len()), (3, 0));
    Difference::between(&common::our_walk(&image), &walk(to.path()).unwrap()).assert_none();
    let done = extract_to_tar(&image, std::io::sink(), &TarOptions::default()).unwrap();
    assert_eq!(done.skipped, [b"dir/socket".to_vec()]);
}

#[test]
fn xattrs_that_the_destination_refuses_are_told_and_no_error() {
    use erofs_writer::{ImageBuilder, Metadata, Node, Options};
    let mut builder =
        ImageBuilder::new(std::io::Cursor::new(Vec::new()), Options::default()).unwrap();
    // Linux keeps no user xattrs of what is neither a file nor a directory.
    let metadata = Metadata {
        xattrs: vec![(b"user.name".to_vec(), b"value".to_vec())],
        ..Metadata::default()
    };
    builder.add_path(b"fifo", metadata, Node::Fifo).unwrap();
    let image = Image::open(builder.finish().unwrap().0.into_inner()).unwrap();
    let to = tempfile::tempdir().unwrap();
    let options = DirOptions {
        xattrs: true,
        ..DirOptions::unprivileged()
    };
    let done = extract_to_dir(&image, to.path(), &options).unwrap();
    let expected = [(b"fifo".to_vec(), vec![b"user.name".to_vec()])];
    assert_eq!(done.refused_xattrs, expected);
    assert!(to.path().join("fifo").symlink_metadata().is_ok());
}
