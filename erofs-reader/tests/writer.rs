//! Images that `erofs-writer` makes, read back.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::collections::BTreeMap;
use std::io::{Cursor, Read, Seek, SeekFrom, Write};

use common::noise;
use erofs_reader::{Image, Source};
use erofs_writer::{
    Addresses, BlockSize, Builder, DeviceSlot, FileData, Metadata, Node, Options, Timestamp,
};

#[test]
fn every_block_size_reads_back() {
    for bits in 9..=16 {
        let block_size = BlockSize::new(1 << bits).unwrap();
        let options = Options::default().block_size(block_size);
        let mut builder = Builder::new(Cursor::new(Vec::new()), options).unwrap();
        let mut expected = BTreeMap::new();
        for size in [0, 1, 511, 512, 4096, 65_535, 65_536, 65_537, 150_000] {
            let bytes = noise(size, usize::try_from(size).unwrap());
            let mut data = builder.data();
            data.write_all(&bytes).unwrap();
            let contents = data.finish().unwrap();
            let path = format!(
                "dir/{}",
                "n".repeat(usize::try_from(size % 199 + 1).unwrap())
            );
            let meta = Metadata::new(0o755).mtime(Timestamp {
                secs: -1,
                nanos: 999_999_999,
            });
            builder
                .add_path(path.as_bytes(), meta, Node::File(contents))
                .unwrap();
            expected.insert(path.into_bytes(), bytes);
        }
        let (out, summary) = builder.finish().unwrap();
        let bytes = out.into_inner();
        let image = Image::open(&bytes).unwrap();
        assert_eq!(image.superblock().block_size.bytes(), 1 << bits);
        assert_eq!(image.superblock().uuid, summary.uuid);
        assert_eq!(image.check().findings, []);
        for step in image.walk() {
            let (path, inode) = step.unwrap();
            if !inode.is_file() {
                continue;
            }
            assert_eq!(<(i64, u32)>::from(inode.mtime()), (-1, 999_999_999));
            let bytes = expected.remove(path.as_bytes()).unwrap();
            let mut file = image.file(&inode).unwrap();
            let mut read = Vec::new();
            file.read_to_end(&mut read).unwrap();
            assert!(read == bytes, "{} bytes in 2^{bits}", bytes.len());
            // From the middle, and past the end.
            file.seek(SeekFrom::End(-1000)).unwrap_or_default();
            let middle = file.stream_position().unwrap();
            read.clear();
            file.read_to_end(&mut read).unwrap();
            assert!(read == bytes[usize::try_from(middle).unwrap()..]);
            assert_eq!(file.read_at(&mut [0; 9], inode.size()).unwrap(), 0);
        }
        assert!(expected.is_empty());
    }
}

#[test]
fn data_on_devices_is_found_with_devices_and_stitched() {
    let layer = noise(3, 512 * 10);
    let mut builder = Builder::new(Cursor::new(Vec::new()), Options::default()).unwrap();
    let mut devices = Vec::new();
    for _ in 0..2 {
        let device = DeviceSlot::new([b'0'; 64], 10);
        devices.push(builder.add_device(device).unwrap());
    }
    let contents = FileData::on_device(devices[1], 3, 1000);
    builder
        .add_path(b"file", Metadata::new(0o755), Node::File(contents))
        .unwrap();
    let primary = builder.finish().unwrap().0.into_inner();

    let with =
        Image::open_with_devices(primary.clone(), vec![vec![0; 5120], layer.clone()]).unwrap();
    let file = with.metadata("file").unwrap();
    assert_eq!(
        with.extents(&file).unwrap()[0].source,
        Source::Data {
            device: 2,
            offset: 3 * 512
        }
    );
    assert_eq!(with.check().findings, []);

    // Without the devices the tree can be read and checked, and the data is known to be elsewhere.
    let alone = Image::open(primary.clone()).unwrap();
    assert_eq!(alone.check().findings, []);
    let mut read = Vec::new();
    let error = alone
        .file(&file)
        .unwrap()
        .read_to_end(&mut read)
        .unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::InvalidData);

    let stitched = Image::open([&primary[..], &[0; 5120], &layer].concat()).unwrap();
    for image in [&with, &stitched] {
        let mut read = Vec::new();
        let mut file = image.file(&file).unwrap();
        file.read_to_end(&mut read).unwrap();
        assert_eq!(read, layer[3 * 512..][..1000]);
    }
}

#[test]
fn devices_beyond_32_bits_of_blocks_keep_their_places() {
    let options = Options::default().addresses(Addresses::Bits48);
    let mut builder = Builder::new(Cursor::new(Vec::new()), options).unwrap();
    for (tag, blocks) in [(1, 5 << 32), (2, 7)] {
        let tag = [tag; 64];
        builder.add_device(DeviceSlot::new(tag, blocks)).unwrap();
    }
    let (bytes, _) = builder.finish().unwrap();
    let image = Image::open(bytes.into_inner()).unwrap();
    let devices = &image.superblock().devices;
    assert_eq!((devices[0].blocks, devices[1].blocks), (5 << 32, 7));
    assert_eq!(devices[1].uniaddr, devices[0].uniaddr + (5 << 32));
}
