//! Directories that are large, or need options.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::fs;
use std::io::Cursor;

use common::Image;
use ext4_writer::{BlockSize, Builder, Error, Metadata, Options};
use testkit::Mount;

/// Adds files with names so long that a block of 1 KiB holds four.
fn add_files(image: &mut Builder<impl std::io::Write + std::io::Seek>, count: u32) {
    let root = image.root();
    let dir = image.add_dir(root, b"large", Metadata::new(0o755)).unwrap();
    let file = image.add_fifo(root, b"pipe", Metadata::new(0o644)).unwrap();
    let mut target = file;
    for i in 0..count {
        if i % 60_000 == 59_999 {
            let name = format!("pipe{i}");
            target = image
                .add_fifo(root, name.as_bytes(), Metadata::new(0o644))
                .unwrap();
        }
        let name = format!("{i:0>230}");
        image.link(dir, name.as_bytes(), target).unwrap();
    }
}

fn wide(large_dir: bool) -> Options {
    Options::new(64 << 20)
        .block_size(BlockSize::B1024)
        .large_dir(large_dir)
}

#[test]
fn a_directory_with_three_index_levels_needs_large_dir_and_is_found_right() {
    // Of 123 entries in the root and 126 in each node, each block below holds four names.
    const COUNT: u32 = 66_000;
    let mut refused = Builder::new(Cursor::new(Vec::new()), wide(false)).unwrap();
    add_files(&mut refused, COUNT);
    assert!(matches!(refused.finish(), Err(Error::DirectorySize { .. })));

    let image = Image::new(wide(true), |image| add_files(image, COUNT));
    image.assert_clean();
    if !testkit::kernel_mounts() {
        return;
    }
    let mount = Mount::ext4(&image.path, true);
    let dir = mount.path().join("large");
    assert_eq!(fs::read_dir(&dir).unwrap().count(), COUNT as usize);
    for i in (0..COUNT).step_by(7_001) {
        fs::symlink_metadata(dir.join(format!("{i:0>230}"))).unwrap();
    }
    fs::write(dir.join("new"), "").unwrap();
    fs::remove_file(dir.join(format!("{:0>230}", 5))).unwrap();
    drop(mount);
    image.assert_clean();
}

#[test]
fn names_that_are_not_ascii_are_found_by_signed_and_unsigned_hashes() {
    for signed_hash in [true, false] {
        let options = Options::new(32 << 20).signed_hash(signed_hash);
        let name = |i: u32| format!("{i} {}", "\u{e9}\u{4e2d}".repeat(i as usize % 20));
        let image = Image::new(options, |image| {
            let root = image.root();
            for i in 0..1000 {
                image
                    .add_fifo(root, name(i).as_bytes(), Metadata::new(0o644))
                    .unwrap();
            }
        });
        // It compares every name's hash with what the index says.
        image.assert_clean();
        if testkit::kernel_mounts() {
            let mount = Mount::ext4(&image.path, true);
            for i in 0..1000 {
                fs::symlink_metadata(mount.path().join(name(i))).unwrap();
            }
            fs::remove_file(mount.path().join(name(19))).unwrap();
            fs::write(mount.path().join("\u{e9}"), "").unwrap();
            drop(mount);
            image.assert_clean();
        }
    }
}

/// `cargo test -p ext4-writer --test directories -- --ignored`.
#[test]
#[ignore = "takes 16 s without optimisation"]
fn a_directory_of_a_million_files_is_clean_and_found_right() {
    const COUNT: u32 = 1_000_000;
    let options = Options::new(4 << 30).inode_ratio(1024);
    let image = Image::new(options, |image| {
        let root = image.root();
        for i in 0..COUNT {
            let name = format!("file {i}");
            image
                .add_fifo(root, name.as_bytes(), Metadata::new(0o644))
                .unwrap();
        }
    });
    image.assert_clean();
    if testkit::kernel_mounts() {
        let mount = Mount::ext4(&image.path, true);
        assert_eq!(
            fs::read_dir(mount.path()).unwrap().count(),
            COUNT as usize + 1
        );
        for i in (0..COUNT).step_by(10_007) {
            fs::symlink_metadata(mount.path().join(format!("file {i}"))).unwrap();
        }
        drop(mount);
        image.assert_clean();
    }
}
