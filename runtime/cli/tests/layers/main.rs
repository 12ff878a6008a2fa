//! The kernel's mount of blockbox's disks equals umoci's unpacking of the same image, and the
//! kernel's own overlayfs of the layers.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

#[path = "../common/mod.rs"]
mod common;
mod grouped;
mod native;
mod views;
mod whole;

use common::Blockbox;
use common::layout::{Compression, Layout};
use testkit::{Kind, TarBuilder, kernel_mounts};
use views::{compare, compare_but, kernel_walk, overlay_walk, text};

#[test]
fn every_type_and_attribute_arrives() {
    if !kernel_mounts() {
        return;
    }
    let long = "n".repeat(255);
    let tar = TarBuilder::new()
        .dir("./")
        .owner(65_535, 65_536)
        .dir("d")
        .file("d/plain", "contents")
        .file("d/empty", "")
        .mtime(u64::from(u32::MAX) + 10)
        .owner(u32::MAX - 1, 7)
        .mode(0o4755)
        .file("d/setuid", "x")
        .mtime(1_600_000_000)
        .mode(0o644)
        .pax("mtime", "1600000000.123456789")
        .file("d/nanoseconds", "x")
        .pax("mtime", "-5.5")
        .file("d/before-1970", "x")
        .file(format!("d/{long}"), "long")
        .file(b"d/\xff\xfe not utf-8", "x")
        .file("d/Case", "upper")
        .file("d/case", "lower")
        .symlink("d/symlink", "../../anywhere")
        .symlink("d/long-symlink", "t/".repeat(1500))
        .device("d/null", b'3', 1, 3)
        .device("d/big", b'4', 4000, 1_000_000)
        .entry("d/fifo", b'6', "", "")
        .xattr("user.name", "value")
        .xattr("trusted.t", [0, 1, 2, 255])
        .xattr(
            "security.capability",
            [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        )
        .file("d/xattrs", "x")
        .xattr("user.on-a-directory", "d")
        .dir("x")
        .link("d/hard", "d/plain")
        .link("x/hard-symlink", "d/symlink")
        .finish();
    let walk = compare_but(
        &[tar],
        &[],
        true,
        Some(&["d/before-1970", "d/hard", "d/plain"]),
    );
    assert_eq!(walk[b"d/before-1970".as_slice()].mtime, (-6, 500_000_000));
    assert_eq!(
        walk[b"d/nanoseconds".as_slice()].mtime,
        (1_600_000_000, 123_456_789)
    );
}

#[test]
fn whiteouts_hide_lower_layers_only() {
    if !kernel_mounts() {
        return;
    }
    let lower = TarBuilder::new()
        .dir("./")
        .dir("d")
        .file("d/gone", "1")
        .file("d/stays", "1")
        .dir("dir-gone")
        .file("dir-gone/f", "1")
        .dir("becomes-file")
        .file("becomes-file/f", "1")
        .file("becomes-dir", "1")
        .finish();
    let upper = TarBuilder::new()
        .dir("./")
        .dir("d")
        .file("d/.wh.gone", "")
        .file("d/.wh.never-was", "")
        .file("d/new", "2")
        .file(".wh.dir-gone", "")
        .file("becomes-file", "2")
        .dir("becomes-dir")
        .file("becomes-dir/g", "2")
        .finish();
    let walk = compare(&[lower, upper], &[], true);
    assert_eq!(text(&walk, "d/gone"), None);
    assert_eq!(text(&walk, "dir-gone"), None);
    assert_eq!(text(&walk, "becomes-dir"), Some(Kind::Directory));
}

#[test]
fn an_opaque_directory_keeps_only_its_own_layers_children() {
    if !kernel_mounts() {
        return;
    }
    let one = TarBuilder::new()
        .dir("./")
        .dir("d")
        .file("d/old", "1")
        .dir("d/sub")
        .file("d/sub/x", "1");
    // The marker's position in the tar does not matter.
    let two = TarBuilder::new()
        .dir("d")
        .file("d/new", "2")
        .file("d/.wh..wh..opq", "");
    let three = TarBuilder::new().dir("./").dir("d").file("d/newer", "3");
    let walk = compare(&[one.finish(), two.finish(), three.finish()], &[], true);
    let names: Vec<_> = walk
        .keys()
        .map(|path| String::from_utf8_lossy(path).into_owned())
        .collect();
    assert_eq!(names, ["", "d", "d/new", "d/newer"]);
}

#[test]
fn a_whiteout_and_a_new_directory_of_one_name_hide_the_old_children() {
    if !kernel_mounts() {
        return;
    }
    let lower = TarBuilder::new()
        .dir("./")
        .dir("d")
        .file("d/old", "1")
        .finish();
    let upper = TarBuilder::new()
        .file(".wh.d", "")
        .dir("d")
        .file("d/new", "2")
        .finish();
    let walk = compare(&[lower, upper], &[], false);
    assert_eq!(text(&walk, "d/old"), None);
    assert!(text(&walk, "d/new").is_some());
}

#[test]
fn a_directory_over_a_directory_takes_the_uppers_attributes_and_keeps_the_children() {
    if !kernel_mounts() {
        return;
    }
    let lower = TarBuilder::new()
        .dir("./")
        .xattr("user.lower", "1")
        .mode(0o700)
        .dir("d")
        .mode(0o644)
        .file("d/f", "1")
        .finish();
    let upper = TarBuilder::new()
        .dir("./")
        .xattr("user.upper", "2")
        .mtime(5)
        .owner(3, 4)
        .mode(0o2775)
        .dir("d")
        .finish();
    let walk = compare_but(&[lower, upper], &[], true, Some(&["d"]));
    let d = &walk[b"d".as_slice()];
    assert_eq!((d.mode, d.uid, d.gid, d.mtime), (0o2775, 3, 4, (5, 0)));
    assert_eq!(d.xattrs.keys().collect::<Vec<_>>(), [b"user.upper"]);
    assert!(text(&walk, "d/f").is_some());
}

#[test]
fn an_implied_parent_keeps_the_lower_directorys_attributes() {
    if !kernel_mounts() {
        return;
    }
    let lower = TarBuilder::new()
        .dir("./")
        .mode(0o1777)
        .mtime(77)
        .dir("tmp")
        .finish();
    let upper = TarBuilder::new().file("tmp/x", "2").finish();
    let walk = compare_but(&[lower, upper], &[], false, Some(&["tmp"]));
    assert_eq!(
        (walk[b"tmp".as_slice()].mode, walk[b"tmp".as_slice()].mtime),
        (0o1777, (77, 0))
    );
}

#[test]
fn a_hard_link_to_a_lower_layers_file_is_one_inode() {
    if !kernel_mounts() {
        return;
    }
    let lower = TarBuilder::new().dir("./").file("a", "shared").finish();
    let upper = TarBuilder::new().link("b", "a").finish();
    let walk = compare(&[lower, upper], &[], false);
    assert_eq!(walk[b"b".as_slice()].first_name.as_deref(), Some(&b"a"[..]));
}

#[test]
fn an_alias_survives_the_whiteout_of_the_first_name() {
    if !kernel_mounts() {
        return;
    }
    let lower = TarBuilder::new()
        .dir("./")
        .file("a", "shared")
        .link("b", "a")
        .link("c", "a")
        .finish();
    let upper = TarBuilder::new().file(".wh.a", "").finish();
    let walk = compare(&[lower, upper], &[], false);
    assert_eq!(walk[b"c".as_slice()].first_name.as_deref(), Some(&b"b"[..]));
}

#[test]
fn overlay_xattrs_of_a_layer_do_not_act_on_the_mount() {
    if !kernel_mounts() {
        return;
    }
    let lower = TarBuilder::new()
        .dir("./")
        .dir("d")
        .file("d/old", "1")
        .finish();
    let upper = TarBuilder::new()
        .xattr("trusted.overlay.opaque", "y")
        .dir("d")
        .file("d/new", "2")
        .finish();
    let layout = Layout::new()
        .layer(&lower, Compression::Gzip)
        .layer(&upper, Compression::Gzip)
        .finish();
    let blockbox = Blockbox::new();
    blockbox.ok(["pull", "-q", &layout.reference()]);
    let merged = kernel_walk(&blockbox, &layout.reference());
    assert!(text(&merged, "d/old").is_some());
    let escaped = b"trusted.overlay.overlay.opaque".as_slice();
    assert_eq!(merged[b"d".as_slice()].xattrs[escaped], b"y");
    assert!(text(&overlay_walk(&blockbox, &layout.reference()), "d/old").is_some());
}

#[test]
fn names_are_normalised_and_long_ones_are_exact() {
    if !kernel_mounts() {
        return;
    }
    let deep = format!("deep/{}", "component/".repeat(60));
    let tar = TarBuilder::new()
        .dir("./")
        .file("./dotted", "1")
        .file("/absolute", "2")
        .dir("d/")
        .file("d//doubled", "3")
        .file("d/./inner", "4")
        .file("d/../outer", "5")
        // GNU's long names, as a separate entry before the one they belong to.
        .raw(
            b"././@LongLink",
            b'L',
            b"",
            format!("d/{}\0", "g".repeat(200)).as_bytes(),
        )
        .file("short", "6")
        .raw(
            b"././@LongLink",
            b'K',
            b"",
            format!("{}\0", "t".repeat(300)).as_bytes(),
        )
        .symlink("d/gnu-link", "short")
        .dir("deep")
        .pax("path", format!("{deep}file"))
        .file("ignored", "7")
        .finish();
    // Umoci keeps the time of its last change in a directory.
    let mut unspecified: Vec<String> = Vec::new();
    let parts: Vec<&str> = deep.trim_end_matches('/').split('/').collect();
    for end in 1..=parts.len() {
        unspecified.push(parts[..end].join("/"));
    }
    let unspecified: Vec<&str> = unspecified.iter().map(String::as_str).collect();
    let walk = compare(&[tar], &unspecified, false);
    for path in ["dotted", "absolute", "d/doubled", "d/inner", "outer"] {
        assert!(text(&walk, path).is_some(), "{path}");
    }
    assert!(text(&walk, &format!("{deep}file")).is_some());
}

#[test]
fn if_a_path_occurs_twice_the_last_entry_counts() {
    if !kernel_mounts() {
        return;
    }
    let tar = TarBuilder::new()
        .dir("./")
        .file("file", "first")
        .file("file", "the last")
        .file("becomes-dir", "1")
        .dir("becomes-dir")
        .file("becomes-dir/in", "2")
        .file("linked", "kept")
        .link("alias", "linked")
        .file("linked", "new")
        .finish();
    let walk = compare_but(&[tar], &[], false, None);
    assert!(matches!(
        text(&walk, "file"),
        Some(Kind::File { size: 8, .. })
    ));
    assert!(matches!(
        text(&walk, "alias"),
        Some(Kind::File { size: 4, .. })
    ));
    assert_eq!(walk[b"alias".as_slice()].first_name, None);
}

#[test]
fn hard_links_share_inodes_of_every_type() {
    if !kernel_mounts() {
        return;
    }
    let tar = TarBuilder::new()
        .dir("./")
        .symlink("symlink", "nowhere")
        .device("device", b'3', 1, 3)
        .entry("fifo", b'6', "", "")
        .dir("d")
        .link("d/symlink", "symlink")
        .link("d/device", "device")
        .link("d/fifo", "fifo")
        .link("d/again", "d/fifo")
        .finish();
    let walk = compare(&[tar], &[], true);
    assert_eq!(
        walk[b"fifo".as_slice()].first_name.as_deref(),
        Some(&b"d/again"[..])
    );
}

/// Overlayfs gives files of different layers the same number if their layers do, on different
/// devices.
#[test]
fn hard_links_of_two_layers_alike_are_two_files() {
    if !kernel_mounts() {
        return;
    }
    let layers: Vec<_> = ["one", "two"]
        .iter()
        .map(|folder| {
            TarBuilder::new()
                .dir("./")
                .dir(folder)
                .file(format!("{folder}/f"), "contents")
                .link(format!("{folder}/g"), format!("{folder}/f"))
                .finish()
        })
        .collect();
    let walk = compare(&layers, &[], true);
    for name in ["one/f", "two/f"] {
        let first = walk[name.as_bytes()].first_name.as_deref();
        assert_eq!(first, Some(name.as_bytes()));
    }
}

#[test]
fn an_opaque_root_hides_everything_below() {
    if !kernel_mounts() {
        return;
    }
    let lower = TarBuilder::new()
        .dir("./")
        .file("old", "1")
        .dir("d")
        .file("d/old", "1")
        .finish();
    let upper = TarBuilder::new()
        .dir("./")
        .file("new", "2")
        .file(".wh..wh..opq", "")
        .finish();
    let walk = compare(&[lower, upper], &[], false);
    let names: Vec<_> = walk
        .keys()
        .map(|path| String::from_utf8_lossy(path).into_owned())
        .collect();
    assert_eq!(names, ["", "new"]);
}

#[test]
fn whiteouts_come_first_wherever_they_are_and_leave_no_trace() {
    if !kernel_mounts() {
        return;
    }
    let lower = TarBuilder::new()
        .dir("./")
        .file("replaced", "1")
        .dir("d")
        .file("d/x", "1")
        .dir("d/sub")
        .file("d/sub/y", "1")
        .finish();
    let upper = TarBuilder::new()
        .dir("./")
        .file("replaced", "2")
        .file(".wh.replaced", "")
        .dir("new")
        .file("new/.wh.nothing", "")
        .file("new/there", "2")
        .file(".wh..wh.plnk", "bookkeeping")
        .dir("d")
        .file("d/.wh.sub", "")
        .finish();
    let third = TarBuilder::new()
        .dir("./")
        .dir("d")
        .dir("d/sub")
        .file("d/sub/z", "3")
        .finish();
    let walk = compare_but(&[lower, upper, third], &[], false, Some(&["replaced"]));
    assert!(matches!(
        text(&walk, "replaced"),
        Some(Kind::File { size: 1, .. })
    ));
    assert_eq!(text(&walk, "d/sub/y"), None);
    assert!(text(&walk, "d/sub/z").is_some());
    assert_eq!(
        walk.keys()
            .filter(|path| path.windows(4).any(|w| w == b".wh."))
            .count(),
        0
    );
}

#[test]
fn a_path_through_a_lower_symlink_ends_where_the_link_points() {
    if !kernel_mounts() {
        return;
    }
    let lower = TarBuilder::new()
        .dir("./")
        .dir("usr")
        .dir("usr/lib")
        .file("usr/lib/old", "1")
        .symlink("lib", "usr/lib")
        .finish();
    let upper = TarBuilder::new().file("lib/new", "2").finish();
    let walk = compare_but(&[lower, upper], &[], false, Some(&["usr/lib"]));
    assert_eq!(text(&walk, "lib"), Some(Kind::Symlink(b"usr/lib".to_vec())));
    assert!(text(&walk, "usr/lib/new").is_some() && text(&walk, "usr/lib/old").is_some());
}
