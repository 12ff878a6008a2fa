//! What the reader sees in filesystems that Linux wrote, and in damaged ones.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::fs;
use std::io::{Cursor, Read};
use std::os::unix::fs::{FileExt, symlink};
use std::path::Path;
use std::process::Command;

use common::{Image, source};
use ext4_writer::{BlockSize, Builder, Error, Kind, MAX_READ, Metadata, Node, Options, Reader};
use testkit::{Difference, Mount, walk};

/// Changes a mounted filesystem in all the ways that leave other structures than the builder's.
fn change(root: &Path) {
    let many = root.join("names");
    fs::create_dir(&many).unwrap();
    for n in 0..1200 {
        fs::write(many.join(format!("a rather long name for file {n}")), [1]).unwrap();
    }
    for n in (0..1200).step_by(3) {
        fs::remove_file(many.join(format!("a rather long name for file {n}"))).unwrap();
    }
    // A tree of extents, with holes and with blocks that were allocated and never written.
    let holes = fs::File::create(root.join("holes")).unwrap();
    for n in 0..500 {
        holes.write_all_at(&[7; 5000], n * 40_000).unwrap();
    }
    holes.set_len(1 << 28).unwrap();
    let allocated = fs::File::create(root.join("allocated")).unwrap();
    rustix::fs::fallocate(&allocated, rustix::fs::FallocateFlags::empty(), 0, 1 << 20).unwrap();
    allocated.write_all_at(&[9; 4096], 512 << 10).unwrap();
    symlink("y".repeat(59), root.join("new fast")).unwrap();
    symlink("y".repeat(300), root.join("new slow")).unwrap();
    fs::hard_link(root.join("holes"), many.join("holes again")).unwrap();
    let set = |name: &str, value: &[u8]| {
        rustix::fs::setxattr(&many, name, value, rustix::fs::XattrFlags::empty()).unwrap();
    };
    set("user.small", b"in the inode");
    set("user.large", &[5; 3000]);
    let entries: [&[u8]; 6] = [
        &[2, 0, 0, 0],
        &[1, 0, 7, 0, 255, 255, 255, 255],
        &[2, 0, 6, 0, 232, 3, 0, 0],
        &[4, 0, 5, 0, 255, 255, 255, 255],
        &[16, 0, 7, 0, 255, 255, 255, 255],
        &[32, 0, 4, 0, 255, 255, 255, 255],
    ];
    set("system.posix_acl_access", &entries.concat());
}

#[test]
fn a_filesystem_that_linux_changed_is_read_as_linux_reads_it() {
    if !testkit::kernel_mounts() {
        return;
    }
    let folder = source();
    let image = Image::new(Options::new(256 << 20), |builder| {
        builder.add_dir_all(folder.path()).unwrap();
    });
    {
        let mount = Mount::ext4(&image.path, true);
        change(mount.path());
    }
    let reader = Reader::open(fs::File::open(&image.path).unwrap()).unwrap();
    let copy = Image::new(Options::new(300 << 20), |builder| {
        builder.add_filesystem(&reader, &[]).unwrap();
    });
    copy.assert_clean();
    let (theirs, ours) = (
        Mount::ext4(&image.path, false),
        Mount::ext4(&copy.path, false),
    );
    let walks = [&ours, &theirs].map(|mount| walk(mount.path()).unwrap());
    Difference::between(&walks[0], &walks[1]).assert_none();
    // Blocks that were never written became holes.
    assert!(copy.allocated() < image.allocated());
}

#[test]
fn excluded_files_are_not_copied() {
    let folder = source();
    let image = Image::new(Options::new(64 << 20), |builder| {
        builder.add_dir_all(folder.path()).unwrap();
    });
    let reader = Reader::open(fs::File::open(&image.path).unwrap()).unwrap();
    let copy = Image::new(Options::new(64 << 20), |builder| {
        builder
            .add_filesystem(&reader, &[b"a/b", b"large"])
            .unwrap();
        assert_eq!(builder.lookup(b"a/b"), None);
        assert_eq!(builder.lookup(b"large"), None);
        assert!(builder.lookup(b"a/again").is_some() && builder.lookup(b"one").is_some());
    });
    copy.assert_clean();
}

#[test]
fn a_filesystem_whose_journal_holds_changes_is_refused() {
    let image = Image::new(Options::new(16 << 20), |_| ());
    let Some(_) = testkit::oracle("debugfs") else {
        return;
    };
    let status = Command::new("debugfs")
        .args(["-w", "-R", "set_super_value feature_incompat 0x2c6"])
        .arg(&image.path)
        .status()
        .unwrap();
    assert!(status.success());
    let opened = Reader::open(fs::File::open(&image.path).unwrap());
    assert!(matches!(opened, Err(Error::NotClean { .. })), "{opened:?}");
}

/// `/etc/text`, `/etc/bytes`, `/huge`, `/run` → `/etc`, `/broken` → nowhere, `/self` → itself, in a
/// filesystem of 2,048 blocks.
fn small() -> Reader<Cursor<Vec<u8>>> {
    let options = Options::new(2 << 20)
        .block_size(BlockSize::B1024)
        .journal(ext4_writer::Journal::None);
    let mut builder = Builder::new(Cursor::new(Vec::new()), options).unwrap();
    let root = builder.root();
    let huge = (MAX_READ + 1, &[][..], std::io::empty());
    builder
        .add_sparse_file(root, b"huge", Metadata::new(0o644), huge.0, huge.1, huge.2)
        .unwrap();
    for (path, node) in [
        ("etc/text", Node::file("aü\n".as_bytes())),
        ("etc/bytes", Node::file(&b"\xff\x00"[..])),
        ("run", Node::Symlink(b"/etc")),
        ("broken", Node::Symlink(b"nowhere")),
        ("self", Node::Symlink(b"self")),
    ] {
        let metadata = Metadata::new(0o640).owner(70_000, 100);
        builder.add_path(path.as_bytes(), metadata, node).unwrap();
    }
    Reader::open(builder.finish().unwrap().0).unwrap()
}

#[test]
fn files_are_read_whole_through_links() {
    let reader = small();
    assert_eq!(reader.read("/etc/bytes").unwrap(), b"\xff\x00");
    assert_eq!(reader.read(b"run/./bytes").unwrap(), b"\xff\x00");
    assert_eq!(reader.read_to_string("etc/../../run/text").unwrap(), "aü\n");
    let error = reader.read_to_string("etc/bytes").unwrap_err();
    assert!(matches!(error, Error::NotUtf8 { .. }), "{error:?}");
    let error = reader.read("etc").unwrap_err();
    let expected = (Kind::File, Kind::Directory);
    assert!(
        matches!(error, Error::WrongType { expected: e, found: f, .. } if (e, f) == expected),
        "{error:?}"
    );
    let error = reader.read("huge").unwrap_err();
    assert!(
        matches!(error, Error::Limit { limit: MAX_READ }),
        "{error:?}"
    );
    let error = reader.read("run/none/below").unwrap_err();
    assert!(
        matches!(&error, Error::NotFound { path } if path == "etc/none"),
        "{error:?}"
    );
    let error = reader.read("self").unwrap_err();
    assert!(matches!(error, Error::SymlinkLoop { .. }), "{error:?}");
}

#[test]
fn metadata_follows_links_and_symlink_metadata_all_but_the_last() {
    let reader = small();
    let of = |path: &str| reader.metadata(path).unwrap().kind();
    let of_link = |path: &str| reader.symlink_metadata(path).unwrap().kind();
    assert_eq!(of("run"), Kind::Directory);
    assert_eq!(of_link("run"), Kind::Symlink);
    assert_eq!(of_link("run/text"), Kind::File);
    assert_eq!(of_link("broken"), Kind::Symlink);
    let inode = reader.metadata("run/text").unwrap();
    assert_eq!(
        (inode.mode(), inode.uid(), inode.gid()),
        (0o640, 70_000, 100)
    );
    assert_eq!(reader.metadata("").unwrap().number(), 2);
    let error = reader.metadata("broken").unwrap_err();
    assert!(matches!(error, Error::NotFound { .. }), "{error:?}");
    assert!(reader.exists("run/text").unwrap());
    assert!(!reader.exists("broken").unwrap());
    assert!(!reader.exists("run/none").unwrap());
    let error = reader.exists("run/text/below").unwrap_err();
    assert!(
        matches!(&error, Error::NotADirectory { path } if path == "etc/text"),
        "{error:?}"
    );
    assert!(reader.lookup("none").unwrap().is_none());
    assert!(reader.resolve("broken").unwrap().is_none());
    assert!(reader.lookup("run").unwrap().unwrap().is_symlink());
    let error = reader.lookup("run/text").unwrap_err();
    assert!(matches!(error, Error::NotADirectory { .. }), "{error:?}");
}

#[test]
fn one_reader_answers_any_number_of_lookups() {
    let reader = small();
    for _ in 0..5000 {
        assert!(reader.exists("etc/text").unwrap());
    }
}

/// Reads everything; the tree of a damaged filesystem is an error somewhere, or another tree.
fn read_all(image: &[u8]) -> Result<u64, Error> {
    let reader = Reader::open(Cursor::new(image))?;
    let mut pending = vec![(reader.root()?, 0)];
    let mut read = 0;
    reader.exists("name 39/../f")?;
    while let Some((inode, depth)) = pending.pop() {
        reader.attributes(&inode)?;
        if depth > 8 {
            continue;
        }
        match inode.kind() {
            Kind::Directory => {
                for (_, number) in reader.read_dir(&inode)? {
                    pending.push((reader.inode(number)?, depth + 1));
                }
            }
            Kind::File => {
                reader.ranges(&inode)?;
                let mut file = reader.file(&inode)?.take(1 << 20);
                read += std::io::copy(&mut file, &mut std::io::sink()).unwrap_or_default();
            }
            Kind::Symlink => drop(reader.read_link(&inode)?),
            _ => {}
        }
    }
    Ok(read)
}

#[test]
fn every_damaged_byte_of_metadata_ends_in_an_error_or_another_tree() {
    let options = Options::new(2 << 20)
        .block_size(BlockSize::B1024)
        .journal(ext4_writer::Journal::None);
    let mut builder = Builder::new(Cursor::new(Vec::new()), options).unwrap();
    let root = builder.root();
    let long = (b"user.a".to_vec(), vec![1; 300]);
    let metadata = Metadata::new(0o644).xattrs(vec![long]);
    let pieces: Vec<_> = (0..6).map(|i| i * 4096..i * 4096 + 1024).collect();
    builder
        .add_sparse_file(root, b"f", metadata, 1 << 20, &pieces, std::io::repeat(1))
        .unwrap();
    for n in 0..40 {
        let name = format!("name {n} {}", "x".repeat(100));
        builder
            .add_symlink(root, name.as_bytes(), Metadata::new(0o777), b"target")
            .unwrap();
    }
    let (image, summary) = builder.finish().unwrap();
    let image = image.into_inner();
    assert_eq!(read_all(&image).unwrap(), 1 << 20);
    let used = (summary.blocks - summary.free_blocks) as usize * 1024;
    for at in (0..used.min(image.len())).step_by(61) {
        for value in [0, 0xff, image[at] ^ 1] {
            let mut damaged = image.clone();
            damaged[at] = value;
            let _ = read_all(&damaged);
        }
    }
}
