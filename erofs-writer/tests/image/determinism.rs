//! The same tree gives the same bytes.

use std::io::Cursor;

use erofs_writer::{ImageBuilder, Options, Timestamp, Uuid};
use proptest::prelude::*;

use crate::model::{Model, Spec, at, nasty};

fn with_names_in_order(data: &Model, names: &Model) -> Vec<u8> {
    let out = Cursor::new(Vec::new());
    let mut builder = ImageBuilder::with_dedupe(out, Options::default()).unwrap();
    let data = data.write_data(&mut builder).unwrap();
    names.add_names(&mut builder, &data).unwrap();
    builder.finish().unwrap().0.into_inner()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8))]

    #[test]
    fn names_in_any_order_give_the_same_bytes(shuffled in Just(nasty().entries).prop_shuffle()) {
        let model = nasty();
        let shuffled = Model { entries: shuffled };
        prop_assert!(with_names_in_order(&model, &model) == with_names_in_order(&model, &shuffled));
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
