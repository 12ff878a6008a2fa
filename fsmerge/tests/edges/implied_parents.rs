//! EDGES "Hardlinks and replacement": directories that entries imply, and symbolic links on the way
//! to them.

use crate::support::{layer_lines, merged, merged_lines, problem};
use fsmerge::Problem;
use testkit::TarBuilder as Tar;

#[test]
fn implied_parents_keep_the_lower_directorys_attributes() {
    let lower = Tar::new()
        .mode(0o1777)
        .owner(1, 2)
        .mtime(77)
        .xattr("user.a", "1")
        .dir("tmp/")
        .finish();
    let upper = Tar::new().file("tmp/x", "1").finish();
    assert_eq!(layer_lines(&upper), ["tmp/ implied", "tmp/x = 1"]);
    let tars = [lower, upper];
    let (merged, _) = merged(&tars);
    let tmp = merged.lookup(b"tmp").unwrap();
    let attributes = merged.metadata(tmp);
    assert_eq!(attributes.mode, 0o1777);
    assert_eq!(
        (attributes.uid, attributes.gid, attributes.mtime.secs),
        (1, 2, 77)
    );
    assert_eq!(attributes.xattrs.get(b"user.a"), Some(&b"1"[..]));
    assert_eq!(merged.layer(tmp), Some(0));
    // With no directory below, it is root's, 0755, at the epoch.
    let (merged, _) = self::merged(&tars[1..]);
    let tmp = merged.lookup(b"tmp").unwrap();
    assert_eq!(
        merged.metadata(tmp),
        &fsmerge::Metadata::implied_directory()
    );
    assert_eq!(merged.layer(tmp), None);
}

#[test]
fn implied_parents_follow_lower_symlinks_inside_the_root() {
    for link in [
        "usr/lib",
        "/usr/lib",
        "../../usr/lib",
        "usr/../usr/./lib",
        "way",
        "/way/.",
    ] {
        let lower = Tar::new()
            .dir("usr/")
            .dir("usr/lib/")
            .file("usr/lib/old", "1")
            .symlink("lib", link)
            .symlink("way", "usr/lib")
            .finish();
        let upper = Tar::new()
            .file("lib/new", "2")
            .file("lib/old", "3")
            .dir("lib/sub/")
            .file("lib/sub/x", "4")
            .finish();
        let lines = merged_lines(&[lower, upper]);
        assert_eq!(
            lines,
            [
                &format!("lib -> {link}")[..],
                "usr/",
                "usr/lib/",
                "usr/lib/new = 2",
                "usr/lib/old = 3",
                "usr/lib/sub/",
                "usr/lib/sub/x = 4",
                "way -> usr/lib",
            ],
            "{link}"
        );
    }
}

#[test]
fn explicit_directory_replaces_a_lower_symlink() {
    let lower = Tar::new()
        .dir("usr/")
        .file("usr/old", "1")
        .symlink("lib", "usr")
        .finish();
    let upper = Tar::new().dir("lib/").file("lib/new", "2").finish();
    assert_eq!(
        merged_lines(&[lower, upper]),
        ["lib/", "lib/new = 2", "usr/", "usr/old = 1"]
    );
}

#[test]
fn symlinks_of_the_same_layer_are_followed_inside_the_root() {
    let tar = Tar::new()
        .symlink("lib", "/usr/lib")
        .symlink("usr/lib", "../../../opt")
        .file("lib/x", "1")
        .link("y", "lib/x")
        .finish();
    assert_eq!(
        layer_lines(&tar),
        [
            "lib -> /usr/lib",
            "opt/ implied",
            "opt/x = 1 (2 links)",
            "usr/ implied",
            "usr/lib -> ../../../opt",
            "y = 1 (2 links)",
        ]
    );
    let tar = Tar::new()
        .symlink("a", "b")
        .symlink("b", "a")
        .file("a/x", "1")
        .finish();
    assert_eq!(problem(&tar), Problem::SymlinkLoop);
}

#[test]
fn followed_symlinks_lead_to_the_layers_own_entries() {
    let lower = || {
        Tar::new()
            .dir("usr/")
            .dir("usr/lib/")
            .file("usr/lib/a", "old")
            .dir("usr/lib/d/")
            .file("usr/lib/d/old", "old")
            .symlink("lib", "usr/lib")
            .finish()
    };
    // The real path wins over the one through the symlink; directories are combined.
    let upper = Tar::new()
        .file("lib/a", "through")
        .file("lib/d/x", "through")
        .file("usr/lib/a", "real")
        .file("usr/lib/d/y", "real")
        .finish();
    assert_eq!(
        merged_lines(&[lower(), upper]),
        [
            "lib -> usr/lib",
            "usr/",
            "usr/lib/",
            "usr/lib/a = real",
            "usr/lib/d/",
            "usr/lib/d/old = old",
            "usr/lib/d/x = through",
            "usr/lib/d/y = real",
        ]
    );
    // A whiteout through the symlink acts on lower layers only.
    let upper = Tar::new()
        .file("lib/.wh.d", "")
        .file("usr/lib/d/y", "real")
        .finish();
    assert_eq!(
        merged_lines(&[lower(), upper]),
        [
            "lib -> usr/lib",
            "usr/",
            "usr/lib/",
            "usr/lib/a = old",
            "usr/lib/d/",
            "usr/lib/d/y = real"
        ]
    );
    // Where the layer takes the target away, the directory replaces the symlink.
    let upper = Tar::new().file(".wh.usr", "").file("lib/x", "new").finish();
    assert_eq!(
        merged_lines(&[lower(), upper]),
        ["lib/ implied", "lib/x = new"]
    );
    // A link by one path to a file that came by the other.
    let upper = Tar::new()
        .file("lib/n", "new")
        .link("m", "usr/lib/n")
        .finish();
    let lines = merged_lines(&[lower(), upper]);
    assert!(lines.contains(&"m = new (2 links)".to_owned()), "{lines:?}");
    let upper = Tar::new()
        .file("usr/lib/n", "new")
        .link("m", "lib/n")
        .finish();
    let lines = merged_lines(&[lower(), upper]);
    assert!(lines.contains(&"m = new (2 links)".to_owned()), "{lines:?}");
}

#[test]
fn symlinks_below_followed_symlinks_are_followed() {
    let lower = Tar::new()
        .dir("usr/")
        .dir("usr/lib/")
        .dir("opt/")
        .symlink("lib", "usr/lib")
        .symlink("usr/lib/x", "/opt")
        .finish();
    let upper = Tar::new().file("lib/x/f", "1").finish();
    assert_eq!(
        merged_lines(&[lower, upper]),
        [
            "lib -> usr/lib",
            "opt/",
            "opt/f = 1",
            "usr/",
            "usr/lib/",
            "usr/lib/x -> /opt"
        ]
    );
}

#[test]
fn implied_parent_replaces_a_lower_symlink_to_no_directory() {
    for link in ["missing", "f", "s", "s/x"] {
        let lower = Tar::new().file("f", "1").symlink("s", link).finish();
        let upper = Tar::new().file("s/x", "2").finish();
        assert_eq!(
            merged_lines(&[lower, upper]),
            ["f = 1", "s/ implied", "s/x = 2"],
            "{link}"
        );
    }
}
