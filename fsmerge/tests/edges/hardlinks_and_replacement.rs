//! EDGES "Hardlinks and replacement": one inode with several names, and what takes a name's place.

use crate::support::{Store, layer, layer_lines, merged, merged_lines, problem, try_merge};
use fsmerge::{Error, Kind, Problem};
use testkit::TarBuilder as Tar;

#[test]
fn last_of_duplicate_paths_wins() {
    let tar = Tar::new()
        .file("a", "1")
        .file("./a", "2")
        .file("//a", "3")
        .finish();
    assert_eq!(layer_lines(&tar), ["a = 3"]);
    let tar = Tar::new()
        .symlink("a", "x")
        .file("a", "1")
        .symlink("a", "y")
        .finish();
    assert_eq!(layer_lines(&tar), ["a -> y"]);
    // A directory's attributes are those of its last entry; it keeps its children.
    let tar = Tar::new()
        .mode(0o700)
        .dir("d/")
        .file("d/x", "1")
        .mode(0o711)
        .dir("d/")
        .finish();
    let layer = layer(&tar);
    assert_eq!(layer.metadata(layer.lookup(b"d").unwrap()).mode, 0o711);
    assert!(layer.lookup(b"d/x").is_some());
}

#[test]
fn link_to_itself_keeps_the_node() {
    let tar = Tar::new()
        .file("a", "1")
        .link("a", "a")
        .link("./a", "/a")
        .finish();
    assert_eq!(layer_lines(&tar), ["a = 1"]);
    // With nothing there in this layer, the lower file stays.
    let lower = Tar::new().file("a", "1").finish();
    let upper = Tar::new().link("a", "a").finish();
    assert_eq!(merged_lines(&[lower, upper]), ["a = 1"]);
}

#[test]
fn non_directory_over_directory_and_back_within_a_layer() {
    let tar = Tar::new()
        .dir("a/")
        .file("a/x", "1")
        .file("a", "2")
        .finish();
    assert_eq!(layer_lines(&tar), ["a = 2"]);
    let tar = Tar::new()
        .dir("a/")
        .file("a/x", "1")
        .file("a", "2")
        .dir("a/")
        .file("a/y", "3");
    assert_eq!(layer_lines(&tar.clone().finish()), ["a/ opaque", "a/y = 3"]);
    // The file in between took the lower directory away.
    let lower = Tar::new().dir("a/").file("a/old", "0").finish();
    assert_eq!(merged_lines(&[lower, tar.finish()]), ["a/", "a/y = 3"]);
    // A path through a file of the layer replaces it.
    let tar = Tar::new().file("a", "1").file("a/b", "2").finish();
    assert_eq!(layer_lines(&tar), ["a/ opaque", "a/b = 2"]);
}

#[test]
fn non_directory_over_directory_and_back_across_layers() {
    let directory = || Tar::new().dir("a/").file("a/x", "1").finish();
    let file = || Tar::new().file("a", "2").finish();
    let link = || Tar::new().symlink("a", "b").finish();
    assert_eq!(merged_lines(&[directory(), file()]), ["a = 2"]);
    assert_eq!(merged_lines(&[directory(), link()]), ["a -> b"]);
    assert_eq!(merged_lines(&[file(), directory()]), ["a/", "a/x = 1"]);
    assert_eq!(merged_lines(&[link(), directory()]), ["a/", "a/x = 1"]);
    let again = Tar::new().dir("a/").file("a/y", "3").finish();
    assert_eq!(
        merged_lines(&[directory(), file(), again]),
        ["a/", "a/y = 3"]
    );
}

#[test]
fn link_to_symlink_device_and_fifo_shares_the_inode() {
    let tar = Tar::new()
        .symlink("s", "target")
        .link("s2", "s")
        .device("c", b'3', 5, 1)
        .link("c2", "c")
        .device("b", b'4', 8, 0)
        .link("b2", "b")
        .entry("p", b'6', "", "")
        .link("p2", "p")
        .finish();
    let expected = [
        "b block 8:0 (2 links)",
        "b2 block 8:0 (2 links)",
        "c char 5:1 (2 links)",
        "c2 char 5:1 (2 links)",
        "p fifo (2 links)",
        "p2 fifo (2 links)",
        "s -> target (2 links)",
        "s2 -> target (2 links)",
    ];
    assert_eq!(layer_lines(&tar), expected);
    assert_eq!(merged_lines(std::slice::from_ref(&tar)), expected);
    let layer = layer(&tar);
    assert_eq!(layer.lookup(b"s"), layer.lookup(b"s2"));
}

#[test]
fn link_to_a_directory_or_the_root_is_refused() {
    for tar in [
        Tar::new().dir("d/").link("l", "d"),
        Tar::new().link("l", "d").dir("d/"),
        Tar::new().file("d/x", "").link("l", "d/"),
        Tar::new().link("l", "/"),
        Tar::new().link("l", "."),
        Tar::new().link("l", "d/.."),
    ] {
        let problem = problem(&tar.finish());
        assert!(
            matches!(problem, Problem::LinkToDirectory { .. }),
            "{problem:?}"
        );
    }
    let (lower, upper) = (
        layer(&Tar::new().dir("d/").finish()),
        layer(&Tar::new().link("l", "d").finish()),
    );
    match try_merge([&lower, &upper]) {
        Err(Error::Merge {
            layer: 1,
            path,
            problem: Problem::LinkToDirectory { target },
        }) => assert_eq!((&path[..], &target[..]), (&b"l"[..], &b"d"[..])),
        other => panic!("{other:?}"),
    }
}

#[test]
fn link_before_its_target_or_with_missing_parents_is_deferred() {
    let tar = Tar::new()
        .link("deep/down/link", "a/b/file")
        .link("other", "deep/down/link")
        .link("third", "fourth")
        .link("fourth", "other")
        .file("a/b/file", "data")
        .finish();
    assert_eq!(
        layer_lines(&tar),
        [
            "a/ implied",
            "a/b/ implied",
            "a/b/file = data (5 links)",
            "deep/ implied",
            "deep/down/ implied",
            "deep/down/link = data (5 links)",
            "fourth = data (5 links)",
            "other = data (5 links)",
            "third = data (5 links)",
        ]
    );
}

#[test]
fn link_to_a_lower_layers_file_is_resolved_in_the_merge() {
    let lower = Tar::new()
        .dir("d/")
        .file("d/f", "1")
        .symlink("way", "d")
        .finish();
    let upper = Tar::new()
        .link("l", "d/f")
        .link("l2", "way/f")
        .link("l3", "l")
        .finish();
    assert_eq!(
        layer_lines(&upper),
        ["l => d/f (2 links)", "l2 => way/f", "l3 => d/f (2 links)"]
    );
    let tars = [lower, upper];
    let (merged, store) = merged(&tars);
    assert_eq!(
        store.lines(&merged),
        [
            "d/",
            "d/f = 1 (4 links)",
            "l = 1 (4 links)",
            "l2 = 1 (4 links)",
            "l3 = 1 (4 links)",
            "way -> d",
        ]
    );
    let l = merged.lookup(b"l").unwrap();
    assert_eq!((merged.layer(l), merged.data_layer(l)), (Some(0), Some(0)));
}

#[test]
fn link_to_a_lower_file_that_the_layer_removes_keeps_its_contents() {
    let lower = || Tar::new().file("a", "1").finish();
    let upper = Tar::new().file(".wh.a", "").link("b", "a").finish();
    assert_eq!(merged_lines(&[lower(), upper]), ["b = 1"]);
    let upper = Tar::new().link("b", "a").file(".wh.a", "").finish();
    assert_eq!(merged_lines(&[lower(), upper]), ["b = 1"]);
}

#[test]
fn link_whose_target_is_missing_everywhere_is_refused() {
    let store = Store::default();
    let lower = store.read(&Tar::new().file("a", "1").finish()).unwrap().0;
    let upper = store
        .read(&Tar::new().link("d/l", "missing").finish())
        .unwrap()
        .0;
    match try_merge([&lower, &upper]) {
        Err(Error::Merge {
            layer: 1,
            path,
            problem: Problem::LinkTargetMissing { target },
        }) => assert_eq!((&path[..], &target[..]), (&b"d/l"[..], &b"missing"[..])),
        other => panic!("{other:?}"),
    }
    // Links in a circle have no target.
    let circle = layer(
        &Tar::new()
            .link("a", "b")
            .link("b", "c")
            .link("c", "a")
            .finish(),
    );
    assert!(matches!(try_merge([&circle]), Err(Error::Merge { .. })));
}

#[test]
fn alias_survives_the_whiteout_of_the_first_name_and_links_are_counted_again() {
    let tars = [
        Tar::new()
            .file("a", "1")
            .link("b", "a")
            .link("c", "a")
            .finish(),
        Tar::new().file(".wh.a", "").finish(),
    ];
    assert_eq!(
        merged_lines(&tars[..1]),
        ["a = 1 (3 links)", "b = 1 (3 links)", "c = 1 (3 links)"]
    );
    assert_eq!(merged_lines(&tars), ["b = 1 (2 links)", "c = 1 (2 links)"]);
}

#[test]
fn replacing_one_name_leaves_the_others_as_they_were() {
    let lower = Tar::new().file("a", "1").link("b", "a").finish();
    let upper = Tar::new().file("a", "2").finish();
    assert_eq!(merged_lines(&[lower, upper]), ["a = 2", "b = 1"]);
    let tar = Tar::new()
        .file("a", "1")
        .link("b", "a")
        .file("a", "2")
        .link("c", "a")
        .finish();
    assert_eq!(
        layer_lines(&tar),
        ["a = 2 (2 links)", "b = 1", "c = 2 (2 links)"]
    );
}

#[test]
fn more_than_65000_links_are_counted_exactly() {
    let mut tar = Tar::new().file("f", "1");
    for at in 0..66_000 {
        tar = tar.link(format!("l{at}"), "f");
    }
    let tars = [tar.finish()];
    let (merged, _) = merged(&tars);
    assert_eq!(merged.nlink(merged.lookup(b"l65999").unwrap()), 66_001);
    assert_eq!(merged.len(), 2);
}

#[test]
fn directory_over_directory_replaces_all_attributes_and_keeps_children() {
    let tars = [
        Tar::new()
            .mode(0o700)
            .owner(1, 2)
            .mtime(5)
            .xattr("user.a", "1")
            .xattr("user.b", "2")
            .dir("d/")
            .file("d/x", "1")
            .finish(),
        Tar::new()
            .mode(0o1777)
            .owner(3, 4)
            .mtime(9)
            .xattr("user.c", "3")
            .dir("d/")
            .finish(),
    ];
    let (merged, store) = merged(&tars);
    assert_eq!(store.lines(&merged), ["d/", "d/x = 1"]);
    let d = merged.lookup(b"d").unwrap();
    let attributes = merged.metadata(d);
    assert_eq!(attributes.mode, 0o1777);
    assert_eq!(
        (attributes.uid, attributes.gid, attributes.mtime.secs),
        (3, 4, 9)
    );
    assert_eq!(
        &attributes.xattrs[..],
        [(b"user.c".to_vec(), b"3".to_vec())]
    );
    assert_eq!(merged.layer(d), Some(1));
    assert_eq!(merged.layer(merged.lookup(b"d/x").unwrap()), Some(0));
}

#[test]
fn root_takes_the_attributes_of_the_highest_layer_that_describes_it() {
    let tars = [
        Tar::new().mode(0o700).dir("./").finish(),
        Tar::new()
            .mode(0o751)
            .owner(7, 8)
            .xattr("user.a", "1")
            .dir("/")
            .finish(),
        Tar::new().file("x", "").finish(),
    ];
    let (merged, _) = merged(&tars);
    let root = merged.metadata(merged.root());
    assert_eq!((root.mode, root.uid, root.gid), (0o751, 7, 8));
    assert_eq!(root.xattrs.get(b"user.a"), Some(&b"1"[..]));
    assert_eq!(merged.layer(merged.root()), Some(1));
}

#[test]
fn order_of_entries_does_not_matter() {
    type Step = fn(Tar) -> Tar;
    let steps: [Step; 8] = [
        |tar| tar.file(".wh.gone", ""),
        |tar| tar.file("d/.wh..wh..opq", ""),
        |tar| tar.mode(0o700).dir("d/").mode(0o644),
        |tar| tar.file("d/f", "1"),
        |tar| tar.link("d/l", "d/f"),
        |tar| tar.link("below", "old"),
        |tar| tar.file(".wh.old", ""),
        |tar| tar.file("new/deep/x", "2"),
    ];
    let lower = Tar::new()
        .file("gone", "")
        .file("old", "3")
        .dir("d/")
        .file("d/hidden", "")
        .finish();
    let mut expected = None;
    // Every rotation of the entries, forwards and backwards.
    for turn in 0..16 {
        let mut steps = steps;
        steps.rotate_left(turn % 8);
        if turn >= 8 {
            steps.reverse();
        }
        let upper = steps
            .iter()
            .fold(Tar::new(), |tar, step| step(tar))
            .finish();
        let lines = merged_lines(&[lower.clone(), upper]);
        assert_eq!(expected.get_or_insert(lines.clone()), &lines);
    }
    assert_eq!(
        expected.unwrap(),
        [
            "below = 3",
            "d/",
            "d/f = 1 (2 links)",
            "d/l = 1 (2 links)",
            "new/ implied",
            "new/deep/ implied",
            "new/deep/x = 2",
        ]
    );
}

#[test]
fn directories_count_their_subdirectories() {
    let tars = [
        Tar::new()
            .dir("d/")
            .dir("d/a/")
            .dir("d/b/")
            .file("d/f", "")
            .finish(),
        Tar::new().dir("d/.wh.a").dir("d/c/").dir("d/e/").finish(),
    ];
    let (merged, _) = merged(&tars);
    assert_eq!(merged.nlink(merged.lookup(b"d").unwrap()), 5);
    assert_eq!(merged.nlink(merged.root()), 3);
    assert!(matches!(merged.kind(merged.root()), Kind::Directory { .. }));
}
