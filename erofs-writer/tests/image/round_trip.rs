//! What `erofs-reader` reads is what was written.

use crate::model::{Model, Spec, at, nasty, owned};
use crate::reader::{assert_same, read};
use erofs_writer::{BlockSize, InodeLayout, Options};

#[test]
fn every_type_and_attribute_reads_back_at_every_block_size() {
    let mut model = nasty();
    // The kernel shows this one as the overflow user, being no user's number.
    model.add("owners/all-ones", owned(u32::MAX, u32::MAX), Spec::Fifo);
    let expected = model.tree();
    for bits in 9..=16 {
        let options = Options::default().block_size(BlockSize::new(1 << bits).unwrap());
        let (image, summary) = model.build(options).unwrap();
        assert_same(&read(&image, vec![]), &expected);
        assert!(summary.compact_inodes > 500, "{summary:?}");
    }
}

#[test]
fn forced_compact_inodes_lose_the_modification_time_alone() {
    let mut model = Model::default();
    model.add("a", at(5, 7), Spec::Fifo);
    model.add("b", at(5, 7), Spec::Fifo);
    model.add("c", at(9, 0), Spec::Fifo);
    model.add("d", owned(1 << 20, 0), Spec::Fifo);
    let options = Options::default().inodes(InodeLayout::Compact);
    let (image, summary) = model.build(options).unwrap();
    assert_eq!(summary.compact_inodes, 4);
    let found = read(&image, vec![]);
    assert_eq!(found[&b"c"[..]].meta.mtime, at(5, 7).mtime);
    assert_eq!(found[&b"d"[..]].meta, owned(1 << 20, 0));
}

#[test]
fn more_links_than_16_bits_count() {
    let mut model = Model::default();
    model.add("f", at(1, 0), Spec::File(vec![1]));
    for i in 0..66_000 {
        model.add(format!("l/{i}"), at(1, 0), Spec::Link(b"f".to_vec()));
    }
    for i in 0..66_000 {
        model.add(format!("d/{i}"), at(1, 0), Spec::Dir);
    }
    let (image, _) = model.build(Options::default()).unwrap();
    assert_same(&read(&image, vec![]), &model.tree());
}
