//! Layers built by hand: nodes by path, replaced, removed and of another builder.

use crate::support::Store;
use fsmerge::{BuilderNodeId, Error, Kind, LayerBuilder, Limits, Metadata, Problem};

fn builder() -> LayerBuilder {
    LayerBuilder::new(&Limits::default())
}

fn meta() -> Metadata {
    Metadata::new(0o755)
}

fn add(builder: &mut LayerBuilder, path: &str, kind: Kind<'_>) -> BuilderNodeId {
    builder.add_path(path.as_bytes(), meta(), kind).unwrap()
}

fn problem<T: std::fmt::Debug>(result: Result<T, Error>) -> (String, Problem) {
    match result.unwrap_err() {
        Error::Node { path, problem } => (path.to_string(), problem),
        other => panic!("{other}"),
    }
}

#[test]
fn paths_follow_symlinks_of_the_layer_inside_the_root() {
    let mut builder = builder();
    add(&mut builder, "sbin", Kind::Symlink(b"usr/sbin"));
    add(
        &mut builder,
        "usr/sbin",
        Kind::Symlink(b"../../..//usr/bin"),
    );
    let init = add(&mut builder, "/sbin/init", Kind::Fifo);
    assert_eq!(builder.lookup(b"usr/bin/init"), Some(init));
    assert_eq!(builder.lookup(b"sbin/init"), None);
    assert_eq!(builder.resolve(b"sbin/init"), Some(init));
    assert_eq!(builder.kind(init), Some(Kind::Fifo));
    add(&mut builder, "a", Kind::Symlink(b"b"));
    add(&mut builder, "b", Kind::Symlink(b"a"));
    let looped = builder.add_path(b"a/x", meta(), Kind::Fifo);
    assert_eq!(problem(looped), ("a/x".into(), Problem::SymlinkLoop));
    let beneath = builder.add_path(b"sbin/init/x", meta(), Kind::Fifo);
    let expected = ("sbin/init/x".into(), Problem::NotADirectory);
    assert_eq!(problem(beneath), expected);
    let outside = builder.add_path(b"../x", meta(), Kind::Fifo);
    assert_eq!(problem(outside).1, Problem::Escape);
}

#[test]
fn removed_and_replaced_nodes_are_not_in_the_layer() {
    let mut builder = builder();
    let gone = add(&mut builder, "gone", Kind::DIRECTORY);
    add(&mut builder, "gone/a/b", Kind::Fifo);
    add(&mut builder, "kept/x", Kind::Fifo);
    let link = add(&mut builder, "link", Kind::Symlink(b"kept"));
    builder.remove(b"gone").unwrap();
    builder.remove(b"link/x").unwrap();
    let replaced = builder.replace(b"kept", meta(), Kind::Socket).unwrap();
    assert_eq!(builder.resolve(b"link"), Some(replaced));
    let refused = builder.replace(b"link", meta(), Kind::Symlink(b""));
    assert_eq!(problem(refused).1, Problem::EmptyTarget);
    assert_eq!(builder.lookup(b"link"), Some(link));
    assert_eq!(
        (builder.kind(gone), builder.child(gone, b"a")),
        (None, None)
    );
    let into = builder.add(gone, b"x", meta(), Kind::Fifo);
    assert_eq!(problem(into).1, Problem::ForeignNode);
    assert_eq!(problem(builder.remove(b"gone/a")).1, Problem::NotFound);
    assert_eq!(problem(builder.remove(b"/")).1, Problem::InvalidName);
    add(&mut builder, "gone/a", Kind::Fifo);
    let lines = Store::default().lines(&builder.finish());
    assert_eq!(
        lines,
        [
            "gone/ implied",
            "gone/a fifo",
            "kept socket",
            "link -> kept"
        ]
    );
}

#[test]
fn node_of_another_builder_is_refused_even_where_its_number_exists() {
    let (mut one, mut other) = (builder(), builder());
    let dir = add(&mut one, "d", Kind::DIRECTORY);
    let foreign = add(&mut other, "d", Kind::DIRECTORY);
    assert_ne!(dir, foreign);
    let file = add(&mut other, "d/f", Kind::Fifo);
    add(&mut one, "d/f", Kind::Fifo);
    assert_eq!(one.kind(foreign), None);
    for refused in [
        one.add(foreign, b"x", meta(), Kind::Fifo).map(drop),
        one.link(foreign, b"x", file),
        one.link(dir, b"x", file),
    ] {
        assert_eq!(problem(refused).1, Problem::ForeignNode);
    }
    let taken = one.add(dir, b"f", meta(), Kind::Fifo);
    assert_eq!(problem(taken), ("d/f".into(), Problem::AlreadyExists));
}
