//! Files in chunks: holes, equal chunks, chunks on devices.

use std::collections::BTreeMap;
use std::io::{Cursor, Write};

use erofs_reader::{Image, Source};
use erofs_writer::{
    BlockSize, Chunk, ChunkSize, DeviceSlot, Error, FileData, Metadata, Node, Options,
};
use testkit::{Difference, Mount, kernel_mounts, walk};

use crate::model::{Model, Spec, fsck, noise};
use crate::reader::{assert_same, read};

type Builder = erofs_writer::Builder<Cursor<Vec<u8>>>;

/// A piece of a file: noise of a length, or a hole.
#[derive(Clone, Copy)]
enum Piece {
    Data(usize),
    Hole(usize),
}
use Piece::{Data, Hole};

const FILES: [(&str, &[Piece]); 12] = [
    ("empty", &[]),
    ("hole", &[Hole(100_000)]),
    ("small hole", &[Hole(1)]),
    ("data", &[Data(100_000)]),
    ("start", &[Hole(65536), Data(1)]),
    ("end", &[Data(1), Hole(65536 * 3)]),
    ("middle", &[Data(65536), Hole(65536), Data(65536)]),
    (
        "odd",
        &[
            Data(5),
            Hole(70_001),
            Data(3),
            Hole(2),
            Data(30_000),
            Hole(9),
        ],
    ),
    (
        "many",
        &[
            Hole(9000),
            Data(10),
            Hole(9000),
            Data(10),
            Hole(9000),
            Data(10),
            Hole(9000),
        ],
    ),
    (
        "same chunks",
        &[Data(8192), Data(8192), Hole(8192), Data(8192)],
    ),
    (
        "large",
        &[
            Data(300_000),
            Hole(200_000),
            Data(100_000),
            Hole(1 << 20),
            Data(1),
        ],
    ),
    ("end on border", &[Data(4096), Hole(4096)]),
];

fn write(builder: &mut Builder, pieces: &[Piece], size: ChunkSize) -> (FileData, Vec<u8>) {
    let mut writer = builder.data_in_chunks(size);
    let mut contents = Vec::new();
    for &piece in pieces {
        match piece {
            Data(length) => {
                writer.write_all(&noise(length)).unwrap();
                contents.extend(noise(length));
            }
            Hole(length) => {
                writer.hole(length as u64).unwrap();
                contents.resize(contents.len() + length, 0);
            }
        }
    }
    (writer.finish().unwrap(), contents)
}

fn image(options: &Options, dedupe: bool) -> (Vec<u8>, Model) {
    let out = Cursor::new(Vec::new());
    let mut builder = match dedupe {
        true => Builder::with_dedupe(out, options.clone()).unwrap(),
        false => Builder::new(out, options.clone()).unwrap(),
    };
    let mut model = Model::default();
    let mut data = BTreeMap::new();
    for (i, (name, pieces)) in FILES.into_iter().enumerate() {
        for bits in [0, 3, 7] {
            let path = format!("{name} {bits}").into_bytes();
            let size = ChunkSize::from_block_bits(bits).unwrap();
            let (written, contents) = write(&mut builder, pieces, size);
            data.insert(path.clone(), written);
            let xattrs = vec![(b"user.x".to_vec(), vec![b'x'; i * 7 + usize::from(bits)])];
            let meta = Metadata::new(0o755).xattrs(xattrs);
            model.add(path, meta, Spec::File(contents));
        }
    }
    model.add_names(&mut builder, &data).unwrap();
    (builder.finish().unwrap().0.into_inner(), model)
}

#[test]
fn holes_and_chunks_read_back() {
    for (block_size, chunk_indexes, dedupe) in [
        (512, false, true),
        (512, true, false),
        (4096, true, true),
        (4096, false, true),
    ] {
        let options = Options::default()
            .block_size(BlockSize::new(block_size).unwrap())
            .chunk_indexes(chunk_indexes);
        let (image, model) = image(&options, dedupe);
        assert_same(&read(&image, vec![]), &model.tree());
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("image.erofs");
        std::fs::write(&path, image).unwrap();
        fsck(&path, &[]);
        if kernel_mounts() {
            let mount = Mount::erofs(&path, &[]);
            Difference::between(&walk(mount.path()).unwrap(), &model.walk()).assert_none();
        }
    }
}

#[test]
fn holes_take_no_space_in_the_image_and_equal_chunks_are_stored_once() {
    let mut builder = Builder::with_dedupe(Cursor::new(Vec::new()), Options::default()).unwrap();
    let size = ChunkSize::from_block_bits(3).unwrap();
    let pieces = [
        Data(4096),
        Hole(1 << 30),
        Data(4096),
        Data(4096),
        Hole(4096),
    ];
    let mut writer = builder.data_in_chunks(size);
    for piece in pieces {
        match piece {
            Data(length) => writer.write_all(&noise(length)).unwrap(),
            Hole(length) => writer.hole(length as u64).unwrap(),
        }
    }
    let data = writer.finish().unwrap();
    builder
        .add_path(b"f", Metadata::new(0o755), Node::File(data))
        .unwrap();
    let (image, summary) = builder.finish().unwrap();
    assert_eq!(summary.data_bytes, 4096);
    assert_eq!(summary.deduplicated_bytes, 8192);

    let image = Image::open(image.get_ref()).unwrap();
    let found = image.child(&image.root().unwrap(), b"f").unwrap().unwrap();
    let extents = image.extents(&image.inode(found.nid).unwrap()).unwrap();
    let holes: u64 = extents
        .iter()
        .filter(|extent| matches!(extent.source, Source::Hole))
        .map(|extent| extent.length)
        .sum();
    assert_eq!(holes, (1 << 30) + 4096);
}

#[test]
fn contents_in_one_piece_need_no_chunks() {
    let image = |chunks: bool| {
        let mut builder = Builder::new(Cursor::new(Vec::new()), Options::default()).unwrap();
        let data = if chunks {
            write(
                &mut builder,
                &[Data(123_456)],
                ChunkSize::from_block_bits(2).unwrap(),
            )
            .0
        } else {
            let mut writer = builder.data();
            writer.write_all(&noise(123_456)).unwrap();
            writer.finish().unwrap()
        };
        builder
            .add_path(b"f", Metadata::new(0o755), Node::File(data))
            .unwrap();
        let (image, summary) = builder.finish().unwrap();
        // The UUID depends on how contents were passed.
        (image.into_inner()[2048..].to_vec(), summary.blocks)
    };
    assert!(image(true) == image(false));
}

#[test]
fn abandoned_chunks_leave_nothing() {
    let mut builder = Builder::new(Cursor::new(Vec::new()), Options::default()).unwrap();
    let size = ChunkSize::from_block_bits(0).unwrap();
    builder.data_in_chunks(size).write_all(&noise(512)).unwrap();
    let (data, contents) = write(&mut builder, &[Data(700), Hole(1000), Data(1)], size);
    builder.data_in_chunks(size).hole(5000).unwrap();
    let mut model = Model::default();
    model.add("f", Metadata::new(0o755), Spec::File(contents));
    model
        .add_names(&mut builder, &BTreeMap::from([(b"f".to_vec(), data)]))
        .unwrap();
    let (image, summary) = builder.finish().unwrap();
    assert_eq!(summary.data_bytes, 3 * 512);
    assert_same(&read(image.get_ref(), vec![]), &model.tree());
}

#[test]
fn chunks_on_devices_read_the_same_stitched_and_with_devices() {
    for chunk_indexes in [false, true] {
        let options = Options::default().chunk_indexes(chunk_indexes);
        let disks = [noise(512 * 64), noise(512 * 40)];
        let mut builder = Builder::new(Cursor::new(Vec::new()), options).unwrap();
        let devices = [0, 1].map(|i: usize| {
            let blocks = disks[i].len() as u64 / 512;
            builder
                .add_device(DeviceSlot::new([b'a' + i as u8; 64], blocks))
                .unwrap()
        });
        let at = |device: usize, block| Chunk::OnDevice {
            device: devices[device],
            block,
        };
        let chunks = [
            at(1, 36),
            at(0, 5),
            Chunk::Hole,
            at(0, 0),
            at(1, 7),
            at(0, 63),
        ];
        let size = ChunkSize::from_block_bits(2).unwrap();
        let length = 5 * 2048 + 100;
        let data = builder.chunks_on_devices(size, length, chunks).unwrap();
        let mut contents = Vec::new();
        for chunk in chunks {
            match chunk {
                Chunk::OnDevice { device, block } => {
                    let disk = &disks[usize::from(device == devices[1])];
                    let start = block as usize * 512;
                    contents.extend(&disk[start..disk.len().min(start + 2048)]);
                }
                _ => contents.extend([0; 2048]),
            }
        }
        contents.truncate(length as usize);
        let mut model = Model::default();
        model.add("f", Metadata::new(0o755), Spec::File(contents));
        let data = BTreeMap::from([(b"f".to_vec(), data)]);
        model.add_names(&mut builder, &data).unwrap();

        let beyond = builder.chunks_on_devices(size, 2048, [at(1, 37)]).unwrap();
        let error = builder
            .add_path(b"g", Metadata::new(0o755), Node::File(beyond))
            .unwrap_err();
        assert_eq!(
            error.to_string(),
            "'/g': blocks 37..41 are beyond the device, which has 40"
        );

        for block in [(1 << 48) - 1, 1 << 48, u64::MAX] {
            let nowhere = builder.chunks_on_devices(size, 1, [at(0, block)]).unwrap();
            let error = builder.add_path(b"g", Metadata::new(0o755), Node::File(nowhere));
            assert!(matches!(error, Err(Error::BeyondDevice { .. })));
        }

        let merged = builder.finish().unwrap().0.into_inner();
        assert_same(&read(&merged, vec![&disks[0], &disks[1]]), &model.tree());
        let stitched = [&merged[..], &disks[0], &disks[1]].concat();
        assert_same(&read(&stitched, vec![]), &model.tree());
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str, bytes: &[u8]| {
            let path = dir.path().join(name);
            std::fs::write(&path, bytes).unwrap();
            path
        };
        let (merged, stitched) = (file("merged", &merged), file("stitched", &stitched));
        let disks = [file("0", &disks[0]), file("1", &disks[1])];
        let disks = [&*disks[0], &*disks[1]];
        fsck(&merged, &disks);
        if kernel_mounts() {
            for (image, devices) in [(&merged, &disks[..]), (&stitched, &[])] {
                let mount = Mount::erofs(image, devices);
                Difference::between(&walk(mount.path()).unwrap(), &model.walk()).assert_none();
            }
        }
    }
}

#[test]
fn chunk_sizes_have_limits() {
    assert!(matches!(
        ChunkSize::from_block_bits(32),
        Err(Error::ChunkSize(32))
    ));
    let block = BlockSize::default();
    assert_eq!(ChunkSize::for_length(0, block).bytes(block), 4096);
    assert_eq!(ChunkSize::for_length(1 << 28, block).bytes(block), 8192);
    assert_eq!(ChunkSize::for_length(1 << 40, block).bytes(block), 1 << 25);
    assert_eq!(ChunkSize::for_length(u64::MAX, block).bytes(block), 1 << 40);

    let mut builder = Builder::new(Cursor::new(Vec::new()), Options::default()).unwrap();
    let size = ChunkSize::from_block_bits(0).unwrap();
    let mut writer = builder.data_in_chunks(size);
    assert!(matches!(
        writer.hole(1 << 34),
        Err(Error::TooManyChunks { .. })
    ));
    writer.hole(1 << 33).unwrap();
    assert!(writer.write_all(&[1]).is_err());
    drop(writer);
    let error = builder.chunks_on_devices(size, u64::MAX, []).unwrap_err();
    assert!(matches!(error, Error::TooManyChunks { .. }));
}
