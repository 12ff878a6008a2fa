//! How little of an image is read.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::cell::Cell;
use std::io::{Cursor, Write};

use erofs_reader::{Image, ReadAt, ReadAtError};
use erofs_writer::{Builder, Metadata, Node, Options};

/// An image in front of so many zeros that it has `size` bytes, and how many were read.
struct Counting<'a> {
    bytes: &'a [u8],
    size: u64,
    read: &'a Cell<u64>,
}

impl ReadAt for Counting<'_> {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize, ReadAtError> {
        let left = self.size.saturating_sub(offset).min(buf.len() as u64);
        let buf = &mut buf[..usize::try_from(left)?];
        buf.fill(0);
        self.bytes.read_at(buf, offset)?;
        self.read.set(self.read.get() + left);
        Ok(buf.len())
    }

    fn size(&self) -> Result<u64, ReadAtError> {
        Ok(self.size)
    }
}

#[test]
fn opening_and_looking_up_read_a_few_blocks_of_an_image_however_large() {
    const NAMES: u64 = 50_000;
    const BLOCK: u64 = 4096;
    let options = Options::default().block_size(erofs_writer::BlockSize::B4096);
    let mut builder = Builder::new(Cursor::new(Vec::new()), options).unwrap();
    let mut data = builder.data();
    data.write_all(&[b'x'; 100]).unwrap();
    let contents = data.finish().unwrap();
    for name in 0..NAMES {
        let path = format!("dir/{name:06}");
        let (meta, node) = (Metadata::new(0o755), Node::File(contents));
        builder.add_path(path.as_bytes(), meta, node).unwrap();
    }
    let bytes = builder.finish().unwrap().0.into_inner();
    let read = Cell::new(0);
    let source = Counting {
        bytes: &bytes,
        size: 10 << 30,
        read: &read,
    };
    let image = Image::open(source).unwrap();
    assert!(read.get() <= 2 * BLOCK, "{} bytes to open", read.get());
    for name in [0, 1, 777, 25_000, NAMES - 1] {
        read.set(0);
        let inode = image.metadata(format!("dir/{name:06}")).unwrap();
        assert_eq!(inode.size(), 100);
        // The directory has some 300 blocks, of which 8 halvings leave one.
        assert!(read.get() <= 16 * BLOCK, "{} bytes to look up", read.get());
    }
    read.set(0);
    let inode = image.metadata("dir/012345").unwrap();
    let looked = read.get();
    let mut text = String::new();
    std::io::Read::read_to_string(&mut image.file(&inode).unwrap(), &mut text).unwrap();
    assert_eq!(text, "x".repeat(100));
    assert!(read.get() - looked <= 2 * BLOCK);
}
