//! Random trees with random options.

use std::num::NonZeroUsize;

use erofs_writer::{
    Addresses, Algorithm, BlockSize, Fragments, InodeLayout, Metadata, Options, Timestamp,
    XattrPrefixes,
};
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;

use crate::compressed::options;
use crate::model::{Model, Spec, noise};
use crate::reader::{assert_same, read};

fn name() -> impl Strategy<Value = Vec<u8>> {
    let byte = any::<u8>().prop_filter("no NUL, no slash", |&byte| byte != 0 && byte != b'/');
    prop_oneof![8 => vec(byte.clone(), 1..12), 1 => vec(byte, 200..256)]
        .prop_filter("no dots alone", |name| name != b"." && name != b"..")
}

fn meta() -> impl Strategy<Value = Metadata> {
    let id = prop_oneof![3 => 0..3_u32, 1 => any::<u32>()];
    let secs = prop_oneof![3 => 0..3_i64, 1 => any::<i64>()];
    let xattr =
        (0..4_usize, vec(any::<u8>(), 0..600), 1..250_usize).prop_map(|(namespace, value, n)| {
            let namespace = ["user.", "trusted.", "security.", "user.overlay."][namespace];
            let length = n.min(255 - namespace.len());
            (
                (namespace.to_owned() + &"n".repeat(length)).into_bytes(),
                value,
            )
        });
    let xattrs = prop_oneof![
        3 => Just(Vec::new()),
        1 => Just(vec![(b"user.same".to_vec(), b"value".to_vec())]),
        1 => vec(xattr, 0..4).prop_map(|mut xattrs| {
            xattrs.sort();
            xattrs.dedup_by(|a, b| a.0 == b.0);
            xattrs
        }),
    ];
    (
        0..=0o7777_u16,
        id.clone(),
        id,
        secs,
        0..1_000_000_000_u32,
        xattrs,
    )
        .prop_map(|(mode, uid, gid, secs, nanos, xattrs)| {
            Metadata::new(mode)
                .uid(uid)
                .gid(gid)
                .mtime(Timestamp { secs, nanos })
                .xattrs(xattrs)
        })
}

fn spec() -> impl Strategy<Value = Spec> {
    let target = vec(1..=255_u8, 1..700);
    prop_oneof![
        4 => (0..9000_usize).prop_map(|length| Spec::File(noise(length))),
        1 => (0..4096_u32, 0..1_048_576_u32).prop_map(|(major, minor)| Spec::Char(major, minor)),
        1 => (0..4096_u32, 0..1_048_576_u32).prop_map(|(major, minor)| Spec::Block(major, minor)),
        2 => target.prop_map(Spec::Symlink),
        1 => Just(Spec::Fifo),
        1 => Just(Spec::Socket),
    ]
}

/// Files under random directories, some of them directories with attributes, and second names of
/// some.
fn model() -> impl Strategy<Value = Model> {
    let path = vec(name(), 0..4).prop_map(|dirs| dirs.join(&b'/'));
    let files = btree_map((path, name()), (meta(), spec(), any::<bool>()), 0..60);
    (files, meta()).prop_map(|(files, dir_meta)| {
        let mut model = Model::default();
        for (i, ((dir, name), (meta, spec, linked))) in files.into_iter().enumerate() {
            // A prefix keeps names of files apart from those of directories.
            let mut parts: Vec<Vec<u8>> = Vec::new();
            if !dir.is_empty() {
                parts.push(dir.clone());
            }
            parts.push(format!("{i}").into_bytes());
            let own = parts.join(&b'/');
            if i % 3 == 0 {
                model.add(own.clone(), dir_meta.clone(), Spec::Dir);
            }
            let path = [&own[..], b"/", &name].concat();
            if linked {
                model.add(format!("link{i}"), meta.clone(), Spec::Link(path.clone()));
            }
            model.add(path, meta, spec);
        }
        model
    })
}

/// All that makes compressed images differ in more than numbers.
pub(crate) fn compressed() -> impl Strategy<Value = Options> {
    let cluster = prop_oneof![Just(4096_u32), Just(65_536)];
    let fragments = [Fragments::None, Fragments::Tails, Fragments::Files];
    let bools = any::<[bool; 4]>();
    (0..4_usize, cluster, 0..3_usize, bools, 0..3_usize).prop_map(
        move |(algorithm, cluster, which, bools, threads)| {
            let [tail_packing, dedupe_extents, inline_tails, full_indexes] = bools;
            options(Algorithm::ALL[algorithm], 1, cluster)
                .fragments(fragments[which])
                .tail_packing(tail_packing)
                .dedupe_extents(dedupe_extents)
                .inline_tails(inline_tails)
                .full_indexes(full_indexes)
                .threads(NonZeroUsize::new(threads))
        },
    )
}

/// Options that lose nothing.
pub(crate) fn any_options() -> impl Strategy<Value = Options> {
    let plain = (9..=16_u32, any::<bool>()).prop_map(|(bits, inline_tails)| {
        Options::default()
            .block_size(BlockSize::new(1 << bits).unwrap())
            .inline_tails(inline_tails)
    });
    let epoch = proptest::option::of((-1..3_i64).prop_map(|secs| Timestamp { secs, nanos: 0 }));
    let data = prop_oneof![plain, compressed()];
    (data, epoch, any::<[bool; 5]>()).prop_map(|(data, epoch, bools)| {
        let [extended, far, chunk_indexes, prefixes, no_xattr_filter] = bools;
        data.epoch(epoch)
            .inodes(match extended {
                true => InodeLayout::Extended,
                false => InodeLayout::Auto,
            })
            .addresses(match far {
                true => Addresses::Bits48,
                false => Addresses::Bits32,
            })
            .chunk_indexes(chunk_indexes)
            .xattr_prefixes(match prefixes {
                true => XattrPrefixes::new(["user.n", "trusted.nnnn", "user.same"]).unwrap(),
                false => XattrPrefixes::default(),
            })
            .no_xattr_filter(no_xattr_filter)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn any_tree_reads_back_with_any_options(model in model(), options in any_options()) {
        let (image, _) = model.build(options).unwrap();
        assert_same(&read(&image, vec![]), &model.tree());
    }
}
