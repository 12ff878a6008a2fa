//! Trees taken out of images, as GNU tar, `mkfs.erofs` and the file system see them.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::fs::{self, File};
use std::path::Path;
use std::process::Command;

use common::{mkfs, nasty_tar, noise, prose, run};
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
        Self::of(dir, &tar, &["--chunksize=4096"])
    }

    fn of(dir: tempfile::TempDir, tar: &Path, options: &[&str]) -> Option<Self> {
        let options = [&["--tar=f"], options].concat();
        let path = mkfs(dir.path(), "tree.erofs", &options, tar)?;
        let mount = Mount::erofs(&path, &[]);
        Some(Self {
            dir,
            image: Image::open(Buffered::new(File::open(&path).unwrap())).unwrap(),
            theirs: walk(mount.path()).unwrap(),
        })
    }
}

/// What `mkfs.erofs` can read, which knows no sparse entries.
fn dense() -> TarOptions {
    TarOptions::default().sparse(false)
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
fn contents_that_several_threads_decode_are_whole_and_in_order() {
    if !testkit::kernel_mounts() {
        return;
    }
    // Larger than what one thread writes, with runs of zeros, clusters of every size, and data that
    // does not compress.
    let mut large = prose(1, 5 << 20);
    large[1 << 20..3 << 20].fill(0);
    large.extend(noise(2, 1 << 20));
    large.extend(prose(3, 3_000_001));
    let tar = testkit::TarBuilder::new()
        .dir("./")
        .file("large", large)
        .link("large-too", "large")
        .file("zeros", vec![0; 9 << 20])
        .file("middle", prose(4, (1 << 20) + 1))
        .file("small", prose(5, 10_000))
        .file("empty", "")
        .finish();
    for options in [
        &["-zlz4"][..],
        &["-zlz4hc", "-C1048576"],
        &["-zzstd", "-C65536", "-Eztailpacking"],
        &["-zdeflate", "-Efragments"],
        &["-zlzma", "-C1048576", "-Ededupe"],
        &["-zzstd", "-E48bit,all-fragments"],
    ] {
        let dir = tempfile::tempdir().unwrap();
        let source = dir.path().join("source.tar");
        fs::write(&source, &tar).unwrap();
        let Some(fixture) = Fixture::of(dir, &source, options) else {
            return;
        };
        let to = fixture.dir.path().join("out");
        fs::create_dir(&to).unwrap();
        extract_to_dir(&fixture.image, &to, &DirOptions::default()).unwrap();
        Difference::between(&walk(&to).unwrap(), &fixture.theirs).assert_none();

        let mut ours = Vec::new();
        extract_to_tar(&fixture.image, &mut ours, &dense()).unwrap();
        let out = fixture.dir.path().join("out.tar");
        fs::write(&out, &ours).unwrap();
        let again = mkfs(fixture.dir.path(), "again.erofs", &["--tar=f"], &out).unwrap();
        let mount = Mount::erofs(&again, &[]);
        Difference::between(&walk(mount.path()).unwrap(), &fixture.theirs).assert_none();
    }
}

#[test]
fn owners_and_devices_are_left_out_on_request() {
    let Some(fixture) = Fixture::new() else {
        return;
    };
    let to = fixture.dir.path().join("out");
    fs::create_dir(&to).unwrap();
    let done = extract_to_dir(&fixture.image, &to, &DirOptions::unprivileged()).unwrap();
    let mut expected = fixture.theirs.clone();
    for path in &done.skipped {
        assert!(path.starts_with(b"dev/"));
        expected.remove(path.as_bytes());
    }
    assert_eq!(done.skipped.len(), 3);
    for entry in expected.values_mut() {
        (entry.uid, entry.gid) = (0, 0);
        entry.xattrs.clear();
    }
    Difference::between(&walk(&to).unwrap(), &expected).assert_none();
}

#[test]
fn existing_files_are_never_overwritten() {
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
    let options = dense();
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
    let options = TarOptions::default().max_bytes(100_000);
    let mut out = Vec::new();
    let result = extract_to_tar(&fixture.image, &mut out, &options);
    assert!(matches!(result, Err(Error::Limit { limit: 100_000 })));
    assert!(out.len() < 1_000_000);
}

#[test]
fn sockets_go_into_directories_and_not_into_tars() {
    use erofs_writer::{Builder, Metadata, Node, Options};
    if !testkit::kernel_mounts() {
        return;
    }
    let mut builder = Builder::new(std::io::Cursor::new(Vec::new()), Options::default()).unwrap();
    builder
        .add_path(b"dir/socket", Metadata::new(0o755), Node::Socket)
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
fn xattrs_that_the_destination_refuses_are_events_not_errors() {
    use erofs_writer::{Builder, Metadata, Node, Options};
    let mut builder = Builder::new(std::io::Cursor::new(Vec::new()), Options::default()).unwrap();
    // Linux keeps no user xattrs of what is neither a file nor a directory.
    let metadata = Metadata::new(0o755).xattrs(vec![(b"user.name".to_vec(), b"value".to_vec())]);
    builder.add_path(b"fifo", metadata, Node::Fifo).unwrap();
    let image = Image::open(builder.finish().unwrap().0.into_inner()).unwrap();
    let to = tempfile::tempdir().unwrap();
    let options = DirOptions::unprivileged().xattrs(true);
    let done = extract_to_dir(&image, to.path(), &options).unwrap();
    let expected = [("fifo".into(), vec!["user.name".into()])];
    assert_eq!(done.refused_xattrs, expected);
    assert!(to.path().join("fifo").symlink_metadata().is_ok());
}
