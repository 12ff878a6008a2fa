//! What options make of a filesystem: every two of them in every way they can be set, with every
//! block size.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::fs::{self, File};
use std::path::Path;

use common::options::{
    FACTORS, Kernel, add_large_values, add_small, check_features, check_large_values, compare_view,
    write_and_delete,
};
use common::{Image, source};
use ext4_writer::{BlockSize, Error, Options, grow};
use testkit::{Difference, Mount, Walk, walk};

/// Twelve ways to set the eleven, among which each two of them are set in all four ways (Plackett
/// and Burman, 1946): a row, all its rotations, and all off.
fn rows() -> impl Iterator<Item = [bool; 11]> {
    const ROW: [bool; 11] = [
        true, true, false, true, true, true, false, false, false, true, false,
    ];
    let rotated = (0..11).map(|by| {
        let mut row = ROW;
        row.rotate_left(by);
        row
    });
    rotated.chain([[false; 11]])
}

#[test]
fn each_two_options_are_set_in_all_four_ways() {
    for a in 0..11 {
        for b in 0..a {
            let ways: std::collections::BTreeSet<_> = rows().map(|row| (row[a], row[b])).collect();
            assert_eq!(ways.len(), 4);
        }
    }
}

/// What a filesystem with these options goes through.
fn check(mut options: Options, source: &Path, expected: &Walk, kernel: &Kernel) {
    options.inode_ratio = 2048;
    options.size = 80 << 20;
    let image = Image::new(options.clone(), |image| {
        image.add_dir_all(source).unwrap();
        if options.ea_inode {
            add_large_values(image);
        }
        if options.project {
            let dir = image.lookup(b"many").unwrap();
            image.set_project(dir, 70_000).unwrap();
        } else {
            let refused = image.set_project(image.root(), 1);
            assert!(matches!(refused, Err(Error::NoProjects)));
        }
    });
    check_features(&image.path, &options);
    image.assert_clean();
    if !(options.inline_data || options.ea_inode || options.large_dir || options.meta_bg) {
        compare_view(&image.path, &options, expected);
    }
    if kernel.not_mounted(&options).is_none() {
        let write = kernel.not_written(&options).is_none();
        let mount = Mount::ext4(&image.path, write);
        let mut found = walk(mount.path()).unwrap();
        found.remove(&b"lost+found"[..]);
        if options.ea_inode {
            found.retain(|path, _| !path.starts_with(b"values"));
            check_large_values(mount.path());
        }
        Difference::between(&found, expected).assert_none();
        if write {
            write_and_delete(mount.path());
            fs::remove_file(mount.path().join("xattrs/both")).unwrap();
        }
        drop(mount);
        image.assert_clean();
    }
    let file = File::options()
        .read(true)
        .write(true)
        .open(&image.path)
        .unwrap();
    grow(file, 300 << 20).unwrap();
    image.assert_clean();
}

fn check_rows(block_size: BlockSize) {
    let source = source();
    add_small(source.path());
    let expected = walk(source.path()).unwrap();
    let kernel = Kernel::here();
    for row in rows() {
        let mut options = Options::new(0).block_size(block_size);
        for (set, on) in FACTORS.iter().zip(row) {
            set(&mut options, on);
        }
        check(options, source.path(), &expected, &kernel);
    }
}

#[test]
fn every_pair_of_options_is_right_with_blocks_of_4_kib() {
    check_rows(BlockSize::B4096);
}

#[test]
fn every_pair_of_options_is_right_with_blocks_of_2_kib() {
    check_rows(BlockSize::B2048);
}

#[test]
fn every_pair_of_options_is_right_with_blocks_of_1_kib() {
    check_rows(BlockSize::B1024);
}
