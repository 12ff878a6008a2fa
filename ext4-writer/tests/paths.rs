//! Nodes by path: symbolic links are followed inside the filesystem, names are replaced and
//! removed.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::fs::{self, File};
use std::io::{self, Cursor, Read};

use common::Image;
use ext4_writer::{BlockSize, Error, Kind, Metadata, Node, NodeId, Options};
use testkit::Mount;

type Builder = ext4_writer::Builder<Cursor<Vec<u8>>>;

fn builder() -> Builder {
    Builder::new(Cursor::new(Vec::new()), Options::new(16 << 20)).unwrap()
}

fn meta() -> Metadata {
    Metadata::new(0o755)
}

fn link(image: &mut Builder, path: &str, target: &str) -> NodeId {
    let node = Node::Symlink(target.as_bytes());
    image.add_path(path.as_bytes(), meta(), node).unwrap()
}

fn fifo(image: &mut Builder, path: &str) -> NodeId {
    image.add_path(path.as_bytes(), meta(), Node::Fifo).unwrap()
}

#[test]
fn file_added_through_a_symlink_of_a_merged_usr_lies_in_usr() {
    let mut image = builder();
    link(&mut image, "/sbin", "usr/sbin");
    link(&mut image, "/usr/sbin", "../usr/./bin/");
    link(&mut image, "/escape", "../../..//opt");
    let long = format!("/{}usr/lib", "./".repeat(40));
    link(&mut image, "/absolute", &long);
    let init = fifo(&mut image, "/sbin/init");
    assert_eq!(image.lookup(b"usr/bin/init"), Some(init));
    assert_eq!(image.lookup(b"sbin/init"), None);
    assert_eq!(image.resolve(b"//sbin/./init"), Some(init));
    let opt = fifo(&mut image, "/escape/x");
    assert_eq!(image.lookup(b"opt/x"), Some(opt));
    let lib = fifo(&mut image, "absolute/x");
    assert_eq!(image.lookup(b"usr/lib/x"), Some(lib));
    assert_eq!(image.resolve(b"absolute/../bin/init"), Some(init));
    assert_eq!(
        image.kind(image.resolve(b"sbin").unwrap()),
        Some(Kind::Directory)
    );
}

#[test]
fn symlink_loops_and_files_on_the_way_are_refused() {
    let mut image = builder();
    link(&mut image, "a", "b");
    link(&mut image, "b", "a");
    fifo(&mut image, "fifo");
    link(&mut image, "to-fifo", "fifo");
    let add = |image: &mut Builder, path: &[u8]| image.add_path(path, meta(), Node::Fifo);
    assert!(matches!(
        add(&mut image, b"a/x"),
        Err(Error::SymlinkLoop { .. })
    ));
    assert!(matches!(
        add(&mut image, b"to-fifo/x"),
        Err(Error::NotADirectory { path }) if path == b"/fifo"
    ));
    assert!(matches!(
        add(&mut image, b"x/../y"),
        Err(Error::InvalidName { directory, .. }) if directory == b"/x"
    ));
    assert!(matches!(
        add(&mut image, b"to-fifo"),
        Err(Error::AlreadyExists { path }) if path == b"/to-fifo"
    ));
    assert!(matches!(
        image.remove(b"a/x"),
        Err(Error::SymlinkLoop { .. })
    ));
    assert!(matches!(
        image.remove(b"none/x"),
        Err(Error::NotFound { .. })
    ));
    assert!(matches!(image.remove(b"/"), Err(Error::InvalidName { .. })));
    assert!(matches!(
        image.remove(b"lost+found"),
        Err(Error::InvalidName { .. })
    ));
    assert!(image.replace(b"lost+found", meta(), Node::Fifo).is_err());
    assert_eq!(image.resolve(b"a"), None);
    assert_eq!(image.lookup(b"x"), None);
}

#[test]
fn node_of_another_builder_or_removed_is_refused() {
    let (mut one, mut other) = (builder(), builder());
    let dir = one.add_path(b"dir", meta(), Node::Directory).unwrap();
    let foreign = other.add_path(b"dir", meta(), Node::Directory).unwrap();
    assert_ne!(dir, foreign);
    let file = fifo(&mut other, "file");
    fifo(&mut one, "file");
    let check = |image: &mut Builder, parent, node| {
        assert_eq!(
            (image.kind(parent), image.child(parent, b"x")),
            (None, None)
        );
        for refused in [
            image.add_fifo(parent, b"x", meta()).map(drop),
            image.link(parent, b"x", node),
            image.link(image.root(), b"x", node),
            image.set_metadata(node, meta()),
        ] {
            assert!(matches!(refused, Err(Error::ForeignNode)));
        }
    };
    check(&mut one, foreign, file);
    fifo(&mut other, "dir/x");
    other.remove(b"file").unwrap();
    other.remove(b"dir").unwrap();
    check(&mut other, foreign, file);
}

#[test]
fn removed_inodes_and_blocks_are_free_and_the_image_is_clean() {
    for block_size in [BlockSize::B1024, BlockSize::B4096] {
        let options = Options::new(32 << 20)
            .block_size(block_size)
            .inode_ratio(4096)
            .quota(true);
        let fill = |image: &mut ext4_writer::Builder<File>, detour: bool| {
            let large = || io::repeat(7).take(3 << 20);
            if detour {
                for i in 0..3000 {
                    let path = format!("gone/{}/{i}", i % 7);
                    let node = match i % 3 {
                        0 => Node::Directory,
                        1 => Node::file(&b"contents"[..]),
                        _ => Node::Symlink(&[b'x'; 100]),
                    };
                    let meta = meta().xattr("user.a", vec![i as u8; 200]);
                    image.add_path(path.as_bytes(), meta, node).unwrap();
                }
                // Of many extents.
                let ranges: Vec<_> = (0..400).map(|i| i * 8192..i * 8192 + 10).collect();
                let (dir, name) = image.make_parents(b"gone/sparse", &meta()).unwrap();
                image
                    .add_sparse_file(dir, name, meta(), 400 * 8192, &ranges, io::repeat(1))
                    .unwrap();
                image
                    .add_path(b"kept", meta(), Node::file(large()))
                    .unwrap();
            }
            let kept = image.replace(b"kept", meta(), Node::file(large())).unwrap();
            if detour {
                image.link_path(b"gone/kept", kept).unwrap();
                let failed = image.replace(b"gone", meta(), Node::Symlink(b""));
                assert!(failed.is_err());
                assert!(image.lookup(b"gone/sparse").is_some());
                image.remove(b"gone").unwrap();
            }
            image
                .add_path(b"after/x", meta(), Node::file(large()))
                .unwrap();
        };
        let image = Image::new(options.clone(), |image| fill(image, true));
        let plain = Image::new(options, |image| fill(image, false));
        image.assert_clean();
        assert_eq!(image.summary.free_inodes, plain.summary.free_inodes);
        assert_eq!(image.summary.free_blocks, plain.summary.free_blocks);
    }
}

#[test]
fn the_kernel_sees_the_remaining_files_and_uses_the_freed_space() {
    if !testkit::kernel_mounts() {
        return;
    }
    let image = Image::new(Options::new(32 << 20), |image| {
        for i in 0..500 {
            let path = format!("dir/{i}");
            let data = Node::file(io::repeat(9).take(i * 100));
            image.add_path(path.as_bytes(), meta(), data).unwrap();
        }
        for i in (0..500).step_by(2) {
            image.remove(format!("dir/{i}").as_bytes()).unwrap();
        }
        let data = Node::file(&b"new"[..]);
        image.replace(b"dir/1", meta(), data).unwrap();
    });
    image.assert_clean();
    let mount = Mount::ext4(&image.path, true);
    let dir = mount.path().join("dir");
    assert_eq!(fs::read_dir(&dir).unwrap().count(), 250);
    assert_eq!(fs::read(dir.join("1")).unwrap(), b"new");
    assert_eq!(fs::read(dir.join("499")).unwrap(), vec![9; 49_900]);
    for i in 0..600 {
        fs::write(dir.join(format!("more {i}")), vec![3; 5000]).unwrap();
    }
    drop(mount);
    image.assert_clean();
}

#[test]
fn progress_counts_the_contents_of_files() {
    let seen = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let listener = seen.clone();
    let progress =
        ext4_writer::Progress::new(move |done| listener.lock().unwrap().push(done.bytes));
    let options = Options::new(64 << 20).progress(progress);
    let disk = Cursor::new(Vec::new());
    let mut image = Builder::new(disk, options).unwrap();
    for (path, size) in [(&b"a"[..], 3_000_000), (b"b", 70_000)] {
        let contents = Node::file(io::repeat(7).take(size));
        let metadata = Metadata::new(0o644);
        image.add_path(path, metadata, contents).unwrap();
    }
    let seen = seen.lock().unwrap();
    assert!(seen.is_sorted() && seen.len() > 2, "{seen:?}");
    assert_eq!(seen.last(), Some(&3_070_000));
}
