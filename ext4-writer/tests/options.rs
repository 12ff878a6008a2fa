//! What options make of a filesystem: every two of them in every way they can be set, with every block size.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::fs::{self, File};
use std::io::Read;
use std::path::Path;
use std::process::Command;

use common::{Image, add_tree, source};
use ext4_view::Ext4;
use ext4_writer::{BlockSize, Builder, Error, Info, Journal, Metadata, Options, grow};
use testkit::{Difference, Kind, Mount, Walk, walk};

/// An option that is on or off.
type Set = fn(&mut Options, bool);
const FACTORS: [Set; 11] = [
    |options, on| options.journal = if on { Journal::Auto } else { Journal::None },
    |options, on| options.orphan_file = on,
    |options, on| options.inline_data = on,
    |options, on| options.ea_inode = on,
    |options, on| options.quota = on,
    |options, on| options.project = on,
    |options, on| options.large_dir = on,
    |options, on| options.verity = on,
    |options, on| options.meta_bg = on,
    |options, on| options.signed_hash = on,
    |options, on| options.reserved_gdt_blocks = if on { None } else { Some(0) },
];

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

/// The features that dumpe2fs and the library read, which are the same.
fn features(image: &Image) -> Vec<String> {
    let info = Info::read(File::open(&image.path).unwrap()).unwrap();
    let mut ours: Vec<_> = info.features.names().collect();
    ours.sort_unstable();
    if let Some(mut dumpe2fs) = testkit::oracle("dumpe2fs") {
        let output = dumpe2fs.arg("-h").arg(&image.path).output().unwrap();
        let output = String::from_utf8(output.stdout).unwrap();
        let line = output
            .lines()
            .find_map(|line| line.strip_prefix("Filesystem features:"));
        let mut printed: Vec<_> = line.unwrap().split_whitespace().collect();
        printed.sort_unstable();
        assert_eq!(ours, printed);
    }
    ours
}

/// Values that need inodes of their own: two files with one in common, many with a shared block of entries.
fn add_large_values(image: &mut Builder<File>) {
    let root = image.root();
    let dir = image
        .add_dir(root, b"values", Metadata::new(0o755))
        .unwrap();
    let value = |len: usize| (0..len).map(|i| (i * len / 7) as u8).collect::<Vec<_>>();
    for (name, lens) in LARGE_VALUES {
        let metadata = Metadata {
            uid: 7,
            xattrs: lens
                .iter()
                .map(|&len| (format!("user.{len}").into_bytes(), value(len)))
                .collect(),
            ..Metadata::new(0o644)
        };
        image
            .add_file(dir, name.as_bytes(), metadata, &b"some"[..], None)
            .unwrap();
    }
}

const LARGE_VALUES: [(&str, &[usize]); 5] = [
    ("one", &[65536]),
    ("two", &[65536, 5000, 30]),
    ("three", &[3000, 3001, 3002, 3003, 300, 310, 320, 330]),
    ("four", &[3000, 3001, 3002, 3003, 300, 310, 320, 330]),
    ("five", &[9000, 9001, 9002, 9003, 9004, 9005, 9006, 9007]),
];

fn check_large_values(root: &Path) {
    for (name, lens) in LARGE_VALUES {
        for len in lens {
            let mut value = vec![0; 1 << 17];
            let path = root.join("values").join(name);
            let n = rustix::fs::getxattr(&path, format!("user.{len}"), &mut value[..]).unwrap();
            assert_eq!(n, *len);
            let right = value[..n]
                .iter()
                .enumerate()
                .all(|(i, &byte)| byte == (i * len / 7) as u8);
            assert!(right, "{name} {len}");
        }
    }
}

/// Files and directories of the sizes between those that lie in inodes and those that have blocks.
fn add_small(dir: &Path) {
    for size in (0..200).step_by(3).chain([60, 61, 127, 128, 129]) {
        fs::write(dir.join(format!("{size} bytes")), vec![size as u8; size]).unwrap();
    }
    for count in 0..12 {
        let dir = dir.join(format!("{count} names"));
        fs::create_dir(&dir).unwrap();
        for i in 0..count {
            fs::write(dir.join("n".repeat(i * 7 + 1)), "").unwrap();
        }
    }
    // Too long for what is left of `i_block`, but not for what is behind.
    fs::create_dir(dir.join("long name")).unwrap();
    fs::write(dir.join("long name").join("n".repeat(58)), "").unwrap();
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

/// Compares the regular files that ext4-view, which checks every checksum, finds with those of `walk`.
fn compare_view(image: &Image, expected: &Walk, root: &Path) {
    let view = Ext4::load_from_path(&image.path).unwrap();
    for (path, entry) in expected {
        let Kind::File { size, .. } = entry.kind else {
            continue;
        };
        let host = std::os::unix::ffi::OsStrExt::from_bytes(&path[..]);
        let host: &std::ffi::OsStr = host;
        let inside = [&b"/"[..], path].concat();
        // It takes times whose low half is negative for corruption.
        if (entry.mtime.0 as i32) < 0 {
            continue;
        }
        let meta = view.symlink_metadata(&inside[..]).unwrap();
        assert_eq!(meta.len(), size, "{}", path.escape_ascii());
        if size < 1 << 20 && path.len() < 100 {
            let mut contents = Vec::new();
            File::open(root.join(host))
                .unwrap()
                .read_to_end(&mut contents)
                .unwrap();
            assert!(view.read(&inside[..]).unwrap() == contents);
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
    let name = format!("{options:?}");
    options.inode_ratio = 2048;
    options.size = 80 << 20;
    let image = Image::new(options.clone(), |image| {
        add_tree(image, source);
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
    let features = features(&image);
    for (feature, wanted) in [
        ("inline_data", options.inline_data),
        ("ea_inode", options.ea_inode),
        ("quota", options.quota),
        ("project", options.project),
        ("large_dir", options.large_dir),
        ("verity", options.verity),
        ("meta_bg", options.meta_bg),
        ("read-only", options.read_only),
        ("has_journal", options.journal == Journal::Auto),
        (
            "orphan_file",
            options.orphan_file && options.journal == Journal::Auto,
        ),
        (
            "resize_inode",
            options.reserved_gdt_blocks.is_none() && !options.meta_bg,
        ),
    ] {
        let there = features.iter().any(|name| name == feature);
        assert_eq!(there, wanted, "{feature}: {name}");
    }
    image.assert_clean();
    if !(options.inline_data || options.ea_inode || options.large_dir || options.meta_bg) {
        compare_view(&image, expected, source);
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
