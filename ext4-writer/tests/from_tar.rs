//! Filesystems of tar archives.
#![cfg(feature = "tar")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::fs::{self, File};
use std::io::{BufReader, Cursor};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use common::{Image, source};
use ext4_writer::{Error, Metadata, Node, Options, Timestamp, from_tar};
use proptest::prelude::*;
use testkit::{Difference, Kind, Mount, TarBuilder, Walk, walk};

fn options() -> Options {
    Options::new(64 << 20).inode_ratio(4096)
}

/// An archive that GNU tar makes of `source`.
fn archive(source: &Path, arguments: &[&str]) -> Option<File> {
    let file = tempfile::tempfile().unwrap();
    let status = testkit::oracle("tar")?
        .args(["--create", "--numeric-owner", "--sort=name"])
        .args(arguments)
        .arg("--directory")
        .arg(source)
        .arg(".")
        .stdout(file.try_clone().unwrap())
        .stderr(std::process::Stdio::null())
        .status()
        .unwrap();
    assert!(status.success());
    Some(file)
}

fn walk_image(image: &Image) -> Walk {
    let mount = Mount::ext4(&image.path, false);
    let mut found = walk(mount.path()).unwrap();
    found.remove(&b"lost+found"[..]);
    found
}

#[test]
fn a_directory_packed_by_gnu_tar_arrives_unchanged() {
    if !testkit::kernel_mounts() {
        return;
    }
    let source = source();
    // No archive holds a socket.
    fs::remove_file(source.path().join("socket")).unwrap();
    // tar notes no names of attributes that are not UTF-8, nor empty values.
    let expected = walk(source.path()).unwrap();
    let Some(tar) = archive(
        source.path(),
        &["--format=posix", "--xattrs", "--xattrs-include=*"],
    ) else {
        return;
    };
    let image = Image::new(options(), |image| image.add_tar_seek(tar).unwrap());
    image.assert_clean();
    Difference::between(&walk_image(&image), &expected).assert_none();
}

#[test]
fn sparse_files_of_every_format_keep_their_holes() {
    let source = tempfile::tempdir().unwrap();
    let path = source
        .path()
        .join("a name that is longer than a header has room for it ".repeat(3));
    let sparse = File::create(&path).unwrap();
    sparse.set_len(80 << 20).unwrap();
    for piece in 0..60_u8 {
        sparse
            .write_all_at(&[piece + 1; 5000], u64::from(piece) << 20)
            .unwrap();
    }
    fs::write(source.path().join("plain"), "plain").unwrap();
    if fs::metadata(&path).unwrap().blocks() * 512 > 10 << 20 {
        testkit::skip("the temporary folder's filesystem has no holes");
        return;
    }
    for format in [
        &["--format=gnu"][..],
        &["--format=posix", "--sparse-version=0.0"],
        &["--format=posix", "--sparse-version=0.1"],
        &["--format=posix", "--sparse-version=1.0"],
    ] {
        let Some(tar) = archive(source.path(), &[&["--sparse"], format].concat()) else {
            return;
        };
        assert!(tar.metadata().unwrap().len() < 4 << 20);
        let image = Image::new(Options::new(16 << 20), |image| {
            image.add_tar_seek(tar).unwrap()
        });
        image.assert_clean();
        if testkit::kernel_mounts() {
            let contents = |walk: Walk| -> Vec<_> {
                walk.into_iter()
                    .map(|(path, entry)| (path, entry.kind))
                    .collect()
            };
            let expected = contents(walk(source.path()).unwrap());
            assert_eq!(contents(walk_image(&image)), expected, "{format:?}");
        }
    }
}

fn made(tar: Vec<u8>) -> Result<Image, Error> {
    from_tar(Cursor::new(Vec::new()), options(), Cursor::new(&tar))?;
    Ok(Image::new(options(), |image| {
        image.add_tar(Cursor::new(tar)).unwrap();
    }))
}

#[test]
fn the_last_entry_of_a_name_counts_and_directories_keep_their_children() {
    let tar = TarBuilder::new()
        .file("twice", b"first")
        .file("./twice", b"second, and longer")
        .dir("d")
        .file("d/in", b"in")
        .dir("d/")
        .file("was/a/directory", b"gone")
        .file("was", b"file")
        .file("/absolute", b"a")
        .file("x/../sideways", b"s")
        .link("early", "late")
        .file("late", b"late")
        .link("twice", "twice")
        .file("d/.wh.gone", b"")
        .finish();
    let image = made(tar).unwrap();
    image.assert_clean();
    if !testkit::kernel_mounts() {
        return;
    }
    let found = walk_image(&image);
    let names: Vec<_> = found
        .keys()
        .map(|path| path.escape_ascii().to_string())
        .collect();
    assert_eq!(
        names,
        [
            "", "absolute", "d", "d/in", "early", "late", "sideways", "twice", "was"
        ]
    );
    let size = |path: &str| match &found[path.as_bytes()].kind {
        Kind::File { size, .. } => *size,
        other => panic!("{other:?}"),
    };
    assert_eq!((size("twice"), size("was"), size("early")), (18, 4, 4));
    assert_eq!(found[&b"early"[..]].first_name, Some(b"early".to_vec()));
}

#[test]
fn a_file_with_more_names_than_can_be_counted_becomes_two() {
    let mut tar = TarBuilder::new().file("0", b"contents");
    for i in 1..65_010 {
        tar = tar.link(format!("{i}"), "0");
    }
    let image = made(tar.finish()).unwrap();
    image.assert_clean();
    if testkit::kernel_mounts() {
        let mount = Mount::ext4(&image.path, false);
        let links = |name: &str| fs::metadata(mount.path().join(name)).unwrap().nlink();
        let mut counts = [links("0"), links("9999")];
        counts.sort_unstable();
        assert_eq!(counts, [10, 65_000]);
        assert_eq!(fs::read(mount.path().join("9999")).unwrap(), b"contents");
    }
}

#[test]
fn entries_that_no_filesystem_can_hold_are_rejected_by_name() {
    let tar = TarBuilder::new;
    for (tar, name) in [
        (tar().file("../x", b""), "../x"),
        (tar().link("y", "nothing"), "y"),
        (tar().dir("d").link("z", "d"), "z"),
        (tar().entry("q", b'Q', "", b""), "q"),
        (tar().pax("mtime", "soon").file("m", b""), "m"),
        (tar().device("whiteout", b'3', 0, 0), "whiteout"),
    ] {
        match made(tar.finish()) {
            Err(Error::Archive { source }) => {
                let text = source.to_string();
                assert!(text.contains(name), "{name}: {text}");
            }
            other => panic!("{name}: {:?}", other.err()),
        }
    }
    let cut = TarBuilder::new().file("x", [7; 5000]).finish();
    let refused = made(cut[..1500].to_vec());
    assert!(matches!(refused, Err(Error::Archive { .. })));
}

#[test]
fn attributes_of_both_spellings_and_paths_through_symlinks_arrive() {
    let tar = TarBuilder::new()
        .pax("LIBARCHIVE.xattr.user.a", "dmFsdWU")
        .file("a", b"")
        .dir("usr/lib")
        .symlink("lib", "usr/lib")
        .file("lib/new", b"n")
        .finish();
    let image = made(tar).unwrap();
    image.assert_clean();
    if testkit::kernel_mounts() {
        let found = walk_image(&image);
        let xattrs: Vec<_> = found[&b"a"[..]].xattrs.clone().into_iter().collect();
        assert_eq!(xattrs, [(b"user.a".to_vec(), b"value".to_vec())]);
        assert!(found.contains_key(&b"usr/lib/new"[..]));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn no_archive_makes_add_tar_panic(
        changes in prop::collection::vec((0..6000_usize, any::<u8>()), 1..12),
    ) {
        let mut tar = TarBuilder::new()
            .pax("SCHILY.xattr.user.a", "value")
            .file("a", [1; 700])
            .pax("GNU.sparse.major", "1")
            .pax("GNU.sparse.minor", "0")
            .pax("GNU.sparse.realsize", "1000")
            .pax("GNU.sparse.name", "sparse")
            .file("GNUSparseFile.0/sparse", b"1\n10\n5\n")
            .link("b", "a")
            .finish();
        let len = tar.len();
        for (at, byte) in changes {
            tar[at % len] = byte;
        }
        let options = Options::new(1 << 20);
        let _ = from_tar(Cursor::new(Vec::new()), options, Cursor::new(tar));
    }
}

#[test]
fn archive_read_from_a_stream_gives_the_same_bytes() {
    let tar = TarBuilder::new()
        .file("twice", "first")
        .file("d/large", vec![5; 3 << 20])
        .file("twice", "second, and longer")
        .link("linked", "d/large")
        .finish();
    let seeking = made(tar.clone()).unwrap();
    let streamed = Image::new(options(), |image| {
        let stream = BufReader::with_capacity(100, &tar[..]);
        let spool = tempfile::tempfile().unwrap();
        image.add_tar_spooled(stream, spool).unwrap();
    });
    assert!(fs::read(&seeking.path).unwrap() == fs::read(&streamed.path).unwrap());
}

#[test]
fn program_replaced_through_the_symlink_of_a_merged_usr_is_the_only_change() {
    let tar = |init: &str| {
        TarBuilder::new()
            .symlink("sbin", "usr/sbin")
            .mode(0o755)
            .file("usr/sbin/init", init)
            .file("usr/sbin/other", "other")
            .finish()
    };
    let image = Image::new(options(), |image| {
        image.add_tar(Cursor::new(tar("old"))).unwrap();
        let program = Node::file(&b"new"[..]);
        let metadata = Metadata::new(0o755).mtime(Timestamp {
            secs: 1_700_000_000,
            nanos: 0,
        });
        let replaced = image.replace(b"/sbin/init", metadata, program);
        assert_eq!(image.resolve(b"sbin/init"), Some(replaced.unwrap()));
    });
    image.assert_clean();
    if !testkit::kernel_mounts() {
        return;
    }
    let expected = made(tar("new")).unwrap();
    Difference::between(&walk_image(&image), &walk_image(&expected)).assert_none();
}
