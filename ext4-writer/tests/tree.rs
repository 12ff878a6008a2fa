//! Trees of every kind of node: the kernel sees in the image what it sees in the source.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;

use common::{Image, add_tree};
use ext4_writer::{BlockSize, Metadata, Options};
use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, Timespec, Timestamps, Uid, XattrFlags, makedev,
};
use testkit::{Difference, Mount, walk};

/// A tree with every kind of node.
fn source() -> tempfile::TempDir {
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
    let node = |name: &str, kind, device| {
        let mode = Mode::from_raw_mode(0o640);
        rustix::fs::mknodat(CWD, at(name), kind, mode, device).unwrap();
    };
    node("null", FileType::CharacterDevice, makedev(1, 3));
    node("far", FileType::BlockDevice, makedev(259, 70000));
    node("fifo", FileType::Fifo, 0);
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
    set(&at("fast"), "trusted.on-a-link", b"yes");
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

/// What the kernel sees in an image, without `lost+found`.
fn walk_image(mount: &Mount) -> testkit::Walk {
    let mut walk = walk(mount.path()).unwrap();
    walk.remove(&b"lost+found"[..]);
    walk
}

#[test]
fn the_kernel_sees_the_source_and_may_change_it_and_it_stays_clean() {
    if !testkit::kernel_mounts() {
        return;
    }
    let source = source();
    let expected = walk(source.path()).unwrap();
    for block_size in [BlockSize::B1024, BlockSize::B2048, BlockSize::B4096] {
        let options = Options {
            block_size,
            inode_ratio: 4096,
            ..Options::new(64 << 20)
        };
        let image = Image::new(options, |image| add_tree(image, source.path()));
        image.assert_clean();
        let mount = Mount::ext4(&image.path, true);
        Difference::between(&walk_image(&mount), &expected).assert_none();

        for i in (0..3000).step_by(2) {
            let name = format!("many/entry number {i}");
            fs::metadata(mount.path().join(&name)).unwrap();
            fs::remove_file(mount.path().join(name)).unwrap();
        }
        let fresh = mount.path().join("a/fresh");
        fs::create_dir(&fresh).unwrap();
        for i in 0..2000 {
            fs::write(fresh.join(format!("{i}")), vec![7; i]).unwrap();
        }
        for name in ["large", "slow", "xattrs/big"] {
            fs::remove_file(mount.path().join(name)).unwrap();
        }
        let mut both = File::options()
            .append(true)
            .open(mount.path().join("xattrs/both"))
            .unwrap();
        both.write_all(&vec![9; 1 << 20]).unwrap();
        drop((both, mount));
        image.assert_clean();
    }
}

#[test]
fn holes_take_no_blocks_and_read_as_zeros() {
    let size = (1 << 30) + 7;
    let ranges = [
        0..10,
        5000..5001,
        5002..10000,
        3 << 20..(5 << 20) + 1,
        size - 3..size,
    ];
    let data: Vec<u8> = (0..ranges.iter().map(|range| range.end - range.start).sum())
        .map(|i: u64| (i % 255) as u8 + 1)
        .collect();
    let image = Image::new(Options::new(16 << 20), |image| {
        let root = image.root();
        let meta = Metadata::new(0o644);
        image
            .add_sparse_file(root, b"sparse", meta.clone(), size, &ranges, &data[..])
            .unwrap();
        image
            .add_sparse_file(root, b"hole", meta, size, &[], &b""[..])
            .unwrap();
    });
    image.assert_clean();
    if !testkit::kernel_mounts() {
        return;
    }
    let mount = Mount::ext4(&image.path, false);
    use std::os::unix::fs::MetadataExt;
    let stat = fs::metadata(mount.path().join("hole")).unwrap();
    assert_eq!((stat.len(), stat.blocks()), (size, 0));
    let mut file = File::open(mount.path().join("sparse")).unwrap();
    let stat = file.metadata().unwrap();
    // 2 MiB and a byte; one block each for the first and the last range; the other two, which share one, have two.
    assert_eq!((stat.len(), stat.blocks()), (size, (513 + 1 + 1 + 2) * 8));
    let mut at = 0;
    for range in &ranges {
        let mut bytes = vec![0; (range.end - range.start) as usize];
        file.seek(SeekFrom::Start(range.start)).unwrap();
        file.read_exact(&mut bytes).unwrap();
        assert_eq!(bytes, data[at..at + bytes.len()]);
        at += bytes.len();
    }
    let mut hole = vec![1; 20 << 20];
    file.seek(SeekFrom::Start(10 << 20)).unwrap();
    file.read_exact(&mut hole).unwrap();
    assert!(hole.iter().all(|&byte| byte == 0));
}
