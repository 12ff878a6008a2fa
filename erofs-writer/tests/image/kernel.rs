//! What the kernel shows of an image is what went into it; `fsck.erofs` finds no fault.

use std::io::{Cursor, Write};

use erofs_writer::{
    Addresses, Algorithm, BlockSize, Builder, ChunkSize, Compression, Fragments, InodeLayout,
    Label, Options, Timestamp, Uuid, XattrPrefixes,
};
use testkit::{Difference, Mount, kernel_mounts, walk};

use crate::model::{Model, Spec, at, fsck, nasty, noise, with_xattrs};
use crate::reader::{assert_same, read};

fn check(model: &Model, options: Options) {
    let (image, summary) = model.build(options).unwrap();
    assert_eq!(image.len() as u64, summary.bytes);
    check_image(model, image);
}

fn check_image(model: &Model, image: Vec<u8>) {
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

#[test]
fn every_type_and_attribute_reads_back_at_every_block_size_up_to_a_page() {
    let model = nasty();
    for bytes in [512, 1024, 2048, 4096] {
        check(
            &model,
            Options::default().block_size(BlockSize::new(bytes).unwrap()),
        );
    }
}

#[test]
fn inline_tails_read_back() {
    for bytes in [512, 4096] {
        check(
            &nasty(),
            Options::default()
                .block_size(BlockSize::new(bytes).unwrap())
                .inline_tails(true),
        );
    }
}

#[test]
fn xattrs_with_long_prefixes_read_back() {
    // The longest that fits counts; one that is a whole name; one that none has.
    let names = [
        "user.",
        "trusted.overlay.",
        "user.number",
        "user.number1",
        "security.selinux",
        "user.none.",
    ];
    assert!(XattrPrefixes::new(names).is_err());
    check(
        &nasty(),
        Options::default().xattr_prefixes(XattrPrefixes::new(&names[1..]).unwrap()),
    );
}

#[test]
fn xattr_prefixes_are_found_in_the_packed_inode_where_there_is_one() {
    for fragments in [Fragments::Tails, Fragments::Files] {
        let mut model = nasty();
        let text = "all work and no play\n".repeat(900).into_bytes();
        let meta = with_xattrs(&[("user.number.of.files", b"1"), ("user.number.two", b"2")]);
        model.add("compressed", meta, Spec::File(text));
        let options = Options::default()
            .block_size(BlockSize::B4096)
            .compression(Some(Compression::new(Algorithm::Lz4)))
            .fragments(fragments)
            .xattr_prefixes(XattrPrefixes::new(["user.number", "trusted.overlay."]).unwrap());
        check(&model, options);
    }
}

#[test]
fn xattrs_without_the_name_filter_read_back() {
    check(&nasty(), Options::default().no_xattr_filter(true));
    let features = |no_xattr_filter| {
        let options = Options::default().no_xattr_filter(no_xattr_filter);
        let (image, _) = nasty().build(options).unwrap();
        // `feature_compat`: EROFS_FEATURE_COMPAT_XATTR_FILTER.
        image[1024 + 8] & 4
    };
    assert_eq!((features(true), features(false)), (0, 4));
}

#[test]
fn every_attribute_reads_back_from_extended_inodes() {
    check(&nasty(), Options::default().inodes(InodeLayout::Extended));
}

#[test]
fn a_huge_directory_finds_every_name() {
    let mut model = Model::default();
    for i in 0..40_000_u32 {
        // In no order.
        let name = format!("{:x}", i.wrapping_mul(0x9E37_79B1));
        model.add(format!("huge/{name}"), at(i.into(), i), Spec::Fifo);
    }
    check(&model, Options::default());
}

type Feature = (&'static str, fn(&mut Options));

/// What can be turned on where nothing is compressed.
fn features() -> [Feature; 9] {
    [
        ("blocks of 4096 bytes", |options| {
            options.block_size = BlockSize::B4096;
        }),
        ("inline tails", |options| options.inline_tails = true),
        ("chunk indexes", |options| options.chunk_indexes = true),
        ("extended inodes", |options| {
            options.inodes = InodeLayout::Extended;
        }),
        ("48 bits", |options| options.addresses = Addresses::Bits48),
        ("an epoch", |options| {
            let (secs, nanos) = (1_600_000_000, 5);
            options.epoch = Some(Timestamp { secs, nanos });
        }),
        ("prefixes of xattrs", |options| {
            options.xattr_prefixes =
                XattrPrefixes::new(["user.number", "trusted.overlay."]).unwrap();
        }),
        ("no filter of xattrs", |options| {
            options.no_xattr_filter = true;
        }),
        ("a label, a UUID and a time", |options| {
            options.label = Label::new("label").unwrap();
            options.uuid = Uuid::Given([7; 16]);
            options.build_time = Some(1_700_000_100);
        }),
    ]
}

#[test]
fn every_pair_of_features_reads_back_where_nothing_is_compressed() {
    let features = features();
    for (i, (one, first)) in features.iter().enumerate() {
        for (two, second) in &features[i + 1..] {
            println!("{one}, {two}");
            let mut options = Options::default();
            first(&mut options);
            second(&mut options);
            check_with_chunks(options);
        }
    }
}

/// As [`check`], of everything that was ever got wrong and files in chunks.
fn check_with_chunks(options: Options) {
    let out = Cursor::new(Vec::new());
    let mut builder = Builder::with_dedupe(out, options).unwrap();
    let mut model = nasty();
    let mut data = model.write_data(&mut builder).unwrap();
    for (i, hole) in [0, 5000, 1 << 17].into_iter().enumerate() {
        let mut chunks = builder.data_in_chunks(ChunkSize::from_block_bits(i as u8).unwrap());
        chunks.write_all(&noise(9000)).unwrap();
        chunks.hole(hole).unwrap();
        chunks.write_all(&noise(9000)).unwrap();
        let path = format!("chunks/{i}");
        data.insert(path.clone().into_bytes(), chunks.finish().unwrap());
        let contents = [noise(9000), vec![0; hole as usize], noise(9000)].concat();
        model.add(path, at(1_700_000_000, 0), Spec::File(contents));
    }
    model.add_names(&mut builder, &data).unwrap();
    check_image(&model, builder.finish().unwrap().0.into_inner());
}
