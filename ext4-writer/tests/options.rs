//! What options make of a filesystem: every two of them in every way they can be set, with every block size.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::fs::{self, File};
use std::path::Path;
use std::process::Command;

use common::options::{
    FACTORS, add_large_values, add_small, check_features, check_large_values, compare_view,
};
use common::{Image, source};
use ext4_writer::{BlockSize, Error, Options, grow};
use testkit::{Difference, Mount, Walk, walk};

/// Twelve ways to set the eleven, among which each two of them are set in all four ways (Plackett and Burman, 1946): a row, all its
/// rotations, and all off.
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

/// Writes ten thousand files, some of which would fit in their inodes, and deletes them.
fn write_and_delete(root: &Path) {
    let dir = root.join("made");
    fs::create_dir(&dir).unwrap();
    for i in 0..10_000 {
        fs::write(dir.join(format!("file {i}")), &[i as u8; 300][..i % 300]).unwrap();
    }
    for i in (0..10_000).filter(|i| i % 100 != 0) {
        fs::remove_file(dir.join(format!("file {i}"))).unwrap();
    }
    for i in (0..10_000).step_by(200) {
        let contents = fs::read(dir.join(format!("file {i}"))).unwrap();
        assert_eq!(contents, vec![i as u8; i % 300]);
    }
    // What was there before is changed too.
    fs::write(root.join("3 bytes"), [3; 5000]).unwrap();
    fs::write(root.join("1 names/another"), "").unwrap();
    fs::write(root.join("11 names/another"), "").unwrap();
    fs::remove_dir_all(root.join("2 names")).unwrap();
    fs::remove_file(root.join("xattrs/both")).unwrap();
    if root.join("values").exists() {
        for name in ["one", "three"] {
            fs::remove_file(root.join("values").join(name)).unwrap();
        }
    }
}

/// Whether this kernel writes to filesystems with quotas (`CONFIG_QFMT_V2`).
fn kernel_has_quotas() -> bool {
    let image = Image::new(
        Options {
            quota: true,
            ..Options::new(16 << 20)
        },
        |_| (),
    );
    let device = testkit::Loop::attach(&image.path, true);
    let point = tempfile::tempdir().unwrap();
    let mounted = Command::new("mount")
        .arg(device.path())
        .arg(point.path())
        .output()
        .unwrap()
        .status
        .success();
    if mounted {
        Command::new("umount").arg(point.path()).status().unwrap();
    }
    mounted
}

/// What a filesystem with these options goes through.
fn check(mut options: Options, source: &Path, expected: &Walk, quotas: bool) {
    options.inode_ratio = 2048;
    options.size = 80 << 20;
    let image = Image::new(options.clone(), |image| {
        image.add_dir_all(source).unwrap();
        if options.ea_inode {
            add_large_values(image);
        }
        if options.project {
            let dir = image.lookup(image.root(), b"many").unwrap();
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
    if testkit::kernel_mounts() {
        let write = !options.read_only && (quotas || !options.quota && !options.project);
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

fn check_rows(block_size: BlockSize, mut alter: impl FnMut(&mut Options)) {
    let source = source();
    add_small(source.path());
    let expected = walk(source.path()).unwrap();
    let quotas = testkit::kernel_mounts() && kernel_has_quotas();
    for row in rows() {
        let mut options = Options {
            block_size,
            ..Options::new(0)
        };
        for (set, on) in FACTORS.iter().zip(row) {
            set(&mut options, on);
        }
        alter(&mut options);
        check(options, source.path(), &expected, quotas);
    }
}

#[test]
fn every_pair_of_options_is_right_with_blocks_of_4_kib() {
    check_rows(BlockSize::B4096, |_| ());
}

#[test]
fn every_pair_of_options_is_right_with_blocks_of_2_kib() {
    check_rows(BlockSize::B2048, |_| ());
}

#[test]
fn every_pair_of_options_is_right_with_blocks_of_1_kib() {
    check_rows(BlockSize::B1024, |_| ());
}

/// Without quotas, which not every kernel writes to.
#[test]
fn every_pair_of_options_but_quotas_stays_right_when_ten_thousand_files_come_and_go() {
    let mut row = 0;
    check_rows(BlockSize::B4096, |options| {
        options.quota = false;
        options.project = false;
        options.read_only = row == 11;
        options.block_size = [BlockSize::B4096, BlockSize::B1024, BlockSize::B2048][row % 3];
        row += 1;
    });
}
