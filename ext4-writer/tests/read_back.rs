//! What ext4-view, which checks every checksum, reads from images, without root.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::collections::BTreeMap;
use std::path::Path;

use common::Image;
use ext4_view::{Ext4, FileType};
use ext4_writer::{
    BlockSize, Builder, DeviceNumber, Journal, Metadata, NodeId, Options, Timestamp,
};
use proptest::prelude::*;

/// A node of a random tree.
#[derive(Clone, Debug)]
enum Node {
    Dir(BTreeMap<Vec<u8>, (Attributes, Node)>),
    File(Vec<u8>),
    Symlink(Vec<u8>),
    Device(u32, u32),
    Fifo,
    Socket,
}

#[derive(Clone, Debug)]
struct Attributes {
    mode: u16,
    uid: u32,
    gid: u32,
    mtime: (i64, u32),
    xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl Attributes {
    fn metadata(&self) -> Metadata {
        Metadata::new(self.mode)
            .uid(self.uid)
            .gid(self.gid)
            .mtime(Timestamp {
                secs: self.mtime.0,
                nanos: self.mtime.1,
            })
            .xattrs(self.xattrs.clone().into_iter().collect())
    }
}

fn attributes() -> impl Strategy<Value = Attributes> {
    let name = prop::sample::select(vec!["user.a", "user.bb", "trusted.ccc", "security.d"]);
    let name = name.prop_map(|name| name.as_bytes().to_vec());
    let value = prop::collection::vec(any::<u8>(), 0..200);
    (
        0..0o10000_u16,
        any::<u32>(),
        any::<u32>(),
        // ext4-view takes times whose low half is negative for corruption.
        (0..4_i64, 0..1_i64 << 31, 0..1_000_000_000_u32)
            .prop_map(|(epoch, secs, nanos)| (epoch << 32 | secs, nanos)),
        prop::collection::btree_map(name, value, 0..4),
    )
        .prop_map(|(mode, uid, gid, mtime, xattrs)| Attributes {
            mode,
            uid,
            gid,
            mtime,
            xattrs,
        })
}

fn tree() -> impl Strategy<Value = Node> {
    let bytes = |n| prop::collection::vec(any::<u8>(), n);
    let leaf = prop_oneof![
        bytes(0..20000).prop_map(Node::File),
        bytes(1..200)
            .prop_map(|target| Node::Symlink(target.iter().map(|byte| byte | 1).collect())),
        (0..4096_u32, 0..0x10_0000_u32).prop_map(|(major, minor)| Node::Device(major, minor)),
        Just(Node::Fifo),
        Just(Node::Socket),
    ];
    let node = leaf.prop_recursive(4, 200, 60, move |inner| {
        let name = prop_oneof![
            "[a-z]{1,8}".prop_map(String::into_bytes),
            bytes(1..255).prop_map(|name| name.into_iter().map(|byte| byte | 0x80).collect())
        ];
        prop::collection::btree_map(name, (attributes(), inner), 0..60).prop_map(Node::Dir)
    });
    node.prop_filter("a directory", |node| matches!(node, Node::Dir(_)))
}

fn options() -> impl Strategy<Value = Options> {
    (
        prop::sample::select(vec![BlockSize::B1024, BlockSize::B2048, BlockSize::B4096]),
        prop::sample::select(vec![Journal::None, Journal::Auto]),
        (32_u64 << 20)..(300 << 20),
        any::<[bool; 9]>(),
    )
        .prop_map(|(block_size, journal, size, on)| {
            let [orphan_file, quota, project, verity, unsigned, ..] = on;
            // ext4-view does not read those, nor names hashed as unsigned chars: it gets what is
            // left.
            let [inline_data, ea_inode, meta_bg, large] = [5, 6, 7, 8].map(|i| on[i]);
            Options::new(size)
                .block_size(block_size)
                .journal(journal)
                .inode_ratio(4096)
                .orphan_file(orphan_file)
                .quota(quota)
                .project(project)
                .verity(verity)
                .signed_hash(!(unsigned && large))
                .inline_data(inline_data && large)
                .ea_inode(ea_inode && large)
                .meta_bg(meta_bg && large)
        })
}

fn add<W: std::io::Write + std::io::Seek>(image: &mut Builder<W>, parent: NodeId, tree: &Node) {
    let Node::Dir(children) = tree else { return };
    for (name, (attributes, node)) in children {
        let meta = attributes.metadata();
        let added = match node {
            Node::Dir(_) => image.add_dir(parent, name, meta),
            Node::File(data) => image.add_file(parent, name, meta, &data[..], None),
            Node::Symlink(target) => image.add_symlink(parent, name, meta, target),
            &Node::Device(major, minor) => {
                image.add_char_device(parent, name, meta, DeviceNumber { major, minor })
            }
            Node::Fifo => image.add_fifo(parent, name, meta),
            Node::Socket => image.add_socket(parent, name, meta),
        };
        add(image, added.unwrap(), node);
    }
}

/// Compares what ext4-view reads at `path` with `node`.
fn compare(fs: &Ext4, path: &[u8], node: &Node) {
    let here = if path.is_empty() { b"/" } else { path };
    if let Node::Dir(children) = node {
        let mut names: Vec<_> = fs
            .read_dir(here)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().as_ref().to_vec())
            .filter(|name| !matches!(&name[..], b"." | b".." | b"lost+found"))
            .collect();
        names.sort();
        assert!(names.iter().eq(children.keys()), "{}", path.escape_ascii());
        for (name, (attributes, node)) in children {
            let path = [path, name].join(&b'/');
            let meta = fs.symlink_metadata(&path[..]).unwrap();
            assert_eq!(meta.mode(), attributes.mode);
            assert_eq!((meta.uid(), meta.gid()), (attributes.uid, attributes.gid));
            compare(fs, &path, node);
        }
    }
    let kind = match path {
        b"" => FileType::Directory,
        _ => fs.symlink_metadata(path).unwrap().file_type(),
    };
    let expected = match node {
        Node::Dir(_) => FileType::Directory,
        Node::File(data) => {
            assert_eq!(&fs.read(path).unwrap(), data);
            FileType::Regular
        }
        Node::Symlink(target) => {
            assert_eq!(fs.read_link(path).unwrap().as_ref(), target);
            FileType::Symlink
        }
        Node::Device(..) => FileType::CharacterDevice,
        Node::Fifo => FileType::Fifo,
        Node::Socket => FileType::Socket,
    };
    assert_eq!(kind, expected);
}

fn open(path: &Path) -> Ext4 {
    Ext4::load_from_path(path).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn every_tree_reads_back_as_it_was_added(tree in tree(), options in options()) {
        let viewable = options.signed_hash
            && !(options.inline_data || options.ea_inode || options.meta_bg);
        let image = Image::new(options, |image| add(image, image.root(), &tree));
        image.assert_clean();
        if viewable {
            compare(&open(&image.path), b"", &tree);
        }
    }
}

#[test]
fn names_of_large_directories_are_found_by_their_hash() {
    // With 1 KiB blocks and long names, the larger of these needs two levels of index.
    for (count, padding) in [(100, 0), (2_000, 60), (20_000, 5)] {
        let name = |i: u32| format!("{i}{}", "\u{e9}".repeat(padding)).into_bytes();
        let options = Options::new(64 << 20)
            .block_size(BlockSize::B1024)
            .inode_ratio(1024);
        let image = Image::new(options, |image| {
            let dir = image.root();
            let dir = image.add_dir(dir, b"dir", Metadata::new(0o755)).unwrap();
            let meta = Metadata::new(0o644);
            let file = image
                .add_file(dir, b"file", meta.clone(), &b"data"[..], None)
                .unwrap();
            for i in 0..count {
                match i % 2 {
                    0 => image.link(dir, &name(i), file),
                    _ => image.add_fifo(dir, &name(i), meta.clone()).map(drop),
                }
                .unwrap();
            }
        });
        image.assert_clean();
        let fs = open(&image.path);
        for i in (0..count).step_by(7) {
            let path = [&b"/dir/"[..], &name(i)].concat();
            let kind = fs.metadata(&path[..]).unwrap().file_type();
            assert_eq!(kind == FileType::Regular, i % 2 == 0);
        }
        assert!(!fs.exists("/dir/absent").unwrap());
    }
}

#[test]
fn a_file_in_more_pieces_than_an_extent_block_lists_reads_back() {
    let pieces = 3000;
    let block = 1024;
    let ranges: Vec<_> = (0..pieces)
        .map(|i| i * 2 * block..i * 2 * block + block)
        .collect();
    let data: Vec<u8> = (0..pieces * block).map(|i| (i / block) as u8 | 1).collect();
    let options = Options::new(16 << 20).block_size(BlockSize::B1024);
    let image = Image::new(options, |image| {
        let meta = Metadata::new(0o644);
        let root = image.root();
        image
            .add_sparse_file(root, b"f", meta, pieces * 2 * block, &ranges, &data[..])
            .unwrap();
    });
    image.assert_clean();
    let read = open(&image.path).read("/f").unwrap();
    for (range, expected) in ranges.iter().zip(data.chunks(block as usize)) {
        assert_eq!(&read[range.start as usize..range.end as usize], expected);
        assert_eq!(read[range.end as usize..][..block as usize], [0; 1024]);
    }
}

#[test]
fn same_tree_same_bytes() {
    let make = || {
        let out = std::io::Cursor::new(Vec::new());
        let mut image = Builder::new(out, Options::new(16 << 20)).unwrap();
        let root = image.root();
        for i in 0..300 {
            let meta = Metadata::new(0o644).xattrs(vec![(b"user.i".to_vec(), vec![i as u8; 200])]);
            let name = format!("name{i}").into_bytes();
            image.add_file(root, &name, meta, &name[..], None).unwrap();
        }
        image.finish().unwrap().0.into_inner()
    };
    assert!(make() == make());
}
