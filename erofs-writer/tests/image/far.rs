//! 48-bit addresses: what they reach, and what else the kernels that have them read.

use std::fs::File;
use std::io::{Cursor, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

use erofs_writer::{
    Addresses, Builder, Chunk, ChunkSize, DeviceSlot, Error, FileData, Metadata, Node, Options,
};
use testkit::{Difference, Mount, kernel_mounts, walk};

use crate::model::{Model, Spec, at, fsck, nasty, noise};
use crate::reader::{assert_same, read};

fn options() -> Options {
    Options::default().addresses(Addresses::Bits48)
}

fn create(path: &Path) -> File {
    File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(path)
        .unwrap()
}

#[test]
fn every_type_and_attribute_reads_back() {
    let model = nasty();
    let (image, summary) = model.build(options()).unwrap();
    assert_same(&read(&image, vec![]), &model.tree());
    let few = summary.inodes - summary.compact_inodes;
    assert!(few < 60, "{summary:?}");
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("image.erofs");
    std::fs::write(&path, image).unwrap();
    fsck(&path, &[]);
    if kernel_mounts() {
        let mount = Mount::erofs(&path, &[]);
        Difference::between(&walk(mount.path()).unwrap(), &model.walk()).assert_none();
    }
}

#[test]
fn seconds_after_the_epoch_fit_compact_inodes() {
    let mut model = Model::default();
    for i in 0..100 {
        model.add(format!("{i}"), at(1_700_000_000 + i, 0), Spec::Fifo);
    }
    let extended = |options| {
        let (image, summary) = model.build(options).unwrap();
        assert_same(&read(&image, vec![]), &model.tree());
        summary.inodes - summary.compact_inodes
    };
    assert_eq!(extended(options()), 0);
    // All but the earliest.
    assert_eq!(extended(Options::default()), 100);
}

#[test]
fn contents_and_metadata_beyond_32_bits_of_blocks_read_back() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("image.erofs");
    let mut builder = Builder::with_dedupe(create(&path), options()).unwrap();
    // 2 TiB that no file names.
    let mut nothing = builder.data();
    nothing.hole((1 << 41) + 5000).unwrap();
    nothing.finish().unwrap();
    let mut model = nasty();
    let mut data = model.write_data(&mut builder).unwrap();
    let mut sparse = builder.data_in_chunks(ChunkSize::from_block_bits(1).unwrap());
    sparse.write_all(&noise(3000)).unwrap();
    sparse.hole(5000).unwrap();
    sparse.write_all(b"end").unwrap();
    data.insert(b"sparse".to_vec(), sparse.finish().unwrap());
    let contents = [&noise(3000)[..], &[0; 5000], b"end"].concat();
    model.add("sparse", Metadata::new(0o755), Spec::File(contents));
    model.add_names(&mut builder, &data).unwrap();
    let (_, summary) = builder.finish().unwrap();
    assert!(
        summary.blocks > 1 << 32 && summary.compact_inodes > 500,
        "{summary:?}"
    );
    fsck(&path, &[]);
    if kernel_mounts() {
        let mount = Mount::erofs(&path, &[]);
        Difference::between(&walk(mount.path()).unwrap(), &model.walk()).assert_none();
    }
}

#[test]
fn devices_beyond_32_bits_of_blocks_read_back() {
    for chunk_indexes in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let names = ["merged", "0", "1"].map(|name| dir.path().join(name));
        let blocks = (1_u64 << 32) + 7;
        let options = options().chunk_indexes(chunk_indexes);
        let mut builder = Builder::new(create(&names[0]), options).unwrap();
        let mut model = Model::default();
        let mut data = std::collections::BTreeMap::new();
        let contents = noise(1024);
        for (i, name) in names[1..].iter().enumerate() {
            let file = create(name);
            file.set_len(blocks * 512).unwrap();
            file.write_all_at(&contents, (blocks - 2) * 512).unwrap();
            let tag = [b'a' + i as u8; 64];
            let device = builder.add_device(DeviceSlot::new(tag, blocks)).unwrap();
            let flat = FileData::on_device(device, blocks - 2, 1000);
            let size = ChunkSize::from_block_bits(1).unwrap();
            let chunks = [
                Chunk::OnDevice {
                    device,
                    block: blocks - 2,
                },
                Chunk::Hole,
            ];
            let chunked = builder.chunks_on_devices(size, 1500, chunks).unwrap();
            if !chunk_indexes {
                data.insert(format!("flat{i}").into_bytes(), flat);
                model.add(
                    format!("flat{i}"),
                    at(1, 0),
                    Spec::File(contents[..1000].to_vec()),
                );
            }
            data.insert(format!("chunked{i}").into_bytes(), chunked);
            let padded = [&contents[..], &[0; 476]].concat();
            model.add(format!("chunked{i}"), at(1, 0), Spec::File(padded));
        }
        model.add_names(&mut builder, &data).unwrap();
        let mut merged = builder.finish().unwrap().0;
        if !kernel_mounts() {
            return;
        }
        let walk = |devices: &[&Path]| walk(Mount::erofs(&names[0], devices).path()).unwrap();
        let expected = model.walk();
        if chunk_indexes {
            // Linux 6.18 takes nothing else from devices so far away.
            Difference::between(&walk(&[&names[1], &names[2]]), &expected).assert_none();
        } else {
            let mut end = merged.seek(SeekFrom::End(0)).unwrap();
            for _ in &names[1..] {
                end += blocks * 512;
                merged.write_all_at(&contents, end - 1024).unwrap();
            }
            Difference::between(&walk(&[]), &expected).assert_none();
        }
    }
}

#[test]
fn a_file_of_nearly_as_many_blocks_as_48_bits_count_reads_back() {
    const SIZE: u64 = ((1 << 48) - 1) * 512;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("image.erofs");
    let mut builder = Builder::new(create(&path), options()).unwrap();
    // Mostly a hole: 1 TiB to a chunk, and such chunks as few can have data.
    let mut data = builder.data_in_chunks(ChunkSize::from_block_bits(31).unwrap());
    data.hole(SIZE - 5).unwrap();
    data.write_all(b"end").unwrap();
    data.hole(2).unwrap();
    let data = Node::File(data.finish().unwrap());
    builder.add_path(b"f", Metadata::new(0o755), data).unwrap();
    builder.finish().unwrap();
    fn ends_right(mut read_at: impl FnMut(&mut [u8], u64)) {
        let mut read = [9; 5];
        read_at(&mut read, SIZE - 5);
        assert_eq!(&read, b"end\0\0");
        read_at(&mut read, SIZE / 2);
        assert_eq!(read, [0; 5]);
    }
    let image = erofs_reader::Image::open(File::open(&path).unwrap()).unwrap();
    let entry = image.child(&image.root().unwrap(), b"f").unwrap().unwrap();
    let inode = image.inode(entry.nid).unwrap();
    assert_eq!(inode.size(), SIZE);
    let file = image.file(&inode).unwrap();
    ends_right(|read, at| assert_eq!(file.read_at(read, at).unwrap(), 5));
    if kernel_mounts() {
        let mount = Mount::erofs(&path, &[]);
        let file = File::open(mount.path().join("f")).unwrap();
        assert_eq!(file.metadata().unwrap().len(), SIZE);
        ends_right(|read, at| file.read_exact_at(read, at).unwrap());
    }
}

#[test]
fn addresses_beyond_48_bits_of_blocks_are_refused() {
    let mut builder = Builder::new(Cursor::new(Vec::new()), options()).unwrap();
    assert!(matches!(
        builder.data().hole(1 << 57),
        Err(Error::TooLarge { .. })
    ));
    let device = DeviceSlot::new([1; 64], 1 << 47);
    builder.add_device(device.clone()).unwrap_err();
    let mut builder = Builder::new(Cursor::new(Vec::new()), options()).unwrap();
    builder.add_device(device.clone()).unwrap();
    builder.add_device(device).unwrap();
    builder
        .add_path(b"f", Metadata::new(0o755), Node::Fifo)
        .unwrap();
    assert!(matches!(builder.finish(), Err(Error::TooLarge { .. })));
}
