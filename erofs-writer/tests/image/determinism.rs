//! The same tree gives the same bytes.

use std::io::Cursor;
use std::num::NonZeroUsize;

use erofs_writer::{Algorithm, Fragments, ImageBuilder, Options, Timestamp, Uuid};
use proptest::prelude::*;

use crate::compressed::{options, text};
use crate::model::{Model, Spec, at, nasty, noise};

fn with_names_in_order(data: &Model, names: &Model, options: &Options) -> Vec<u8> {
    let out = Cursor::new(Vec::new());
    let mut builder = ImageBuilder::with_dedupe(out, options.clone()).unwrap();
    let data = data.write_data(&mut builder).unwrap();
    names.add_names(&mut builder, &data).unwrap();
    builder.finish().unwrap().0.into_inner()
}

/// All that makes compressed images differ in more than numbers.
fn compressed() -> impl Strategy<Value = Options> {
    let cluster = prop_oneof![Just(4096_u32), Just(65_536)];
    let fragments = [Fragments::None, Fragments::Tails, Fragments::Files];
    let bools = any::<[bool; 4]>();
    (0..4_usize, cluster, 0..3_usize, bools, 0..3_usize).prop_map(
        move |(algorithm, cluster, which, bools, threads)| {
            let [tail_packing, dedupe_extents, inline_tails, full_indexes] = bools;
            Options {
                fragments: fragments[which],
                tail_packing,
                dedupe_extents,
                inline_tails,
                full_indexes,
                threads: NonZeroUsize::new(threads),
                ..options(Algorithm::ALL[algorithm], 1, cluster)
            }
        },
    )
}

/// Directories, links and files of which some are equal, resemble one another, or are short.
fn tree() -> Model {
    let mut model = Model::default();
    for i in 0..24_usize {
        let contents = match i % 4 {
            0 => text(40_000),
            1 => [text(20_000), noise(i * 100), text(30_000)].concat(),
            2 => text(500 * i),
            _ => noise(300 * i),
        };
        let path = format!("{}/{}/{i}", i % 3, i % 5);
        model.add(&path, at(i as i64 % 2, 0), Spec::File(contents));
        model.add(format!("links/{i}"), at(0, 0), Spec::Link(path.into()));
    }
    model
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8))]

    #[test]
    fn names_in_any_order_give_the_same_bytes(shuffled in Just(nasty().entries).prop_shuffle()) {
        let model = nasty();
        let shuffled = Model { entries: shuffled };
        let bytes = |names| with_names_in_order(&model, names, &Options::default());
        prop_assert!(bytes(&model) == bytes(&shuffled));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn names_in_any_order_give_the_same_bytes_with_any_compression(
        shuffled in Just(tree().entries).prop_shuffle(),
        options in compressed(),
    ) {
        let model = tree();
        let shuffled = Model { entries: shuffled };
        let bytes = |names| with_names_in_order(&model, names, &options);
        prop_assert!(bytes(&model) == bytes(&shuffled));
    }
}

#[test]
fn derived_uuids_tell_images_apart() {
    let uuid = |contents: &[u8], mtime| {
        let mut model = Model::default();
        model.add("f", at(mtime, 0), Spec::File(contents.to_vec()));
        model.build(Options::default()).unwrap().1.uuid
    };
    let one = uuid(b"one", 0);
    assert_eq!(one, uuid(b"one", 0));
    assert_ne!(one, uuid(b"two", 0));
    assert_ne!(one, uuid(b"one", 1));
    // RFC 9562: version 8, variant 10.
    assert_eq!((one[6] >> 4, one[8] >> 6), (8, 2));
}

#[test]
fn identity_can_be_given() {
    let options = Options {
        uuid: Uuid::Given([7; 16]),
        label: erofs_writer::Label::new("layer").unwrap(),
        build_time: Some(1_700_000_100),
        epoch: Some(Timestamp {
            secs: 1_700_000_000,
            nanos: 5,
        }),
        ..Options::default()
    };
    let (image, summary) = Model::default().build(options).unwrap();
    assert_eq!(summary.uuid, [7; 16]);
    let image = erofs_reader::Image::open(&image[..]).unwrap();
    let superblock = format!("{:?}", image.superblock());
    assert!(
        superblock.contains("108, 97, 121, 101, 114"),
        "{superblock}"
    );
    assert!(superblock.contains("1700000000"), "{superblock}");
    assert!(superblock.contains("100"), "{superblock}");
}
