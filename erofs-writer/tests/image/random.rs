//! Random trees with random options.

use erofs_writer::{BlockSize, InodeLayout, Metadata, Options, Timestamp};
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;

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
        .prop_map(|(mode, uid, gid, secs, nanos, xattrs)| Metadata {
            mode,
            uid,
            gid,
            mtime: Timestamp { secs, nanos },
            xattrs,
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

/// Files under random directories, some of them directories with attributes, and second names of some.
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

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn any_tree_reads_back(model in model(), bits in 9..=16_u32, extended: bool, inline_tails: bool) {
        let options = Options {
            block_size: BlockSize::new(1 << bits).unwrap(),
            inodes: if extended { InodeLayout::Extended } else { InodeLayout::Auto },
            inline_tails,
            ..Options::default()
        };
        let (image, _) = model.build(options).unwrap();
        assert_same(&read(&image, vec![]), &model.tree());
    }
}
