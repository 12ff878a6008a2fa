//! Trees of every kind of node: the kernel sees in the image what it sees in the source.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};

use common::{Image, source};
use ext4_writer::{BlockSize, Metadata, Options};
use testkit::{Difference, Mount, walk};

/// What the kernel sees in an image, without `lost+found`.
fn walk_image(mount: &Mount) -> testkit::Walk {
    let mut walk = walk(mount.path()).unwrap();
    walk.remove(&b"lost+found"[..]);
    walk
}

#[test]
fn the_kernel_sees_the_source_and_may_change_it_and_it_stays_clean() {
    if !testkit::kernel_mounts() {
        return;
    }
    let source = source();
    let expected = walk(source.path()).unwrap();
    for block_size in [BlockSize::B1024, BlockSize::B2048, BlockSize::B4096] {
        let options = Options::new(64 << 20)
            .block_size(block_size)
            .inode_ratio(4096);
        let image = Image::new(options, |image| {
            image.add_dir_all(source.path()).unwrap();
        });
        image.assert_clean();
        let mount = Mount::ext4(&image.path, true);
        Difference::between(&walk_image(&mount), &expected).assert_none();

        for i in (0..3000).step_by(2) {
            let name = format!("many/entry number {i}");
            fs::metadata(mount.path().join(&name)).unwrap();
            fs::remove_file(mount.path().join(name)).unwrap();
        }
        let fresh = mount.path().join("a/fresh");
        fs::create_dir(&fresh).unwrap();
        for i in 0..2000 {
            fs::write(fresh.join(format!("{i}")), vec![7; i]).unwrap();
        }
        for name in ["large", "slow", "xattrs/big"] {
            fs::remove_file(mount.path().join(name)).unwrap();
        }
        let mut both = File::options()
            .append(true)
            .open(mount.path().join("xattrs/both"))
            .unwrap();
        both.write_all(&vec![9; 1 << 20]).unwrap();
        drop((both, mount));
        image.assert_clean();
    }
}

#[test]
fn holes_take_no_blocks_and_read_as_zeros() {
    let size = (1 << 30) + 7;
    let ranges = [
        0..10,
        5000..5001,
        5002..10000,
        3 << 20..(5 << 20) + 1,
        size - 3..size,
    ];
    let data: Vec<u8> = (0..ranges.iter().map(|range| range.end - range.start).sum())
        .map(|i: u64| (i % 255) as u8 + 1)
        .collect();
    let image = Image::new(Options::new(16 << 20), |image| {
        let root = image.root();
        let meta = Metadata::new(0o644);
        image
            .add_sparse_file(root, b"sparse", meta.clone(), size, &ranges, &data[..])
            .unwrap();
        image
            .add_sparse_file(root, b"hole", meta, size, &[], &b""[..])
            .unwrap();
    });
    image.assert_clean();
    if !testkit::kernel_mounts() {
        return;
    }
    let mount = Mount::ext4(&image.path, false);
    use std::os::unix::fs::MetadataExt;
    let stat = fs::metadata(mount.path().join("hole")).unwrap();
    assert_eq!((stat.len(), stat.blocks()), (size, 0));
    let mut file = File::open(mount.path().join("sparse")).unwrap();
    let stat = file.metadata().unwrap();
    // 2 MiB and a byte; one block each for the first and the last range; the other two, which share
    // one, have two.
    assert_eq!((stat.len(), stat.blocks()), (size, (513 + 1 + 1 + 2) * 8));
    let mut at = 0;
    for range in &ranges {
        let mut bytes = vec![0; (range.end - range.start) as usize];
        file.seek(SeekFrom::Start(range.start)).unwrap();
        file.read_exact(&mut bytes).unwrap();
        assert_eq!(bytes, data[at..at + bytes.len()]);
        at += bytes.len();
    }
    let mut hole = vec![1; 20 << 20];
    file.seek(SeekFrom::Start(10 << 20)).unwrap();
    file.read_exact(&mut hole).unwrap();
    assert!(hole.iter().all(|&byte| byte == 0));
}
