//! Sizes that ordinary images do not have.

use std::io::Cursor;

use erofs_writer::{Builder, Metadata, Node, Options};
use testkit::{Mount, kernel_mounts};

use crate::model::fsck;

fn builder() -> Builder<Cursor<Vec<u8>>> {
    Builder::new(Cursor::new(Vec::new()), Options::default()).unwrap()
}

#[test]
fn a_hundred_thousand_levels_need_no_stack() {
    let mut builder = builder();
    let mut at = builder.root();
    for _ in 0..100_000 {
        at = builder
            .add(at, b"d", Metadata::new(0o755), Node::Directory)
            .unwrap();
    }
    let error = builder
        .add(at, b"", Metadata::new(0o755), Node::Fifo)
        .unwrap_err();
    assert!(error.to_string().len() > 200_000);
    let (image, summary) = builder.finish().unwrap();
    assert_eq!(summary.inodes, 100_001);
    let image = erofs_reader::Image::open(image.get_ref()).unwrap();
    let mut inode = image.root().unwrap();
    for _ in 0..100_000 {
        let entry = image.child(&inode, b"d").unwrap().unwrap();
        inode = image.inode(entry.nid).unwrap();
    }
    assert!(image.child(&inode, b"d").unwrap().is_none());
}

#[test]
fn a_million_entries_in_one_directory() {
    const ENTRIES: u32 = 1_000_000;
    let name = |i: u32| format!("{:08x}", i.wrapping_mul(0x9E37_79B1));
    let mut builder = builder();
    let root = builder.root();
    for i in 0..ENTRIES {
        let meta = Metadata::new(0o755);
        builder
            .add(root, name(i).as_bytes(), meta, Node::Fifo)
            .unwrap();
    }
    let (image, summary) = builder.finish().unwrap();
    assert_eq!(summary.compact_inodes, u64::from(ENTRIES) + 1);
    let bytes = image.into_inner();
    let image = erofs_reader::Image::open(&bytes[..]).unwrap();
    let root = image.root().unwrap();
    let names: Vec<_> = image
        .read_dir(&root)
        .unwrap()
        .map(|entry| entry.unwrap().name)
        .collect();
    assert_eq!(names.len(), ENTRIES as usize);
    assert!(names.is_sorted());
    assert!(image.child(&root, name(1).as_bytes()).unwrap().is_some());

    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("image.erofs");
    std::fs::write(&path, &bytes).unwrap();
    fsck(&path, &[]);
    if kernel_mounts() {
        let mount = Mount::erofs(&path, &[]);
        let listed = std::fs::read_dir(mount.path()).unwrap().count();
        assert_eq!(listed, ENTRIES as usize);
        for i in (0..ENTRIES).step_by(9973) {
            assert!(mount.path().join(name(i)).symlink_metadata().is_ok());
            assert!(mount.path().join(name(i) + "x").symlink_metadata().is_err());
        }
    }
}

#[test]
fn builders_and_writers_move_between_threads() {
    fn sent<T: Send>(_: T) {}
    let mut builder = builder();
    sent(builder.data());
    sent(builder);
}
