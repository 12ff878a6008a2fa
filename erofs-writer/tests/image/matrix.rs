//! Every feature of compressed images alone and in pairs, as every reader sees it.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex};

use erofs_reader::{Image, Layout};
use erofs_writer::{
    Algorithm, BlockSize, Builder, Compression, Error, Fragments, Metadata, Node, Options, PerFile,
    XattrPrefixes,
};
use proptest::collection::vec;
use proptest::prelude::*;
use std::io::{Cursor, Write};

use crate::compressed::{assert_read_by_all, options, text};
use crate::model::{Model, Spec, at, noise};
use crate::reader::{assert_same, read};

/// Files whose ends meet every rule: none, short, as long as a block, incompressible, equal to
/// others'.
fn tree() -> Model {
    let mut model = Model::default();
    let meta = || at(1_700_000_000, 0);
    for size in [
        0, 1, 40, 511, 512, 4064, 4065, 4095, 4096, 4097, 8192, 9000, 30_000, 131_073,
    ] {
        model.add(format!("text/{size}"), meta(), Spec::File(text(size)));
        model.add(format!("noise/{size}"), meta(), Spec::File(noise(size)));
    }
    model.add("zeros", meta(), Spec::File(vec![0; 300_001]));
    model.add("same/a", meta(), Spec::File(text(9000)));
    model.add("same/b", meta(), Spec::File(text(300)));
    model.add("same/c", meta(), Spec::File(text(300)));
    let mixed = [text(50_000), noise(9000), text(70_000), noise(700)];
    model.add("mixed", meta(), Spec::File(mixed.concat()));
    // Inodes of all lengths, so that what is after them meets block borders everywhere.
    for i in 0..60 {
        let xattrs = vec![(b"user.x".to_vec(), vec![b'x'; i * 4])];
        let meta = meta().xattrs(xattrs);
        let contents = [text(i * 97 + 2000), noise(i * 50)].concat();
        model.add(format!("packs/{i}"), meta, Spec::File(contents));
    }
    model
}

type Feature = (&'static str, fn(&mut Options));

/// What can be turned on.
fn features() -> Vec<Feature> {
    vec![
        ("full indexes", |options| options.full_indexes = true),
        ("inline tails", |options| options.inline_tails = true),
        ("tail packing", |options| options.tail_packing = true),
        ("tails as fragments", |options| {
            options.fragments = Fragments::Tails;
        }),
        ("files as fragments", |options| {
            options.fragments = Fragments::Files;
        }),
        ("dedupe", |options| options.dedupe_extents = true),
        ("extended inodes", |options| {
            options.inodes = erofs_writer::InodeLayout::Extended;
        }),
        ("48 bits", |options| {
            options.addresses = erofs_writer::Addresses::Bits48;
        }),
        ("blocks of 1024 bytes", |options| {
            options.block_size = BlockSize::new(1024).unwrap();
        }),
        ("prefixes of xattrs", |options| {
            options.xattr_prefixes = XattrPrefixes::new(["user.x", "trusted.overlay."]).unwrap();
        }),
        ("no filter of xattrs", |options| {
            options.no_xattr_filter = true;
        }),
    ]
}

#[test]
fn every_feature_alone_reads_back_in_clusters_of_one_block_and_of_several() {
    for (what, feature) in features() {
        for cluster in [4096, 32_768] {
            println!("{what}, {cluster}");
            let mut options = options(Algorithm::Lz4, 1, cluster);
            feature(&mut options);
            assert_read_by_all(&tree(), options);
        }
    }
}

#[test]
fn every_pair_of_features_is_read_by_all() {
    let model = tree();
    let features = features();
    for (i, (one, first)) in features.iter().enumerate() {
        for (two, second) in &features[i + 1..] {
            if one.ends_with("as fragments") && two.ends_with("as fragments") {
                continue;
            }
            println!("{one}, {two}");
            let mut options = options(Algorithm::Lz4, 0, 16_384);
            first(&mut options);
            second(&mut options);
            assert_read_by_all(&model, options);
        }
    }
}

#[test]
fn tails_inline_and_in_fragments_are_read_with_every_algorithm() {
    for algorithm in [Algorithm::Lzma, Algorithm::Deflate, Algorithm::Zstd] {
        for fragments in [Fragments::None, Fragments::Tails, Fragments::Files] {
            let options = options(algorithm, 1, 16_384)
                .fragments(fragments)
                .tail_packing(true);
            assert_read_by_all(&tree(), options);
        }
    }
}

#[test]
fn a_last_cluster_that_fits_is_stored_after_the_indexes() {
    let mut model = Model::default();
    for i in 0..60 {
        model.add(format!("{i}"), at(0, 0), Spec::File(text(9000 + 700 * i)));
    }
    for (algorithm, cluster) in [(Algorithm::Lz4, 65_536), (Algorithm::Zstd, 16_384)] {
        let image = |tail_packing| {
            let options = options(algorithm, 1, cluster).tail_packing(tail_packing);
            assert_read_by_all(&model, options.clone());
            model.build(options).unwrap().1
        };
        let (without, with) = (image(false), image(true));
        let saved = without.bytes - with.bytes;
        assert!(saved > 40 << 10, "{saved} of {without:?}");
    }
}

#[test]
fn blocks_smaller_than_a_page_have_tails_and_fragments_too() {
    for fragments in [Fragments::None, Fragments::Tails] {
        let options = options(Algorithm::Lz4, 1, 4096)
            .block_size(BlockSize::new(1024).unwrap())
            .fragments(fragments)
            .tail_packing(true);
        assert_read_by_all(&tree(), options);
    }
}

#[test]
fn fragments_fill_several_pieces_of_the_packed_inode() {
    let mut model = Model::default();
    // More than a piece of 4 MiB, in files that are more than one themselves.
    for i in 0..3_usize {
        let contents = [noise(10 + i), text(4_500_000)].concat();
        model.add(format!("{i}"), at(0, 0), Spec::File(contents));
        model.add(format!("{i}s"), at(0, 0), Spec::File(text(20_000 + i)));
    }
    for fragments in [Fragments::Tails, Fragments::Files] {
        let options = options(Algorithm::Lz4, 0, 65_536).fragments(fragments);
        assert_read_by_all(&model, options);
    }
}

#[test]
fn small_files_take_least_space_as_fragments() {
    let mut model = Model::default();
    for i in 0..200_usize {
        let contents = [text(3000), noise(i)].concat();
        model.add(format!("{i}"), at(0, 0), Spec::File(contents));
    }
    let bytes = |fragments, tail_packing| {
        let options = options(Algorithm::Lz4, 1, 65_536)
            .fragments(fragments)
            .tail_packing(tail_packing);
        model.build(options).unwrap().1.bytes
    };
    let (blocks, inline) = (bytes(Fragments::None, false), bytes(Fragments::None, true));
    let packed = bytes(Fragments::Tails, false);
    assert!(
        packed < inline && inline < blocks,
        "{packed}, {inline}, {blocks}"
    );
}

#[test]
fn equal_clusters_are_stored_once_where_there_are_fragments() {
    let same = text(60_000);
    let mut model = Model::default();
    let mut add = |name: &str, parts: &[&[u8]]| {
        model.add(name, at(0, 0), Spec::File(parts.concat()));
    };
    add("a", &[&same]);
    add("b", &[&same, &noise(9000)]);
    // A block of what does not shrink stays as it is, and the same clusters follow.
    add("c", &[&noise(4096), &same[..40_000], &noise(5000)]);
    for cluster in [4096, 16_384] {
        let bytes = |fragments| {
            let options = options(Algorithm::Lz4, 1, cluster).fragments(fragments);
            assert_read_by_all(&model, options.clone());
            let (_, summary) = model.build(options).unwrap();
            (summary.bytes, summary.deduplicated_bytes)
        };
        let (plain, shared) = (bytes(Fragments::None), bytes(Fragments::Tails));
        assert_eq!(plain.1, 0);
        assert!(
            shared.1 >= 16_384 && plain.0 - shared.0 >= shared.1,
            "{cluster}: {plain:?}, {shared:?}"
        );
    }
}

#[test]
fn equal_fragments_are_stored_once() {
    let image = |second: Vec<u8>| {
        let mut model = Model::default();
        model.add("a", at(0, 0), Spec::File(noise(5000)));
        model.add("b", at(0, 0), Spec::File(second));
        let options = options(Algorithm::Lz4, 1, 4096).fragments(Fragments::Files);
        model.build(options).unwrap().1
    };
    let (same, other) = (image(noise(5000)), image(noise(6000)));
    assert_eq!(same.deduplicated_bytes, 5000);
    assert!(same.data_bytes < other.data_bytes);
}

#[test]
fn parts_of_files_equal_to_earlier_files_are_stored_once() {
    let common = text(400_000);
    let other = |seed: usize| -> Vec<u8> {
        let mut bytes = text(60_000 + seed);
        bytes.rotate_left(seed * 331);
        bytes
    };
    let mut model = Model::default();
    let files = [
        common.clone(),
        // At another place, a part alone, and with something else after.
        [other(1), common.clone()].concat(),
        [other(2), common[..90_000].to_vec(), other(3)].concat(),
        [other(4), common.clone(), other(5), common.clone()].concat(),
        [noise(50_000), noise(50_000)].concat(),
    ];
    for (i, file) in files.into_iter().enumerate() {
        model.add(format!("{i}"), at(0, 0), Spec::File(file));
    }
    for (algorithm, cluster) in [
        (Algorithm::Lz4, 4096),
        (Algorithm::Lz4, 32_768),
        (Algorithm::Zstd, 32_768),
        (Algorithm::Lzma, 4096),
        (Algorithm::Deflate, 65_536),
    ] {
        let bytes = |dedupe_extents| {
            let options = options(algorithm, 1, cluster).dedupe_extents(dedupe_extents);
            assert_read_by_all(&model, options)
        };
        let (without, with) = (bytes(false), bytes(true));
        assert!(with * 3 < without * 2, "{with} of {without}");
    }
}

#[test]
fn number_of_threads_does_not_change_the_bytes() {
    let mut model = tree();
    model.add("large", at(0, 0), Spec::File(text(4_400_000)));
    for fragments in [Fragments::None, Fragments::Tails, Fragments::Files] {
        for dedupe_extents in [false, true] {
            let image = |threads| {
                let options = options(Algorithm::Lz4, 0, 16_384)
                    .threads(NonZeroUsize::new(threads))
                    .fragments(fragments)
                    .tail_packing(true)
                    .dedupe_extents(dedupe_extents);
                model.build(options).unwrap().0
            };
            let one = image(1);
            assert!(one == image(2), "{fragments:?}");
            assert!(one == image(7), "{fragments:?}");
        }
    }
}

#[test]
fn a_callback_chooses_file_by_file() {
    let asked = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&asked);
    let per_file = PerFile::new(move |file| {
        seen.lock().unwrap().push((file.path.to_vec(), file.size));
        match file.path {
            b"zstd" => Some(Compression::new(Algorithm::Zstd)),
            b"lz4" => Some(Compression::new(Algorithm::Lz4)),
            b"lzma" => {
                let mut lzma = Compression::new(Algorithm::Lzma);
                lzma.cluster_size = 65_536;
                Some(lzma)
            }
            _ => None,
        }
    });
    let options = Options::default()
        .block_size(BlockSize::B4096)
        .per_file(Some(per_file));
    let mut builder = Builder::new(Cursor::new(Vec::new()), options).unwrap();
    for path in ["zstd", "lz4", "none", "lzma"] {
        let contents = text(70_000);
        let mut data = builder
            .data_for(path.as_bytes(), Some(contents.len() as u64))
            .unwrap();
        data.write_all(&contents).unwrap();
        let node = Node::File(data.finish().unwrap());
        builder.add_path(path.as_bytes(), at(0, 0), node).unwrap();
    }
    let bytes = builder.finish().unwrap().0.into_inner();
    let image = Image::open(&bytes[..]).unwrap();
    let layout = |name: &str| {
        let root = image.root().unwrap();
        let found = image.child(&root, name.as_bytes()).unwrap().unwrap();
        image.inode(found.nid).unwrap().layout()
    };
    assert_eq!(layout("none"), Layout::Plain);
    for name in ["zstd", "lz4", "lzma"] {
        assert_eq!(layout(name), Layout::CompressedCompact);
    }
    assert_eq!(asked.lock().unwrap()[1], (b"lz4".to_vec(), Some(70_000)));
    let mut model = Model::default();
    for name in ["zstd", "lz4", "none", "lzma"] {
        model.add(name, at(0, 0), Spec::File(text(70_000)));
    }
    assert_same(&read(&bytes, vec![]), &model.tree());
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("image.erofs");
    std::fs::write(&path, bytes).unwrap();
    crate::compressed::assert_mounts(&path, &model);
}

#[test]
fn builders_can_be_sent_to_other_threads_with_pending_contents() {
    fn is_sent_and_shared<T: Send + Sync>(_: &T) {}
    let options = options(Algorithm::Lz4, 0, 4096);
    let mut builder = Builder::new(Cursor::new(Vec::new()), options).unwrap();
    is_sent_and_shared(&builder);
    let mut data = builder.data();
    data.write_all(&text(600_000)).unwrap();
    let node = Node::File(data.finish().unwrap());
    let finished = std::thread::spawn(move || {
        builder.add_path(b"f", at(0, 0), node).unwrap();
        builder.finish().unwrap().0.into_inner()
    });
    let mut model = Model::default();
    model.add("f", at(0, 0), Spec::File(text(600_000)));
    assert_same(&read(&finished.join().unwrap(), vec![]), &model.tree());
}

#[test]
fn compression_chosen_by_a_callback_is_validated() {
    let per_file = PerFile::new(|_| {
        let mut compression = Compression::new(Algorithm::Lz4);
        compression.cluster_size = 1;
        Some(compression)
    });
    let options = Options::default().per_file(Some(per_file));
    let mut builder = Builder::new(Cursor::new(Vec::new()), options).unwrap();
    let error = builder.data_for(b"f", None);
    assert!(matches!(error, Err(Error::ClusterSize(1))));
}

#[test]
fn abandoned_contents_leave_nothing_behind() {
    let image = |abandon: bool| {
        let options = options(Algorithm::Lz4, 0, 4096).fragments(Fragments::Tails);
        let mut builder = Builder::new(Cursor::new(Vec::new()), options).unwrap();
        for i in 0..3 {
            if abandon {
                // Less than is given away at once, and more.
                for length in [100, 5_000_000] {
                    builder.data().write_all(&text(length)).unwrap();
                }
            }
            let mut data = builder.data();
            data.write_all(&text(10_000 + i)).unwrap();
            let node = Node::File(data.finish().unwrap());
            let path = format!("{i}");
            builder.add_path(path.as_bytes(), at(0, 0), node).unwrap();
        }
        let (out, summary) = builder.finish().unwrap();
        (out.into_inner(), summary.data_bytes)
    };
    let ((without, expected), (with, found)) = (image(false), image(true));
    assert_eq!(found, expected);
    assert!(without[4096..expected as usize] == with[4096..expected as usize]);
}

#[test]
fn compressed_files_and_chunks_stand_side_by_side() {
    let options = options(Algorithm::Lz4, 0, 4096);
    let mut builder = Builder::new(Cursor::new(Vec::new()), options).unwrap();
    let mut model = Model::default();
    for i in 0..4_usize {
        let contents = text(100_000 + i);
        let data = if i % 2 == 0 {
            let mut data = builder.data();
            data.write_all(&contents).unwrap();
            data.finish().unwrap()
        } else {
            let size = erofs_writer::ChunkSize::from_block_bits(0).unwrap();
            let mut data = builder.data_in_chunks(size);
            data.write_all(&contents).unwrap();
            data.finish().unwrap()
        };
        let path = format!("{i}");
        builder
            .add_path(path.as_bytes(), at(0, 0), Node::File(data))
            .unwrap();
        model.add(path, at(0, 0), Spec::File(contents));
    }
    let bytes = builder.finish().unwrap().0.into_inner();
    assert_same(&read(&bytes, vec![]), &model.tree());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn any_options_read_back(
        files in vec(vec((0..4_usize, 0..20_000_usize), 0..5), 1..8),
        algorithm in 0..4_usize,
        level in 0..=4_u8,
        blocks in 1..20_u32,
        bits in 9..=14_u32,
        full_indexes: bool,
        inline_tails: bool,
        tail_packing: bool,
        dedupe_extents: bool,
        fragments in 0..3_usize,
        threads in 0..4_usize,
    ) {
        let mut model = Model::default();
        for (i, pieces) in files.into_iter().enumerate() {
            let pieces = pieces.into_iter().map(|(kind, length)| match kind {
                0 => text(length),
                1 => noise(length),
                2 => noise(length % 100),
                _ => vec![0; length],
            });
            let contents = pieces.collect::<Vec<_>>().concat();
            model.add(format!("{i}"), Metadata::new(0o755), Spec::File(contents));
        }
        let options = options(Algorithm::ALL[algorithm], level, blocks << bits).block_size(BlockSize::new(1 << bits).unwrap()).full_indexes(full_indexes).inline_tails(inline_tails).tail_packing(tail_packing).dedupe_extents(dedupe_extents).fragments([Fragments::None, Fragments::Tails, Fragments::Files][fragments]).threads(NonZeroUsize::new(threads));
        let (image, _) = model.build(options).unwrap();
        assert_same(&read(&image, vec![]), &model.tree());
    }
}
