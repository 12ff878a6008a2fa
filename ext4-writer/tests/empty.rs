//! Filesystems without files, of all sizes.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::time::Duration;

use common::Image;
use ext4_writer::{BlockSize, Journal, Options};
use testkit::Mount;

#[test]
fn e2fsck_finds_every_size_and_block_size_clean() {
    for block_size in [BlockSize::B1024, BlockSize::B2048, BlockSize::B4096] {
        for (size, journal) in [
            (256 << 10, Journal::Auto),
            (1 << 20, Journal::Auto),
            (16 << 20, Journal::Auto),
            (16 << 20, Journal::None),
            ((100 << 20) + 12345, Journal::Auto),
            (1 << 30, Journal::Size(8 << 20)),
            (4 << 30, Journal::Auto),
            (9 << 30, Journal::Auto),
        ] {
            let options = Options::new(size).block_size(block_size).journal(journal);
            let image = Image::new(options, |_| ());
            image.assert_clean();
            assert_eq!(std::fs::metadata(&image.path).unwrap().len(), size);
        }
    }
}

#[test]
fn an_empty_image_takes_little_space_and_no_more_while_mounted_idle_for_a_minute() {
    let images: Vec<_> = [
        (16 << 20, 64 << 10),
        (4_u64 << 30, 300 << 10),
        (64 << 30, 750 << 10),
        (1 << 40, 10_700 << 10),
    ]
    .into_iter()
    .map(|(size, most)| {
        let image = Image::new(Options::new(size), |_| ());
        let allocated = image.allocated();
        assert!(allocated <= most, "{size} bytes: {allocated}");
        (image, allocated, most)
    })
    .collect();
    if !testkit::kernel_mounts() {
        return;
    }
    let mounts: Vec<_> = images
        .iter()
        .map(|(image, ..)| Mount::ext4(&image.path, true))
        .collect();
    // Longer than the kernel waits before it commits (5 s), or zeroes the first inode tables where
    // it has to.
    std::thread::sleep(Duration::from_secs(60));
    for (image, allocated, _) in &images {
        assert_eq!(image.allocated(), *allocated, "{:?}", image.summary);
    }
    drop(mounts);
    for (image, allocated, most) in &images {
        // Unmounting is a transaction of a few blocks.
        let afterwards = image.allocated();
        assert!(
            afterwards <= allocated + (32 << 10) && afterwards <= *most,
            "{afterwards}: {:?}",
            image.summary
        );
        image.assert_clean();
    }
}

/// What dumpe2fs says of the filesystem and its groups.
#[test]
fn superblock_and_groups_of_a_small_image_equal_the_snapshot() {
    let Some(mut dumpe2fs) = testkit::oracle("dumpe2fs") else {
        return;
    };
    let options = Options::new(100 << 20)
        .block_size(BlockSize::B2048)
        .label(b"golden".to_vec())
        .reserved_percent(5);
    let image = Image::new(options, |_| ());
    let output = dumpe2fs.arg(&image.path).output().unwrap();
    insta::assert_snapshot!(String::from_utf8(output.stdout).unwrap());
}
