//! What cannot be added is refused, and the image stays right.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::io::{self, Cursor, Read};

use common::Image;
use ext4_writer::{Builder, DeviceNumber, Error, Metadata, Options};

fn meta() -> Metadata {
    Metadata::new(0o644)
}

/// Gives some data, then fails.
struct Failing(usize);

impl Read for Failing {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let n = self.0.min(bytes.len());
        self.0 -= n;
        bytes[..n].fill(0xaa);
        match n {
            0 => Err(io::Error::other("no more")),
            n => Ok(n),
        }
    }
}

#[test]
fn a_refused_entry_leaves_no_trace() {
    let image = Image::new(Options::new(16 << 20), |image| {
        let root = image.root();
        let failed = image.add_file(root, b"f", meta(), Failing(3 << 20), None);
        assert!(matches!(failed, Err(Error::Contents { .. })));
        let short = image.add_sparse_file(
            root,
            b"f",
            meta(),
            10,
            std::slice::from_ref(&(2..8)),
            &b"abc"[..],
        );
        assert!(matches!(short, Err(Error::Contents { .. })));
        let ranges = [[2..8, 7..9], [4..5, 1..2], [2..3, 9..11]];
        for ranges in &ranges {
            let refused = image.add_sparse_file(root, b"f", meta(), 10, ranges, io::repeat(1));
            assert!(matches!(refused, Err(Error::FileSize { .. })));
        }
        let full = image.add_file(root, b"f", meta(), io::repeat(1), None);
        assert!(matches!(full, Err(Error::NoSpace { .. })));
    });
    image.assert_clean();
    // Only what was added counts: the root, lost+found, the reserved inodes, and the orphan file.
    assert_eq!(image.summary.inodes - image.summary.free_inodes, 12);
}

#[test]
fn names_links_targets_and_devices_that_cannot_be_are_refused() {
    let out = Cursor::new(Vec::new());
    let mut image = Builder::new(out, Options::new(16 << 20)).unwrap();
    let root = image.root();
    let dir = image.add_dir(root, b"dir", meta()).unwrap();
    let file = image.add_fifo(root, b"fifo", meta()).unwrap();
    for name in [&b""[..], b".", b"..", b"a/b", b"a\0", &[b'x'; 256]] {
        let refused = image.add_fifo(root, name, meta());
        assert!(matches!(refused, Err(Error::InvalidName { .. })));
    }
    let refused = image.add_fifo(root, b"dir", meta());
    assert!(matches!(refused, Err(Error::AlreadyExists { .. })));
    let refused = image.add_fifo(file, b"x", meta());
    assert!(matches!(refused, Err(Error::NotADirectory { .. })));
    let refused = image.make_parents(b"fifo/x/y", &meta());
    assert!(matches!(refused, Err(Error::NotADirectory { .. })));
    let refused = image.link(root, b"x", dir);
    assert!(matches!(refused, Err(Error::LinkToDirectory { .. })));
    for i in 1..65000 {
        image.link(dir, format!("{i}").as_bytes(), file).unwrap();
    }
    let refused = image.link(dir, b"x", file);
    assert!(matches!(refused, Err(Error::TooManyLinks { .. })));
    for target in [&b""[..], b"a\0b", &[b'x'; 4096]] {
        let refused = image.add_symlink(root, b"x", meta(), target);
        assert!(matches!(refused, Err(Error::Target { .. })));
    }
    let number = DeviceNumber {
        major: 4096,
        minor: 0,
    };
    let refused = image.add_char_device(root, b"x", meta(), number);
    assert!(matches!(refused, Err(Error::DeviceNumber { .. })));
}

#[test]
fn every_inode_can_be_used_and_no_more() {
    let options = Options::new(16 << 20).inode_ratio(1 << 20);
    let image = Image::new(options, |image| {
        let root = image.root();
        let last = (0..).find_map(|i| {
            let name = format!("{i}");
            image.add_fifo(root, name.as_bytes(), meta()).err()
        });
        assert!(matches!(last, Some(Error::NoInodes { .. })));
    });
    image.assert_clean();
    assert_eq!(image.summary.free_inodes, 0);
}

#[test]
fn there_are_as_many_inodes_as_are_asked_for_or_none() {
    for (size, count) in [(16 << 20, 20), (16 << 20, 4001), (1 << 30, 100_000)] {
        let options = Options::new(size).inode_count(Some(count));
        let image = Image::new(options, |_| ());
        image.assert_clean();
        assert!((count..count + 256).contains(&image.summary.inodes));
    }
    for count in [0, 1 << 20] {
        let options = Options::new(16 << 20).inode_count(Some(count));
        let refused = Builder::new(Cursor::new(Vec::new()), options);
        assert!(matches!(
            refused,
            Err(Error::Option {
                option: "inode_count",
                ..
            })
        ));
    }
}

#[test]
fn a_directory_of_more_subdirectories_than_can_be_counted_is_clean() {
    let options = Options::new(600 << 20).inode_ratio(4096);
    let image = Image::new(options, |image| {
        let root = image.root();
        for i in 0..65_100 {
            image
                .add_dir(root, format!("{i}").as_bytes(), Metadata::new(0o755))
                .unwrap();
        }
    });
    image.assert_clean();
}

#[test]
fn debug_of_an_error_shows_its_path_as_text() {
    let error = Error::NotFound {
        path: b"usr/l\xff".into(),
    };
    assert_eq!(format!("{error:?}"), r#"NotFound { path: "usr/l\xff" }"#);
    assert_eq!(error.to_string(), r"'usr/l\xff' does not exist");
}
