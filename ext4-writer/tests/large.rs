//! Filesystems of terabytes, in memory: what the temporary folder is on may not hold files so long.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use common::e2fsck;
use ext4_writer::{Builder, Error, Info, Metadata, Options, grow};
use testkit::Mount;

const TIB: u64 = 1 << 40;

/// An image of holes in memory, of the filesystem with these options and one file.
struct Large {
    path: PathBuf,
    _dir: tempfile::TempDir,
}

impl Large {
    /// `None` where there is no place for it.
    fn new(options: Options) -> Option<Self> {
        let dir = match tempfile::tempdir_in("/dev/shm") {
            Ok(dir) => dir,
            Err(_) => {
                testkit::skip("no /dev/shm");
                return None;
            }
        };
        let path = dir.path().join("image.ext4");
        let file = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&path)
            .unwrap();
        file.set_len(options.size).unwrap();
        let mut image = Builder::new(file, options).unwrap();
        let root = image.root();
        image
            .add_file(
                root,
                b"before",
                Metadata::new(0o644),
                &[7; 300_000][..],
                None,
            )
            .unwrap();
        image.finish().unwrap();
        Some(Self { path, _dir: dir })
    }

    fn grow(&self, size: u64) -> Result<Info, Error> {
        grow(common::open(&self.path), size)
    }

    fn has(&self, feature: &str) -> bool {
        let info = Info::read(File::open(&self.path).unwrap()).unwrap();
        info.features.names().any(|name| name == feature)
    }

    fn assert_clean(&self) {
        if testkit::oracle("e2fsck").is_some() {
            let (code, said) = e2fsck(&["-fn"], &self.path);
            assert_eq!(code, 0, "{said}");
        }
    }

    /// Lets the kernel check all groups' descriptors, read what was there and write.
    fn use_it(&self, name: &str) {
        if !testkit::kernel_mounts() {
            return;
        }
        let mount = Mount::ext4(&self.path, true);
        assert_eq!(fs::read(mount.path().join("before")).unwrap(), [7; 300_000]);
        let dir = mount.path().join(name);
        fs::create_dir(&dir).unwrap();
        for i in 0..100 {
            fs::write(dir.join(format!("{i}")), vec![i as u8; i * 1000]).unwrap();
        }
    }
}

fn allocated(path: &Path) -> u64 {
    fs::metadata(path).unwrap().blocks() * 512
}

#[test]
fn filesystems_of_16_and_64_tib_take_little_space_and_can_be_used() {
    for (size, most) in [(16 * TIB, 64 << 20), (64 * TIB, 256 << 20)] {
        let Some(image) = Large::new(Options::new(size)) else {
            return;
        };
        assert!(allocated(&image.path) <= most, "{}", allocated(&image.path));
        assert!(image.has("meta_bg") && !image.has("resize_inode"));
        image.use_it("made");
    }
}

/// `cargo test -p ext4-writer --test large -- --ignored`.
#[test]
#[ignore = "e2fsck takes minutes and gigabytes for it"]
fn e2fsck_finds_filesystems_of_16_and_64_tib_clean() {
    for size in [16 * TIB, 64 * TIB] {
        let Some(image) = Large::new(Options::new(size)) else {
            return;
        };
        image.use_it("made");
        image.assert_clean();
    }
}

#[test]
fn a_filesystem_grows_beyond_the_blocks_reserved_for_descriptors_again_and_again() {
    // One block of descriptors with blocks of 4 KiB is 64 groups: 8 GiB.
    for (reserved, sizes) in [
        (Some(2), [4 << 30, 25 << 30, 26 << 30, 200 << 30]),
        (Some(0), [4 << 30, 8 << 30, 9 << 30, 70 << 30]),
        (None, [16 << 20, 300 << 30, 301 << 30, TIB]),
    ] {
        let options = Options::new(sizes[0])
            .reserved_gdt_blocks(reserved)
            .reserved_percent(5)
            .inode_ratio(1 << 16);
        let Some(image) = Large::new(options) else {
            return;
        };
        image.use_it("at first");
        for size in &sizes[1..] {
            let info = image.grow(*size).unwrap();
            assert!(size - info.blocks * 4096 < 4 << 20);
            image.assert_clean();
            image.use_it(&format!("at {size}"));
            image.assert_clean();
        }
        assert!(image.has("meta_bg") && !image.has("resize_inode"));
    }
}

#[test]
fn a_filesystem_grows_past_16_tib_until_its_inodes_are_all_that_can_be() {
    let Some(image) = Large::new(Options::new(15 * TIB)) else {
        return;
    };
    assert!(image.has("resize_inode"));
    for size in [20 * TIB, 60 * TIB] {
        image.grow(size).unwrap();
        image.use_it(&format!("at {size}"));
    }
    match image.grow(65 * TIB) {
        Err(Error::GrowSize { largest, .. }) => {
            assert!((63 * TIB..64 * TIB).contains(&largest), "{largest}");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn resize2fs_grows_images_with_meta_bg_and_so_does_grow_afterwards() {
    let Some(mut resize2fs) = testkit::oracle("resize2fs") else {
        return;
    };
    let options = Options::new(1 << 30).meta_bg(true);
    let Some(image) = Large::new(options) else {
        return;
    };
    image.grow(20 << 30).unwrap();
    image.assert_clean();
    let output = resize2fs
        .arg("-f")
        .arg(&image.path)
        .arg("30G")
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    image.grow(50 << 30).unwrap();
    image.assert_clean();
    image.use_it("made");
}
