//! What options make of a filesystem, two by two; and directories that need some of them.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::fs::{self, File};
use std::io::Cursor;

use common::Image;
use ext4_writer::{BlockSize, Builder, Error, Info, Journal, Metadata, Options, grow};
use testkit::Mount;

/// Features that are options, with the names that dumpe2fs prints.
type Set = fn(&mut Options);
const FEATURES: [(&str, Set); 4] = [
    ("large_dir", |options| options.large_dir = true),
    ("project", |options| options.project = true),
    ("verity", |options| options.verity = true),
    ("read-only", |options| options.read_only = true),
];

/// The features that dumpe2fs and the library read, which are the same.
fn features(image: &Image) -> Vec<String> {
    let info = Info::read(File::open(&image.path).unwrap()).unwrap();
    let mut ours: Vec<_> = info.features.names().collect();
    if let Some(mut dumpe2fs) = testkit::oracle("dumpe2fs") {
        let output = dumpe2fs.arg("-h").arg(&image.path).output().unwrap();
        let output = String::from_utf8(output.stdout).unwrap();
        let line = output
            .lines()
            .find_map(|line| line.strip_prefix("Filesystem features:"));
        let mut printed: Vec<_> = line.unwrap().split_whitespace().collect();
        ours.sort_unstable();
        printed.sort_unstable();
        assert_eq!(ours, printed);
    }
    ours
}

fn write_in(image: &Image) {
    let mount = Mount::ext4(&image.path, true);
    let dir = mount.path().join("made");
    fs::create_dir(&dir).unwrap();
    for i in 0..200 {
        fs::write(dir.join(format!("{i}")), vec![1; i * 50]).unwrap();
    }
    for i in (0..200).step_by(2) {
        fs::remove_file(dir.join(format!("{i}"))).unwrap();
    }
}

#[test]
fn every_pair_of_options_makes_a_filesystem_that_is_clean_before_and_after_it_is_used() {
    for (i, (first, set_first)) in FEATURES.into_iter().enumerate() {
        for (j, (second, set_second)) in FEATURES.into_iter().enumerate().skip(i) {
            let mut options = Options {
                block_size: [BlockSize::B4096, BlockSize::B1024][(i + j) % 2],
                journal: [Journal::Auto, Journal::None][j % 2],
                ..Options::new(24 << 20)
            };
            set_first(&mut options);
            set_second(&mut options);
            // Linux without CONFIG_QFMT_V2 mounts filesystems with projects only for reading.
            let read_only = options.read_only || options.project;
            let image = Image::new(options, |image| {
                let root = image.root();
                for i in 0..300 {
                    let name = format!("a file with a name of its own {i}");
                    image
                        .add_file(root, name.as_bytes(), Metadata::new(0o644), &b"x"[..], None)
                        .unwrap();
                }
            });
            let features = features(&image);
            for name in [first, second] {
                assert!(features.iter().any(|feature| feature == name), "{name}");
            }
            image.assert_clean();
            if testkit::kernel_mounts() {
                match read_only {
                    true => {
                        let mount = Mount::ext4(&image.path, false);
                        assert_eq!(fs::read_dir(mount.path()).unwrap().count(), 301);
                    }
                    false => write_in(&image),
                }
                image.assert_clean();
            }
            let file = File::options()
                .read(true)
                .write(true)
                .open(&image.path)
                .unwrap();
            grow(file, 60 << 20).unwrap();
            image.assert_clean();
        }
    }
}

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
    Options {
        block_size: BlockSize::B1024,
        large_dir,
        ..Options::new(64 << 20)
    }
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

/// `cargo test -p ext4-writer --test options -- --ignored`.
#[test]
#[ignore = "takes 16 s without optimisation"]
fn a_directory_of_a_million_files_is_clean_and_found_right() {
    const COUNT: u32 = 1_000_000;
    let options = Options {
        inode_ratio: 1024,
        ..Options::new(4 << 30)
    };
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
