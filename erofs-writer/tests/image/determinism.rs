//! The same tree gives the same bytes.

use std::collections::BTreeMap;
use std::io::{Cursor, Write};

use erofs_writer::{Builder, ChunkSize, Error, FileData, Metadata, Node, Options, Timestamp, Uuid};
use proptest::prelude::*;

use crate::compressed::text;
use crate::model::{Model, Spec, at, nasty, noise};
use crate::random::{any_options, compressed};
use crate::reader::{assert_same, read};

fn with_names_in_order(data: &Model, names: &Model, options: &Options) -> Vec<u8> {
    let out = Cursor::new(Vec::new());
    let mut builder = Builder::with_dedupe(out, options.clone()).unwrap();
    let data = data.write_data(&mut builder).unwrap();
    names.add_names(&mut builder, &data).unwrap();
    builder.finish().unwrap().0.into_inner()
}

/// The image of a model whose contents are asked for when all names are there. What has several
/// names comes under whichever is the model's first.
fn with_contents_later(model: &Model, options: &Options) -> Vec<u8> {
    let out = Cursor::new(Vec::new());
    let mut image = Builder::with_dedupe(out, options.clone()).unwrap();
    let of = |wanted: &[u8]| model.entries.iter().find(|(path, ..)| path == wanted);
    let mut nodes = BTreeMap::new();
    let mut files = Vec::new();
    for (path, meta, spec) in &model.entries {
        let (own, meta, spec) = match spec {
            Spec::Link(target) => of(target).unwrap(),
            _ => &(path.clone(), meta.clone(), spec.clone()),
        };
        if let Some(&node) = nodes.get(own) {
            image.link_path(path, node).unwrap();
            continue;
        }
        let node = match spec {
            Spec::File(contents) => {
                files.push(contents.clone());
                Node::File(FileData::later(files.len() as u64 - 1))
            }
            other => other.node(),
        };
        nodes.insert(
            own.clone(),
            image.add_path(path, meta.clone(), node).unwrap(),
        );
    }
    let stored = image.store_later(|image, number| -> Result<_, Error> {
        let contents = &files[number as usize];
        let hole = contents.iter().take_while(|&&byte| byte == 0).count();
        if hole > 1 << 16 {
            let mut data = image.data_in_chunks(ChunkSize::from_block_bits(1)?);
            data.hole(hole as u64)?;
            data.write_all(&contents[hole..])?;
            return data.finish();
        }
        let mut data = image.data();
        data.write_all(contents)?;
        data.finish()
    });
    stored.unwrap();
    image.finish().unwrap().0.into_inner()
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
    let sparse = [vec![0; 1 << 17], text(3000)].concat();
    model.add("1/sparse", at(0, 0), Spec::File(sparse));
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
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn entries_in_any_order_give_the_same_bytes_where_contents_come_later(
        shuffled in Just(tree().entries).prop_shuffle(),
        options in any_options(),
    ) {
        let shuffled = Model { entries: shuffled };
        let bytes = with_contents_later(&tree(), &options);
        prop_assert!(bytes == with_contents_later(&shuffled, &options));
        assert_same(&read(&bytes, vec![]), &tree().tree());
    }
}

#[test]
fn contents_that_come_later_lie_directory_by_directory_in_the_order_of_names() {
    let model = |paths: [&str; 5]| {
        let mut model = Model::default();
        for path in paths {
            let contents = [path.as_bytes(), &noise(3000)].concat();
            model.add(path, at(0, 0), Spec::File(contents));
        }
        model
    };
    let in_order = model(["a", "z", "b/x", "b/y", "b/c/x"]);
    let any = model(["b/y", "b/c/x", "z", "b/x", "a"]);
    let options = Options::default();
    let expected = with_names_in_order(&in_order, &any, &options);
    assert!(with_contents_later(&any, &options) == expected);
}

#[test]
fn contents_promised_for_later_must_be_stored() {
    let image = || {
        let mut image = Builder::new(Cursor::new(Vec::new()), Options::default()).unwrap();
        for (number, path) in (0..).zip(["d/two", "d/one"]) {
            let data = FileData::later(number);
            assert_eq!(data.size(), 0);
            let meta = Metadata::new(0o755);
            image
                .add_path(path.as_bytes(), meta, Node::File(data))
                .unwrap();
        }
        image
    };
    let missing = |image: Builder<_>| match image.finish() {
        Err(Error::NoContents(path)) => path,
        other => panic!("{other:?}"),
    };
    assert_eq!(missing(image()), b"/d/two");

    let mut put_off = image();
    let again = |_: &mut _, number| Ok::<_, Error>(FileData::later(number + 1));
    put_off.store_later(again).unwrap();
    assert_eq!(missing(put_off), b"/d/two");

    let mut stopped_at = image();
    let mut asked = Vec::new();
    let stopped = stopped_at.store_later(|image, number| {
        asked.push(number);
        match number {
            0 => Err(Error::TooManyNodes),
            _ => image.data().finish(),
        }
    });
    assert!(matches!(stopped, Err(Error::TooManyNodes)), "{stopped:?}");
    assert_eq!(asked, [1, 0]);
    // What was stored before stays.
    assert_eq!(missing(stopped_at), b"/d/two");
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
    let options = Options::default()
        .uuid(Uuid::Given([7; 16]))
        .label(erofs_writer::Label::new("layer").unwrap())
        .build_time(Some(1_700_000_100))
        .epoch(Some(Timestamp {
            secs: 1_700_000_000,
            nanos: 5,
        }));
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
