//! Nodes by path: symbolic links are followed inside the image, names are replaced and removed.

use std::io::Cursor;

use erofs_writer::{Error, Kind, Metadata, Node, NodeId, Options};

use crate::model::{Model, Spec, fsck, noise, with_xattrs};
use crate::reader::{assert_same, read};

type Builder = erofs_writer::Builder<Cursor<Vec<u8>>>;

fn builder() -> Builder {
    Builder::with_dedupe(Cursor::new(Vec::new()), Options::default()).unwrap()
}

fn meta() -> Metadata {
    Metadata::new(0o755)
}

fn link(image: &mut Builder, path: &str, target: &str) -> NodeId {
    let node = Node::Symlink(target.as_bytes().to_vec());
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
    link(&mut image, "/absolute", "/usr/lib");
    let init = fifo(&mut image, "/sbin/init");
    assert_eq!(image.lookup(b"usr/bin/init"), Some(init));
    assert_eq!(image.lookup(b"sbin/init"), None);
    assert_eq!(image.resolve(b"//sbin/./init"), Some(init));
    let opt = fifo(&mut image, "/escape/x");
    assert_eq!(image.lookup(b"opt/x"), Some(opt));
    let deep = fifo(&mut image, "/usr/sbin/more/deep");
    assert_eq!(image.lookup(b"usr/bin/more/deep"), Some(deep));
    let lib = fifo(&mut image, "absolute/x");
    assert_eq!(image.lookup(b"usr/lib/x"), Some(lib));
    assert_eq!(image.resolve(b"absolute/../bin/init"), Some(init));
}

#[test]
fn last_component_is_followed_by_resolve_alone() {
    let mut image = builder();
    let target = fifo(&mut image, "target");
    let node = link(&mut image, "dir/link", "../target");
    assert_eq!(image.lookup(b"dir/link"), Some(node));
    assert_eq!(image.resolve(b"dir/link"), Some(target));
    assert_eq!(image.kind(node), Some(Kind::Symlink));
    assert_eq!(image.kind(target), Some(Kind::Fifo));
    let taken = image.add_path(b"dir/link", meta(), Node::Fifo);
    assert!(matches!(taken, Err(Error::AlreadyExists { path }) if path == b"/dir/link"));
    image.remove(b"dir/link").unwrap();
    assert_eq!(image.lookup(b"target"), Some(target));
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
        Err(Error::InvalidName { .. })
    ));
    assert!(matches!(
        image.remove(b"a/x"),
        Err(Error::SymlinkLoop { .. })
    ));
    assert!(matches!(
        image.remove(b"none/x"),
        Err(Error::NotFound { .. })
    ));
    assert!(matches!(image.remove(b"none"), Err(Error::NotFound { .. })));
    assert!(matches!(image.remove(b"/"), Err(Error::InvalidName { .. })));
    assert_eq!(image.resolve(b"a"), None);
    assert_eq!(image.resolve(b"to-fifo/x"), None);
    assert_eq!(image.lookup(b"x"), None);
}

#[test]
fn removed_and_replaced_nodes_leave_no_trace() {
    let build = |detour: bool| {
        let mut image = builder();
        let kept = fifo(&mut image, "kept");
        if detour {
            let xattrs = with_xattrs(&[("user.gone", b"1")]);
            image
                .add_path(b"dir/a/b/c", xattrs, Node::Directory)
                .unwrap();
            fifo(&mut image, "dir/a/b/fifo");
            image.link_path(b"dir/a/first", kept).unwrap();
            image.remove(b"dir/a").unwrap();
            let other = fifo(&mut image, "first-name");
            image.link_path(b"dir/link", other).unwrap();
            image.remove(b"first-name").unwrap();
            link(&mut image, "replaced/beneath", "x");
        } else {
            fifo(&mut image, "dir/link");
        }
        image
            .replace(b"replaced", Metadata::new(0o4711), Node::Socket)
            .unwrap();
        fifo(&mut image, "dir/a/b");
        let (out, summary) = image.finish().unwrap();
        assert_eq!(summary.inodes, 7);
        out.into_inner()
    };
    assert!(build(true) == build(false));
}

#[test]
fn removed_node_is_not_accepted_any_more() {
    let mut image = builder();
    let dir = image.add_path(b"dir", meta(), Node::Directory).unwrap();
    let file = fifo(&mut image, "dir/fifo");
    image.remove(b"dir").unwrap();
    assert_eq!(image.kind(dir), None);
    assert_eq!(image.child(dir, b"fifo"), None);
    for refused in [
        image.add(dir, b"x", meta(), Node::Fifo).map(drop),
        image.link(image.root(), b"x", file),
        image.set_metadata(file, meta()),
    ] {
        assert!(matches!(refused, Err(Error::ForeignNode)));
    }
}

#[test]
fn node_of_another_builder_is_refused_even_where_its_number_exists() {
    let (mut one, mut other) = (builder(), builder());
    let dir = one.add_path(b"dir", meta(), Node::Directory).unwrap();
    let foreign = other.add_path(b"dir", meta(), Node::Directory).unwrap();
    assert_ne!(dir, foreign);
    assert_eq!(one.kind(foreign), None);
    let file = fifo(&mut other, "file");
    fifo(&mut one, "file");
    for refused in [
        one.add(foreign, b"x", meta(), Node::Fifo).map(drop),
        one.add(other.root(), b"x", meta(), Node::Fifo).map(drop),
        one.link(foreign, b"x", file),
        one.link(dir, b"x", file),
        one.set_metadata(foreign, meta()),
    ] {
        assert!(matches!(refused, Err(Error::ForeignNode)));
    }
}

#[test]
fn replaced_files_have_their_new_contents_and_other_names_the_old_ones() {
    let mut image = builder();
    let (old, new) = (noise(5000), noise(700));
    let data = image.store(&old[..]).unwrap();
    let node = image.add_path(b"file", meta(), Node::File(data)).unwrap();
    image.link_path(b"other", node).unwrap();
    let data = image.store(&new[..]).unwrap();
    image.replace(b"file", meta(), Node::File(data)).unwrap();
    let too_long = Node::Symlink(vec![b'x'; 5000]);
    assert!(image.replace(b"file", meta(), too_long).is_err());
    let (out, _) = image.finish().unwrap();
    let bytes = out.into_inner();
    let mut model = Model::default();
    model.add("file", meta(), Spec::File(new));
    model.add("other", meta(), Spec::File(old));
    assert_same(&read(&bytes, vec![]), &model.tree());
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("image"), &bytes).unwrap();
    fsck(&dir.path().join("image"), &[]);
}
