//! EDGES "Whiteouts": what takes names of lower layers away, and what does not.

use crate::support::{layer, layer_lines, merged, merged_lines, problem, try_merge};
use fsmerge::{Error, Kind, Problem};
use testkit::TarBuilder as Tar;

fn lower() -> Vec<u8> {
    Tar::new()
        .dir("d/")
        .file("d/a", "1")
        .file("d/b", "2")
        .dir("d/sub/")
        .file("d/sub/x", "3")
        .file("f", "4")
        .finish()
}

#[test]
fn whiteouts_act_wherever_they_stand_in_the_tar() {
    let before = Tar::new().file("d/.wh.a", "").file("d/c", "new").finish();
    let after = Tar::new().file("d/c", "new").file("d/.wh.a", "").finish();
    let expected = [
        "d/",
        "d/b = 2",
        "d/c = new",
        "d/sub/",
        "d/sub/x = 3",
        "f = 4",
    ];
    assert_eq!(merged_lines(&[lower(), before]), expected);
    assert_eq!(merged_lines(&[lower(), after]), expected);
}

#[test]
fn opaque_marker_hides_lower_children_in_any_position() {
    let before = Tar::new()
        .file("d/.wh..wh..opq", "")
        .file("d/c", "new")
        .finish();
    let after = Tar::new()
        .file("d/c", "new")
        .file("d/.wh..wh..opq", "")
        .finish();
    let expected = ["d/", "d/c = new", "f = 4"];
    assert_eq!(merged_lines(&[lower(), before]), expected);
    assert_eq!(merged_lines(&[lower(), after]), expected);
}

#[test]
fn opaque_marker_on_the_root_hides_everything_below() {
    let upper = Tar::new()
        .file("new", "5")
        .file(".wh..wh..opq", "")
        .finish();
    assert_eq!(merged_lines(&[lower(), upper]), ["new = 5"]);
}

#[test]
fn opaque_marker_without_a_directory_entry_keeps_the_lower_attributes() {
    let lower = Tar::new()
        .mode(0o700)
        .owner(3, 4)
        .dir("d/")
        .file("d/a", "1")
        .finish();
    let upper = Tar::new().file("d/.wh..wh..opq", "").finish();
    assert_eq!(layer_lines(&upper), ["d/ opaque implied"]);
    let (merged, store) = merged(&[lower, upper]);
    assert_eq!(store.lines(&merged), ["d/"]);
    let d = merged.lookup(b"d").unwrap();
    let attributes = merged.metadata(d);
    assert_eq!(
        (attributes.mode, attributes.uid, attributes.gid),
        (0o700, 3, 4)
    );
    assert_eq!(merged.layer(d), Some(0));
}

#[test]
fn whiteout_and_new_entry_of_one_name_leave_the_new_one() {
    for upper in [
        Tar::new().file(".wh.f", "").file("f", "new"),
        Tar::new().file("f", "new").file(".wh.f", ""),
    ] {
        let lines = merged_lines(&[lower(), upper.finish()]);
        assert_eq!(lines.last().unwrap(), "f = new");
    }
}

#[test]
fn whiteout_and_new_directory_of_one_name_leave_only_new_children() {
    for upper in [
        Tar::new().file(".wh.d", "").dir("d/").file("d/new", "5"),
        Tar::new().dir("d/").file("d/new", "5").file(".wh.d", ""),
        Tar::new().dir("d/").file(".wh.d", "").file("d/new", "5"),
        Tar::new().file("d/new", "5").file(".wh.d", ""),
        Tar::new().file(".wh.d", "").file("d/new", "5"),
    ] {
        let upper = upper.finish();
        assert_eq!(layer_lines(&upper), ["d/ opaque", "d/new = 5"]);
        assert_eq!(
            merged_lines(&[lower(), upper]),
            ["d/", "d/new = 5", "f = 4"]
        );
    }
}

#[test]
fn old_then_opaque_then_new_leaves_only_new() {
    let tars = [
        Tar::new().dir("d/").file("d/old", "1").finish(),
        Tar::new().file("d/.wh..wh..opq", "").finish(),
        Tar::new().file("d/new", "2").finish(),
    ];
    assert_eq!(merged_lines(&tars), ["d/", "d/new = 2"]);
}

#[test]
fn children_stay_hidden_where_a_whited_out_directory_is_made_again() {
    let tars = [
        lower(),
        Tar::new().file(".wh.d", "").finish(),
        Tar::new().dir("d/").file("d/new", "5").finish(),
    ];
    assert_eq!(merged_lines(&tars), ["d/", "d/new = 5", "f = 4"]);
}

#[test]
fn bare_whiteouts_are_refused() {
    for name in [".wh.", ".wh..", ".wh...", "d/.wh.", "d/.wh..", "d/.wh..."] {
        let tar = Tar::new().file(name, "").finish();
        assert_eq!(problem(&tar), Problem::BareWhiteout, "{name}");
    }
}

#[test]
fn whiteout_of_a_missing_name_has_no_effect() {
    let upper = Tar::new()
        .file(".wh.missing", "")
        .file("d/.wh.missing", "")
        .file("missing/.wh.x", "")
        .file("missing2/deep/.wh..wh..opq", "")
        .file("f/.wh.x", "")
        .finish();
    assert_eq!(merged_lines(&[lower(), upper]), merged_lines(&[lower()]));
}

#[test]
fn redundant_whiteout_beneath_a_whiteout_is_accepted() {
    for upper in [
        Tar::new().file(".wh.d", "").file("d/.wh.d", ""),
        Tar::new().file("d/.wh.d", "").file(".wh.d", ""),
        Tar::new().file(".wh.d", "").file("d/sub/.wh..wh..opq", ""),
    ] {
        let upper = upper.finish();
        assert_eq!(layer_lines(&upper), ["d whiteout"]);
        assert_eq!(merged_lines(&[lower(), upper]), ["f = 4"]);
    }
    let upper = Tar::new()
        .file("d/.wh.d", "")
        .file(".wh.d", "")
        .dir("d/")
        .finish();
    assert_eq!(merged_lines(&[lower(), upper]), ["d/", "f = 4"]);
}

#[test]
fn whiteout_prefix_on_a_parent_is_literal() {
    let upper = Tar::new().file(".wh.f/file", "5").finish();
    assert_eq!(layer_lines(&upper), [".wh.f/ implied", ".wh.f/file = 5"]);
    assert!(merged_lines(&[lower(), upper]).contains(&"f = 4".to_owned()));
}

#[test]
fn aufs_bookkeeping_is_ignored() {
    let upper = Tar::new()
        .dir(".wh..wh.plnk/")
        .file(".wh..wh.plnk/12.34", "linked")
        .file(".wh..wh.aufs", "")
        .dir(".wh..wh.orph/")
        .file(".wh..wh.orph/x", "5")
        .link("kept", ".wh..wh.plnk/12.34")
        .finish();
    // AUFS's links to plnk share their contents, as Docker unpacks them.
    assert_eq!(layer_lines(&upper), ["kept = linked"]);
}

#[test]
fn entries_of_any_type_are_whiteouts_by_their_name() {
    let upper = Tar::new()
        .dir("d/.wh.a/")
        .symlink("d/.wh.b", "x")
        .device("d/.wh.sub", b'3', 0, 0)
        .link(".wh.f", "nowhere")
        .finish();
    assert_eq!(merged_lines(&[lower(), upper]), ["d/"]);
    let upper = Tar::new().dir("d/.wh..wh..opq/").finish();
    assert_eq!(merged_lines(&[lower(), upper]), ["d/", "f = 4"]);
}

#[test]
fn contents_of_a_whiteout_do_not_reach_the_sink() {
    let upper = Tar::new()
        .file("d/.wh.a", "contents")
        .file("next", "5")
        .finish();
    assert_eq!(
        layer_lines(&upper),
        ["d/ implied", "d/a whiteout", "next = 5"]
    );
}

#[test]
fn whiteout_inside_a_new_directory_leaves_no_trace() {
    let upper = Tar::new()
        .dir("n/")
        .file("n/.wh.x", "")
        .file("n/m/.wh.y", "")
        .finish();
    let tars = [lower(), upper];
    let (merged, store) = merged(&tars);
    assert!(store.lines(&merged).contains(&"n/".to_owned()));
    assert!(merged.lookup(b"n/x").is_none());
    assert!(merged.lookup(b"n/m").is_none());
}

#[test]
fn opaque_marker_reached_through_a_lower_symlink_never_clears_the_target() {
    let lower = Tar::new()
        .dir("usr/")
        .dir("usr/lib/")
        .file("usr/lib/old", "1")
        .symlink("lib", "usr/lib")
        .finish();
    let upper = Tar::new()
        .file("lib/.wh..wh..opq", "")
        .file("lib/new", "2")
        .finish();
    assert_eq!(
        merged_lines(&[lower, upper]),
        [
            "lib -> usr/lib",
            "usr/",
            "usr/lib/",
            "usr/lib/new = 2",
            "usr/lib/old = 1"
        ]
    );
}

#[test]
fn whiteout_reached_through_a_lower_symlink_acts_on_the_target() {
    let lower = Tar::new()
        .dir("usr/")
        .dir("usr/lib/")
        .file("usr/lib/old", "1")
        .symlink("lib", "/usr/lib")
        .finish();
    let upper = Tar::new().file("lib/.wh.old", "").finish();
    assert_eq!(
        merged_lines(&[lower, upper]),
        ["lib -> /usr/lib", "usr/", "usr/lib/"]
    );
}

#[test]
fn real_whiteout_device_is_refused() {
    let tar = Tar::new().device("x", b'3', 0, 0).finish();
    assert_eq!(problem(&tar), Problem::WhiteoutDevice);
    // A block device 0:0 means nothing to overlayfs.
    let tar = Tar::new().device("x", b'4', 0, 0).finish();
    assert_eq!(layer_lines(&tar), ["x block 0:0"]);
}

#[test]
fn a_whiteout_never_shows_in_a_merged_tree() {
    let tar = Tar::new()
        .file(".wh.a", "")
        .file("b/.wh.c", "")
        .file("b/d", "1")
        .finish();
    let merged = try_merge([&layer(&tar)]).unwrap();
    assert!(merged.nodes().all(|id| merged.kind(id) != Kind::Whiteout));
    assert_eq!(merged_lines(&[tar]), ["b/ implied", "b/d = 1"]);
}

#[test]
fn errors_name_the_entry_and_its_offset() {
    let tar = Tar::new().file("ok", "data").file("d/.wh.", "").finish();
    match crate::support::Store::default().read(&tar) {
        Err(Error::Entry { path, offset, .. }) => {
            assert_eq!((&path[..], offset), (&b"d/.wh."[..], 1024));
        }
        other => panic!("{other:?}"),
    }
}
