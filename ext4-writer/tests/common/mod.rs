//! What the integration tests share.
#![allow(
    dead_code,
    unreachable_pub,
    reason = "every test file uses another part of it"
)]

pub mod options;

use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;

use ext4_writer::{Builder, Options, Summary};
use rustix::fs::{AtFlags, CWD, Gid, Timespec, Timestamps, Uid, XattrFlags};
use tempfile::TempDir;
use testkit::Node;

/// An image in a temporary directory.
pub struct Image {
    pub path: PathBuf,
    pub summary: Summary,
    _dir: TempDir,
}

impl Image {
    /// Makes an image with the tree that `populate` adds.
    pub fn new(options: Options, populate: impl FnOnce(&mut Builder<File>)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("image.ext4");
        let file = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&path)
            .unwrap();
        file.set_len(options.size).unwrap();
        let mut builder = Builder::new(file, options).unwrap();
        populate(&mut builder);
        let (_, summary) = builder.finish().unwrap();
        Self {
            path,
            summary,
            _dir: dir,
        }
    }

    /// The bytes the image takes on the host.
    pub fn allocated(&self) -> u64 {
        File::open(&self.path).unwrap().sync_all().unwrap();
        fs::metadata(&self.path).unwrap().blocks() * 512
    }

    /// Fails unless e2fsck finds nothing to complain about.
    pub fn assert_clean(&self) {
        let Some(mut e2fsck) = testkit::oracle("e2fsck") else {
            return;
        };
        let output = e2fsck.arg("-fn").arg(&self.path).output().unwrap();
        assert!(
            output.status.success(),
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }
}

/// Opens an image to be changed.
pub fn open(path: &Path) -> File {
    File::options().read(true).write(true).open(path).unwrap()
}

/// Copies an image, holes included.
pub fn copy(from: &Path, name: &str) -> PathBuf {
    let to = from.with_file_name(name);
    let status = Command::new("cp")
        .arg("--sparse=always")
        .args([from, &to])
        .status()
        .unwrap();
    assert!(status.success());
    to
}

/// What e2fsck gives and says.
pub fn e2fsck(args: &[&str], path: &Path) -> (i32, String) {
    let output = Command::new("e2fsck")
        .args(args)
        .arg(path)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    (output.status.code().unwrap(), text)
}

/// A tree with every kind of node.
pub fn source() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let set = |path: &Path, name: &str, value: &[u8]| {
        rustix::fs::lsetxattr(path, name, value, XattrFlags::empty()).unwrap();
    };
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o1751)).unwrap();

    for (name, size) in [
        ("empty", 0),
        ("one", 1),
        ("block", 4096),
        ("more", 4097),
        ("large", 9 << 20),
    ] {
        let data: Vec<u8> = (0..size)
            .map(|i: usize| (i / 512 + i % 251) as u8)
            .collect();
        fs::write(at(name), data).unwrap();
    }
    fs::create_dir_all(at("a/b/c/d")).unwrap();
    fs::write(at("a/b/c/d/e"), b"deep").unwrap();
    fs::hard_link(at("a/b/c/d/e"), at("a/again")).unwrap();
    symlink("x".repeat(59), at("fast")).unwrap();
    symlink("x".repeat(60), at("slow")).unwrap();
    symlink("x/".repeat(500), at("longer")).unwrap();
    fs::hard_link(at("slow"), at("slow again")).unwrap();
    for (name, node) in [
        ("null", Node::CharDevice(1, 3)),
        ("far", Node::BlockDevice(259, 70000)),
        ("fifo", Node::Fifo),
    ] {
        node.make(at(name), 0o640).unwrap();
    }
    drop(UnixListener::bind(at("socket")).unwrap());
    fs::write(at("setuid"), b"#!").unwrap();
    rustix::fs::chownat(
        CWD,
        at("setuid"),
        Some(Uid::from_raw(70000)),
        Some(Gid::from_raw(4_000_000_000)),
        AtFlags::empty(),
    )
    .unwrap();
    fs::set_permissions(at("setuid"), fs::Permissions::from_mode(0o6755)).unwrap();

    for name in [&b"caf\xe9"[..], b"\xff\xfe", &[b'n'; 255]] {
        fs::write(dir.path().join(std::ffi::OsStr::from_bytes(name)), b"name").unwrap();
    }
    fs::create_dir(at("many")).unwrap();
    for i in 0..3000 {
        fs::write(at(&format!("many/entry number {i}")), b"").unwrap();
    }

    fs::create_dir(at("xattrs")).unwrap();
    set(&at("xattrs"), "user.dir", b"");
    for name in ["small", "big", "big too", "both"] {
        fs::write(at("xattrs").join(name), b"").unwrap();
    }
    set(&at("xattrs/small"), "user.a", b"1");
    set(&at("xattrs/small"), "trusted.b", &[0, 255]);
    for name in ["xattrs/big", "xattrs/big too"] {
        set(&at(name), "user.big", &[b'x'; 600]);
    }
    set(&at("xattrs/both"), "user.one", &[1; 300]);
    set(&at("xattrs/both"), "user.three", &[3; 40]);
    set(&at("xattrs/both"), "security.four", &[4; 33]);
    set(&at("xattrs/both"), "user.\u{e9}", &[5; 301]);
    for name in ["fast", "slow", "null", "far", "fifo", "socket"] {
        set(&at(name), "trusted.on-any-type", name.as_bytes());
    }
    for name in ["longer", "fifo"] {
        set(&at(name), "trusted.large", &[6; 600]);
    }
    let capability = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    set(&at("one"), "security.capability", &capability);
    let entry = |tag: u16, perm: u16, id: u32| {
        [
            &tag.to_le_bytes()[..],
            &perm.to_le_bytes(),
            &id.to_le_bytes(),
        ]
        .concat()
    };
    let acl = [
        2_u32.to_le_bytes().to_vec(),
        entry(1, 7, u32::MAX),
        entry(2, 6, 1000),
        entry(4, 5, u32::MAX),
        entry(8, 4, 70000),
        entry(16, 7, u32::MAX),
        entry(32, 4, u32::MAX),
    ]
    .concat();
    set(&at("xattrs/small"), "system.posix_acl_access", &acl);
    set(&at("a"), "system.posix_acl_default", &acl);

    for (name, secs, nanos) in [
        ("one", -1, 999_999_999),
        ("block", 0x8000_0000, 1),
        ("more", 0x2_0000_0000, 500_000_000),
        ("fast", 12345, 678),
        ("a", 1_700_000_000, 123_456_789),
    ] {
        let time = Timespec {
            tv_sec: secs,
            tv_nsec: nanos,
        };
        let times = Timestamps {
            last_access: time,
            last_modification: time,
        };
        rustix::fs::utimensat(CWD, at(name), &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
    }
    dir
}
