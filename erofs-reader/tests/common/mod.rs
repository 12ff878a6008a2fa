//! What the integration tests share: a nasty tree, images of it, and our walk in the oracle's form.

#![allow(
    dead_code,
    unused_imports,
    unused_macros,
    reason = "each test program uses a part of this"
)]

pub(crate) mod hostile;
pub(crate) mod lab;
pub(crate) mod oracle;

use std::collections::BTreeMap;
use std::hash::Hasher;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;

use erofs_reader::{FileType, Image, Inode, ReadAt};
use testkit::{Entry, Kind, TarBuilder, Walk};

/// Bytes that look like nothing, always the same for the same seed.
pub(crate) fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// Bytes that compress, but not to nothing.
pub(crate) fn prose(seed: u64, len: usize) -> Vec<u8> {
    const WORDS: [&str; 8] = [
        "block",
        "inode",
        "extent",
        "cluster",
        "superblock",
        "nid",
        "a",
        "the",
    ];
    let mut text = Vec::with_capacity(len + 16);
    for byte in noise(seed, len) {
        if text.len() >= len {
            break;
        }
        text.extend_from_slice(WORDS[usize::from(byte % 8)].as_bytes());
        text.push(if byte & 0x80 == 0 { b' ' } else { byte & 0x7f });
    }
    text.truncate(len);
    text
}

/// The POSIX ACL `u::rw-,u:1000:r--,g::r--,m::r--,o::r--` in the form of the xattr: it says what
/// mode 0644 says.
pub(crate) fn acl() -> Vec<u8> {
    let mut value = 2_u32.to_le_bytes().to_vec();
    for (tag, perm, id) in [
        (0x01_u16, 6_u16, u32::MAX),
        (0x02, 4, 1000),
        (0x04, 4, u32::MAX),
        (0x10, 4, u32::MAX),
        (0x20, 4, u32::MAX),
    ] {
        value.extend_from_slice(&tag.to_le_bytes());
        value.extend_from_slice(&perm.to_le_bytes());
        value.extend_from_slice(&id.to_le_bytes());
    }
    value
}

/// Everything a tree can have that an image must keep.
pub(crate) fn nasty_tar() -> Vec<u8> {
    let mut tar = TarBuilder::new().dir("./");
    // Sizes around every block size.
    tar = tar.dir("sizes");
    for size in [
        0, 1, 31, 511, 512, 513, 1023, 1024, 1025, 2048, 4000, 4095, 4096, 4097, 8191, 8192,
        12_289, 65_535, 65_536, 65_537, 200_003,
    ] {
        tar = tar.file(format!("sizes/noise{size}"), noise(size as u64, size));
        tar = tar.file(format!("sizes/prose{size}"), prose(size as u64, size));
    }
    // Holes, in the middle and at the end; equal chunks.
    let mut holes = vec![0; 300_000];
    holes[100_000..100_010].copy_from_slice(b"0123456789");
    tar = tar.file("sizes/holes", holes);
    tar = tar.file("sizes/zeros", vec![0; 70_000]);
    tar = tar.file("sizes/repeated", noise(7, 4096).repeat(20));
    tar = tar.file("sizes/prose1m", prose(99, 1_000_000));
    // Directories of many blocks, with names of every length and any bytes.
    tar = tar.dir("many");
    for i in 0..700 {
        tar = tar.file(format!("many/file-{i:04}"), format!("{i}"));
    }
    tar = tar.dir("names");
    for length in [1, 2, 50, 254, 255] {
        let name = [&b"names/"[..], &vec![b'n'; length]].concat();
        tar = tar.file(name, "x");
    }
    tar = tar.file(&b"names/not utf-8 \xff\xfe"[..], "x");
    tar = tar.file(&b"names/\x01control\n"[..], "x");
    tar = tar.file("names/UPPER", "1").file("names/upper", "2");
    tar = tar.dir("empty");
    // Depth.
    let mut deep = "deep".to_owned();
    for level in 0..30 {
        tar = tar.dir(&deep);
        deep = format!("{deep}/level-{level}");
    }
    tar = tar.file(&deep, "bottom");
    // Links and special files.
    tar = tar
        .file("links/target", "linked")
        .link("links/hard-b", "links/target");
    tar = tar.link("links/hard-a", "links/target");
    // Linux gives every symbolic link this mode, so that only an image could hold another.
    tar = tar.mode(0o777);
    tar = tar
        .symlink("links/soft", "target")
        .link("links/hard-soft", "links/soft");
    tar = tar.symlink("links/long", "l".repeat(4095));
    tar = tar.symlink("links/medium", "m/".repeat(700));
    tar = tar.symlink("links/dangling", "/nowhere/at/all");
    tar = tar.symlink("links/absolute", "/sizes");
    tar = tar.symlink("links/up", "../sizes/prose1025");
    tar = tar
        .symlink("links/loop-a", "loop-b")
        .symlink("links/loop-b", "loop-a");
    tar = tar.mode(0o644);
    tar = tar
        .device("dev/char", b'3', 1, 3)
        .device("dev/block", b'4', 259, 1_048_575);
    tar = tar.device("dev/char-big", b'3', 4095, 300);
    tar = tar
        .entry("dev/fifo", b'6', "", "")
        .link("dev/fifo-link", "dev/fifo");
    // Owners, modes and times at their limits.
    tar = tar
        .owner(u32::MAX - 1, u32::MAX - 1)
        .file("owners/max", "x");
    tar = tar.owner(65_535, 65_535).file("owners/16-bit", "x");
    tar = tar.owner(65_536, 7).file("owners/17-bit", "x").owner(0, 0);
    for mode in [0, 0o777, 0o1777, 0o2755, 0o4755, 0o7777] {
        tar = tar.mode(mode).file(format!("modes/{mode:o}"), "x");
    }
    tar = tar.mode(0o644);
    for (name, mtime) in [
        ("epoch", "0"),
        ("nanoseconds", "1700000000.123456789"),
        ("after-2106", "8000000000.5"),
        ("one", "1"),
    ] {
        tar = tar.pax("mtime", mtime).file(format!("times/{name}"), "x");
    }
    // Xattrs: own and shared, of every namespace, empty, large, with a long common prefix.
    for i in 0..12 {
        tar = tar
            .xattr("user.shared", "the same everywhere")
            .xattr("user.own", format!("value {i}"))
            .file(format!("xattrs/file{i}"), "x");
    }
    tar = tar
        .xattr("user.empty", "")
        .xattr("user.binary", noise(1, 100))
        .xattr("user.large", noise(2, 3000))
        .xattr("trusted.overlay.opaque", "y")
        .xattr("trusted.overlay.blockbox.implied", "y")
        .xattr(
            "security.capability",
            b"\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00",
        )
        .xattr("system.posix_acl_access", acl())
        .file("xattrs/all", prose(5, 5000));
    tar = tar
        .xattr("system.posix_acl_default", acl())
        .xattr("user.overlay.long.prefix.a", "1")
        .xattr("user.overlay.long.prefix.b", "2")
        .dir("xattrs/dir");
    tar = tar
        .mode(0o777)
        .xattr("trusted.on.link", "yes")
        .symlink("xattrs/link", "all");
    tar.finish()
}

/// Runs `mkfs.erofs` and returns the image, or `None` where it is not installed.
pub(crate) fn mkfs(dir: &Path, name: &str, options: &[&str], source: &Path) -> Option<PathBuf> {
    let image = dir.join(name);
    let mut mkfs = testkit::oracle("mkfs.erofs")?;
    run(mkfs.arg("--quiet").args(options).arg(&image).arg(source));
    Some(image)
}

pub(crate) fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(
        output.status.success(),
        "{command:?}: {}: {}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The tree as this crate reads it, in the form of [`testkit::walk`].
pub(crate) fn our_walk<R: ReadAt>(image: &Image<R>) -> Walk {
    let mut found = Walk::new();
    let mut names: BTreeMap<_, Vec<Vec<u8>>> = BTreeMap::new();
    for step in image.walk() {
        let (path, inode) = step.unwrap();
        if !inode.is_dir() {
            names.entry(inode.nid()).or_default().push(path.to_vec());
        }
        let entry = entry(image, &inode).unwrap_or_else(|e| panic!("/{path}: {e}"));
        assert!(found.insert(path.into(), entry).is_none());
    }
    for mut names in names.into_values().filter(|names| names.len() > 1) {
        names.sort();
        for name in &names {
            found.get_mut(name).unwrap().first_name = Some(names[0].clone());
        }
    }
    found
}

fn entry<R: ReadAt>(image: &Image<R>, inode: &Inode) -> Result<Entry, erofs_reader::Error> {
    let (major, minor) = inode.rdev().into();
    let kind = match inode.file_type() {
        FileType::Directory => Kind::Directory,
        FileType::Symlink => Kind::Symlink(image.read_link(inode)?),
        FileType::CharDevice => Kind::CharDevice { major, minor },
        FileType::BlockDevice => Kind::BlockDevice { major, minor },
        FileType::Fifo => Kind::Fifo,
        FileType::Socket => Kind::Socket,
        FileType::Regular => {
            let (size, digest) = digest(&mut image.file(inode)?);
            Kind::File { size, digest }
        }
    };
    let xattrs: Vec<_> = image.xattrs(inode)?;
    let count = xattrs.len();
    let xattrs: BTreeMap<_, _> = xattrs.into_iter().collect();
    assert_eq!(xattrs.len(), count, "duplicate xattrs");
    Ok(Entry {
        kind,
        mode: inode.mode().into(),
        uid: inode.uid(),
        gid: inode.gid(),
        mtime: inode.mtime().into(),
        xattrs,
        first_name: None,
    })
}

/// As [`testkit::walk`] digests contents.
fn digest(data: &mut impl Read) -> (u64, u64) {
    #[expect(deprecated, reason = "the one hasher of std whose keys are fixed")]
    let mut hasher = std::hash::SipHasher::new_with_keys(0x626c_6f63_6b62_6f78, 0);
    let mut buffer = vec![0; 1 << 16];
    let mut size = 0;
    loop {
        let n = data.read(&mut buffer).unwrap();
        if n == 0 {
            return (size, hasher.finish());
        }
        hasher.write(&buffer[..n]);
        size += n as u64;
    }
}
