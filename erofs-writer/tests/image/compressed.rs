//! Compressed files, as every reader sees them.

use std::io::{Cursor, Write};
use std::path::Path;

use erofs_reader::{Image, Layout};
use erofs_writer::{
    Algorithm, BlockSize, Builder, Compression, Error, Fragments, Metadata, Options,
};
use proptest::collection::vec;
use proptest::prelude::*;
use testkit::{Difference, Mount, kernel_mounts, walk};

use crate::model::{Model, Spec, at, fsck, noise};
use crate::reader::{assert_same, read};

pub(crate) fn options(algorithm: Algorithm, level: u8, cluster_size: u32) -> Options {
    let mut compression = Compression::new(algorithm);
    compression.level = level;
    compression.cluster_size = cluster_size;
    Options::default()
        .block_size(BlockSize::B4096)
        .compression(Some(compression))
}

/// Bytes of which a few are new and the rest were there before.
pub(crate) fn text(length: usize) -> Vec<u8> {
    testkit::text(length as u64 | 1, length)
}

fn tree() -> Model {
    let mut model = small_tree();
    let meta = || at(1_700_000_000, 0);
    model.add("zeros/large", meta(), Spec::File(vec![0; 9_000_001]));
    model.add("text/large", meta(), Spec::File(text(3_000_001)));
    model
}

fn small_tree() -> Model {
    let mut model = Model::default();
    let meta = || at(1_700_000_000, 0);
    let sizes = [
        0, 1, 511, 512, 513, 4095, 4096, 4097, 8191, 8192, 8193, 12_289, 65_535, 65_536, 65_537,
        262_145,
    ];
    for size in sizes {
        model.add(format!("text/{size}"), meta(), Spec::File(text(size)));
        model.add(format!("noise/{size}"), meta(), Spec::File(noise(size)));
        model.add(format!("zeros/{size}"), meta(), Spec::File(vec![0; size]));
    }
    let mixed = [
        text(100_000),
        noise(30_001),
        vec![7; 500_000],
        noise(9),
        text(70_000),
    ];
    model.add("mixed", meta(), Spec::File(mixed.concat()));
    model.add("same", meta(), Spec::File(text(262_145)));
    // Indexes begin anywhere, and packs of all lengths follow.
    for blocks in 1..40 {
        let xattrs = vec![(b"user.x".to_vec(), vec![b'x'; blocks * 4])];
        let meta = meta().xattrs(xattrs);
        model.add(
            format!("packs/{blocks}"),
            meta,
            Spec::File(text(blocks * 4096 + blocks)),
        );
    }
    model
}

pub(crate) fn assert_read_by_all(model: &Model, options: Options) -> u64 {
    let what = format!("{options:?}");
    let (image, summary) = model.build(options).unwrap();
    assert_same(&read(&image, vec![]), &model.tree());
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("image.erofs");
    std::fs::write(&path, image).unwrap();
    println!("{what}");
    assert_mounts(&path, model);
    summary.data_bytes
}

pub(crate) fn assert_mounts(image: &Path, model: &Model) {
    fsck(image, &[]);
    if kernel_mounts() {
        let mount = Mount::erofs(image, &[]);
        Difference::between(&walk(mount.path()).unwrap(), &model.walk()).assert_none();
    }
}

fn assert_shrinks(model: &Model, options: Vec<Options>) {
    let plain = Options::default().block_size(BlockSize::B4096);
    let (_, plain) = model.build(plain).unwrap();
    for options in options {
        let bytes = assert_read_by_all(model, options);
        assert!(bytes < plain.data_bytes * 3 / 4, "{bytes} of {plain:?}");
    }
}

#[test]
fn compressed_files_read_back_with_packed_and_with_full_indexes() {
    let forms = |forms: &[(u8, u32, bool)]| {
        let options = |&(level, cluster, full_indexes): &_| {
            options(Algorithm::Lz4, level, cluster).full_indexes(full_indexes)
        };
        forms.iter().map(options).collect()
    };
    let small = [
        (0, 4096, true),
        (5, 65_536, true),
        (5, 65_536, false),
        (1, 12_288, false),
    ];
    assert_shrinks(&small_tree(), forms(&small));
    let large = [(0, 4096, false), (2, 1 << 20, false)];
    assert_shrinks(&tree(), forms(&large));
}

#[test]
fn every_algorithm_is_read_in_clusters_of_one_block_and_of_several() {
    for algorithm in [Algorithm::Lzma, Algorithm::Deflate, Algorithm::Zstd] {
        let options = vec![
            options(algorithm, 1, 4096),
            options(algorithm, 5, 65_536).full_indexes(true),
            options(algorithm, 3, 1 << 20),
        ];
        assert_shrinks(&small_tree(), options);
    }
}

#[test]
fn blocks_smaller_than_a_page_are_compressed_too() {
    for bits in [9, 10] {
        let options = options(Algorithm::Lz4, 1, 0).block_size(BlockSize::new(1 << bits).unwrap());
        assert_read_by_all(&small_tree(), options);
    }
}

#[test]
fn incompressible_contents_are_stored_uncompressed() {
    let mut model = Model::default();
    let meta = || at(1_700_000_000, 0);
    model.add("noise", meta(), Spec::File(noise(300_000)));
    model.add("small", meta(), Spec::File(text(4096)));
    model.add("text", meta(), Spec::File(text(4097)));
    let (image, _) = model.build(options(Algorithm::Lz4, 0, 16_384)).unwrap();
    let image = Image::open(&image[..]).unwrap();
    let layout = |name: &str| {
        let root = image.root().unwrap();
        let found = image.child(&root, name.as_bytes()).unwrap().unwrap();
        image.inode(found.nid).unwrap().layout()
    };
    assert_eq!(layout("noise"), Layout::Plain);
    assert_eq!(layout("small"), Layout::Plain);
    assert_eq!(layout("text"), Layout::CompressedCompact);
}

#[test]
fn bytes_do_not_depend_on_the_pieces_in_which_contents_come() {
    let contents = [text(2_500_000), noise(70_000), text(100_000)].concat();
    let image = |piece: usize| {
        let options = options(Algorithm::Lz4, 0, 32_768);
        let mut builder = Builder::new(Cursor::new(Vec::new()), options).unwrap();
        let mut data = builder.data();
        for piece in contents.chunks(piece) {
            data.write_all(piece).unwrap();
        }
        let data = data.finish().unwrap();
        builder
            .add_path(b"f", Metadata::new(0o755), erofs_writer::Node::File(data))
            .unwrap();
        builder.finish().unwrap().0.into_inner()
    };
    assert!(image(7777) == image(usize::MAX));
}

#[test]
fn cluster_sizes_have_limits() {
    for cluster in [1, 4097, (1 << 20) + 4096, u32::MAX] {
        let error = Builder::new(Cursor::new(Vec::new()), options(Algorithm::Lz4, 0, cluster));
        assert!(matches!(error, Err(Error::ClusterSize(found)) if found == cluster));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn any_compressed_contents_read_back(
        files in vec(vec((0..3_usize, 0..30_000_usize), 0..6), 1..6),
        level in 0..=6_u8,
        blocks in 1..20_u32,
        bits in 9..=14_u32,
        full_indexes: bool,
        inline_tails: bool,
    ) {
        let mut model = Model::default();
        for (i, pieces) in files.into_iter().enumerate() {
            let pieces = pieces.into_iter().map(|(kind, length)| match kind {
                0 => text(length),
                1 => noise(length),
                _ => vec![0; length],
            });
            let contents = pieces.collect::<Vec<_>>().concat();
            model.add(format!("{i}"), Metadata::new(0o755), Spec::File(contents));
        }
        let options = options(Algorithm::Lz4, level, blocks << bits).block_size(BlockSize::new(1 << bits).unwrap()).full_indexes(full_indexes).inline_tails(inline_tails);
        let (image, _) = model.build(options).unwrap();
        assert_same(&read(&image, vec![]), &model.tree());
    }
}

/// `count` files of `size` bytes each.
fn files(count: usize, size: usize) -> Model {
    let mut model = Model::default();
    for i in 0..count {
        let contents = text(size + i).split_off(i);
        model.add(format!("{i}"), at(1, 0), Spec::File(contents));
    }
    model
}

fn blocks(model: &Model, options: Options) -> u64 {
    assert_read_by_all(model, options.clone());
    model.build(options).unwrap().1.blocks
}

#[test]
fn metadata_that_fits_after_the_superblock_takes_no_block_of_its_own() {
    let packed = options(Algorithm::Lz4, 0, 4096)
        .inline_tails(true)
        .fragments(Fragments::Tails);
    let inline = packed.clone().compression(None).fragments(Fragments::None);
    let apart = inline.clone().inline_tails(false);
    // With no contents, or with those that go after inodes.
    assert_eq!(blocks(&files(1, 0), apart.clone()), 1);
    assert_eq!(blocks(&files(3, 300), inline.clone()), 1);
    assert_eq!(blocks(&files(3, 300), packed), 1);
    assert_eq!(blocks(&files(8, 700), inline), 2);
    // Beside blocks of contents, if it is all in that block.
    assert_eq!(blocks(&files(3, 300), apart.clone()), 4);
    assert_eq!(blocks(&files(90, 300), apart), 1 + 90 + 2);
}

#[test]
fn the_tail_of_the_packed_inode_is_inline() {
    let options = |tail_packing| {
        options(Algorithm::Lz4, 9, 4096)
            .tail_packing(tail_packing)
            .fragments(Fragments::Tails)
    };
    let model = files(6, 800);
    assert!(blocks(&model, options(true)) < blocks(&model, options(false)));
    let (_, summary) = model.build(options(true)).unwrap();
    assert_eq!(summary.data_bytes, 0);
    // Behind whole clusters, too.
    assert!(blocks(&files(40, 1600), options(true)) <= blocks(&files(40, 1600), options(false)));
}

#[test]
fn a_cluster_is_filled_from_up_to_two_mebibytes() {
    let data_bytes = |times: usize| {
        let mut model = Model::default();
        model.add("text", at(1, 0), Spec::File(text(30_000).repeat(times)));
        assert_read_by_all(&model, options(Algorithm::Lz4, 9, 65_536))
    };
    // Two clusters would have the text twice.
    let (few, many) = (data_bytes(30), data_bytes(60));
    assert!(many < few + few / 2, "{few} {many}");
}
