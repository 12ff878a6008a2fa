//! Growing in place, and what images it refuses.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::fs::{self, File};
use std::io::Cursor;
use std::path::Path;
use std::sync::{Arc, Mutex};

use common::Image;
use ext4_writer::{
    BlockSize, Builder, Error, InPlaceOptions, Info, Journal, Metadata, Options, Progress, grow,
    grow_with,
};
use proptest::prelude::*;
use testkit::{Difference, Mount, walk};

fn grow_file(path: &Path, size: u64) -> Result<Info, Error> {
    let file = File::options().read(true).write(true).open(path).unwrap();
    grow(file, size)
}

/// An image that the kernel has written to, where it can.
fn used(options: Options) -> Image {
    let image = Image::new(options, |image| {
        let root = image.root();
        let data = vec![7; 300_000];
        image
            .add_file(root, b"before", Metadata::new(0o644), &data[..], None)
            .unwrap();
    });
    if testkit::kernel_mounts() {
        fill(&image, "made");
    }
    image
}

fn fill(image: &Image, name: &str) {
    let mount = Mount::ext4(&image.path, true);
    let dir = mount.path().join(name);
    fs::create_dir(&dir).unwrap();
    for i in 0..100 {
        fs::write(dir.join(format!("{i}")), vec![i as u8; i * 1000]).unwrap();
    }
}

#[test]
fn growing_reports_more_and_more_bytes() {
    let image = Image::new(Options::new(16 << 20), |_| ());
    let seen = Arc::new(Mutex::new(Vec::new()));
    let progress = Progress::new({
        let seen = Arc::clone(&seen);
        move |done| seen.lock().unwrap().push(done.bytes)
    });
    let options = InPlaceOptions::default().progress(progress);
    let file = File::options().read(true).write(true).open(&image.path);
    grow_with(file.unwrap(), 8 << 40, &options).unwrap();
    let seen = seen.lock().unwrap();
    assert!(seen.is_sorted() && seen.len() > 3, "{seen:?}");
    // At least the descriptors of 65,536 groups.
    assert!(seen.last().is_some_and(|bytes| *bytes > 65_536 * 64));
}

#[test]
fn a_filesystem_grows_and_grows_and_keeps_its_files_and_stays_clean() {
    for (block_size, sizes) in [
        (
            BlockSize::B4096,
            [16 << 20, 17 << 20, 5 << 30, (40_u64 << 30) + 5000],
        ),
        (BlockSize::B4096, [4 << 30, 9 << 30, 10 << 30, 263 << 30]),
        (BlockSize::B1024, [30 << 20, 33 << 20, 34 << 20, 2 << 30]),
    ] {
        let image = used(
            Options::new(sizes[0])
                .block_size(block_size)
                .reserved_percent(5),
        );
        for size in &sizes[1..] {
            let before = testkit::kernel_mounts()
                .then(|| walk(Mount::ext4(&image.path, false).path()).unwrap());
            let info = match grow_file(&image.path, *size) {
                Err(Error::GrowSize { largest, .. }) if largest < *size => {
                    assert!(largest >= sizes[0] * 64, "{largest}");
                    break;
                }
                grown => grown.unwrap(),
            };
            let unused = size - info.blocks * u64::from(info.block_size);
            assert!(unused < 4 << 20, "{info:?}");
            assert_eq!(fs::metadata(&image.path).unwrap().len(), *size);
            assert_eq!(Info::read(File::open(&image.path).unwrap()).unwrap(), info);
            image.assert_clean();
            if let Some(before) = before {
                let after = walk(Mount::ext4(&image.path, false).path()).unwrap();
                Difference::between(&after, &before).assert_none();
                fill(&image, &format!("at {size}"));
                image.assert_clean();
            }
        }
    }
}

#[test]
fn resize2fs_grows_a_filesystem_into_the_reserved_blocks_and_it_grows_on_from_there() {
    let Some(mut resize2fs) = testkit::oracle("resize2fs") else {
        return;
    };
    let image = used(Options::new(1 << 30));
    image.assert_clean();
    let output = resize2fs
        .arg("-f")
        .arg(&image.path)
        .arg("20G")
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    image.assert_clean();
    let info = Info::read(File::open(&image.path).unwrap()).unwrap();
    assert_eq!(info.blocks, (20 << 30) / 4096);
    let grown = grow_file(&image.path, 30 << 30).unwrap();
    assert_eq!(grown.blocks, (30 << 30) / 4096);
    image.assert_clean();
}

#[test]
fn a_filesystem_that_would_shrink_is_left_as_it_is() {
    let image = used(Options::new(16 << 20));
    let bytes = fs::read(&image.path).unwrap();
    for size in [0, 8 << 20, 1 << 50, u64::MAX] {
        let refused = grow_file(&image.path, size);
        assert!(
            matches!(refused, Err(Error::GrowSize { .. })),
            "{refused:?}"
        );
    }
    assert!(fs::read(&image.path).unwrap() == bytes);
    grow_file(&image.path, 32 << 20).unwrap();
}

#[test]
fn files_that_are_not_ext4_are_refused_by_name() {
    for bytes in [vec![], vec![0; 1024], vec![0; 4096]] {
        let read = Info::read(Cursor::new(&bytes));
        assert!(matches!(read, Err(Error::NotExt4)));
        let grown = grow(Cursor::new(bytes), 1 << 20);
        assert!(matches!(grown, Err(Error::NotExt4)));
    }
}

#[test]
fn features_have_the_names_that_dumpe2fs_prints() {
    let Some(mut dumpe2fs) = testkit::oracle("dumpe2fs") else {
        return;
    };
    let image = Image::new(Options::new(16 << 20), |_| ());
    let output = dumpe2fs.arg("-h").arg(&image.path).output().unwrap();
    let output = String::from_utf8(output.stdout).unwrap();
    let line = output
        .lines()
        .find_map(|line| line.strip_prefix("Filesystem features:"));
    let mut printed: Vec<_> = line.unwrap().split_whitespace().collect();
    let info = Info::read(File::open(&image.path).unwrap()).unwrap();
    let mut ours: Vec<_> = info.features.names().collect();
    printed.sort_unstable();
    ours.sort_unstable();
    assert_eq!(ours, printed);
}

fn small() -> Vec<u8> {
    let options = Options::new(1 << 20)
        .block_size(BlockSize::B1024)
        .journal(Journal::None);
    let out = Cursor::new(Vec::new());
    let (out, _) = Builder::new(out, options).unwrap().finish().unwrap();
    out.into_inner()
}

/// Corrects the superblock's checksum, so that what is after it is looked at.
fn seal(image: &mut [u8]) {
    let sum = !crc32c::crc32c(&image[1024..2044]);
    image[2044..2048].copy_from_slice(&sum.to_le_bytes());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn growing_never_panics_on_any_bytes(
        changes in prop::collection::vec((0..6000_usize, any::<u8>()), 1..8),
        sealed in any::<bool>(),
        size in prop_oneof![Just(32_u64 << 20), Just(1 << 30), any::<u64>()],
    ) {
        let mut image = small();
        for (at, byte) in changes {
            image[1024 + at] = byte;
        }
        if sealed {
            seal(&mut image);
        }
        let _ = Info::read(Cursor::new(&image));
        let _ = grow(Sparse(Cursor::new(image)), size);
    }
}

/// An image that keeps nothing of what is written after its end.
struct Sparse(Cursor<Vec<u8>>);

impl std::io::Read for Sparse {
    fn read(&mut self, bytes: &mut [u8]) -> std::io::Result<usize> {
        self.0.read(bytes)
    }
}

impl std::io::Write for Sparse {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let at = self.0.position();
        let end = self.0.get_ref().len() as u64;
        let kept = (end.saturating_sub(at) as usize).min(bytes.len());
        // Even writing nothing after its end would extend a `Vec`.
        if kept > 0 {
            self.0.write_all(&bytes[..kept])?;
        }
        self.0.set_position(at + bytes.len() as u64);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl std::io::Seek for Sparse {
    fn seek(&mut self, to: std::io::SeekFrom) -> std::io::Result<u64> {
        self.0.seek(to)
    }
}
