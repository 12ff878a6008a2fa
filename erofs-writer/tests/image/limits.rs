//! Sizes that ordinary images do not have.

use std::io::Cursor;

use erofs_writer::{ImageBuilder, Metadata, Node, Options};

fn builder() -> ImageBuilder<Cursor<Vec<u8>>> {
    ImageBuilder::new(Cursor::new(Vec::new()), Options::default()).unwrap()
}

#[test]
fn a_hundred_thousand_levels_need_no_stack() {
    let mut builder = builder();
    let mut at = builder.root();
    for _ in 0..100_000 {
        at = builder
            .add(at, b"d", Metadata::default(), Node::Directory)
            .unwrap();
    }
    let error = builder
        .add(at, b"", Metadata::default(), Node::Fifo)
        .unwrap_err();
    assert!(error.to_string().len() > 200_000);
    let (image, summary) = builder.finish().unwrap();
    assert_eq!(summary.inodes, 100_001);
    let image = erofs_reader::Image::open(image.get_ref()).unwrap();
    let mut inode = image.root().unwrap();
    for _ in 0..100_000 {
        let entry = image.find(&inode, b"d").unwrap().unwrap();
        inode = image.inode(entry.nid).unwrap();
    }
    assert!(image.find(&inode, b"d").unwrap().is_none());
}

#[test]
fn hundreds_of_thousands_of_entries_in_one_directory() {
    let mut builder = builder();
    let root = builder.root();
    for i in 0..300_000_u32 {
        let name = format!("{:08x}", i.wrapping_mul(0x9E37_79B1));
        builder
            .add(root, name.as_bytes(), Metadata::default(), Node::Fifo)
            .unwrap();
    }
    let (image, summary) = builder.finish().unwrap();
    assert_eq!(summary.compact_inodes, 300_001);
    let image = erofs_reader::Image::open(image.get_ref()).unwrap();
    let root = image.root().unwrap();
    let names: Vec<_> = image
        .read_dir(&root)
        .unwrap()
        .map(|entry| entry.unwrap().name)
        .collect();
    assert_eq!(names.len(), 300_000);
    assert!(names.is_sorted());
    assert!(image.find(&root, b"9e3779b1").unwrap().is_some());
}

#[test]
fn builders_and_writers_move_between_threads() {
    fn sent<T: Send>(_: T) {}
    let mut builder = builder();
    sent(builder.data());
    sent(builder);
}
