//! EDGES "Tar framing": names of entries and targets of links.

use crate::support::{layer, layer_lines, only, problem};
use fsmerge::{Kind, Problem};
use tar::Header;
use testkit::TarBuilder as Tar;

#[test]
fn empty_dot_and_slash_names_carry_the_roots_attributes() {
    for name in ["", ".", "/", "./", "//", "./.", "a/.."] {
        let layer = layer(&Tar::new().mode(0o711).owner(5, 6).dir(name).finish());
        let root = layer.metadata(layer.root());
        assert_eq!((root.mode, root.uid, root.gid), (0o711, 5, 6), "{name:?}");
        let described = Kind::Directory {
            opaque: false,
            implied: false,
        };
        assert_eq!(layer.kind(layer.root()), described);
        let tar = Tar::new().file(name, "x").finish();
        if !name.ends_with('/') {
            assert_eq!(problem(&tar), Problem::RootNotDirectory, "{name:?}");
        }
    }
}

#[test]
fn names_are_normalised_inside_the_root() {
    for name in [
        "./d/f",
        "d//f",
        "/d/f",
        "d/./f",
        "d/../d/f",
        "x/../d/f",
        "//d/x/..//f",
    ] {
        let tar = Tar::new().file(name, "1").finish();
        assert_eq!(layer_lines(&tar), ["d/ implied", "d/f = 1"], "{name}");
    }
    assert_eq!(layer_lines(&Tar::new().dir("d///").finish()), ["d/"]);
}

#[test]
fn names_that_climb_above_the_root_are_refused() {
    for name in ["..", "../f", "/../f", "d/../../f", "./..", "../.wh.f"] {
        assert_eq!(
            problem(&Tar::new().file(name, "").finish()),
            Problem::Escape,
            "{name}"
        );
    }
    let tar = Tar::new().link("l", "../etc/shadow").finish();
    assert_eq!(problem(&tar), Problem::Escape);
    // A symlink's target is only text.
    let tar = Tar::new().symlink("s", "../../etc/shadow").finish();
    assert_eq!(layer_lines(&tar), ["s -> ../../etc/shadow"]);
}

#[test]
fn pax_and_gnu_names_longer_than_100_bytes_are_exact() {
    let long = format!("{}/{}", "d".repeat(255), "f".repeat(255));
    let target = "t".repeat(4095);
    let expected = [
        format!("{}/ implied", "d".repeat(255)),
        format!("{long} -> {target}"),
    ];
    let pax = Tar::new().symlink(&long, &target).finish();
    assert_eq!(layer_lines(&pax), expected);
    let gnu = Tar::new()
        .raw(
            b"././@LongLink",
            b'K',
            b"",
            format!("{target}\0").as_bytes(),
        )
        .raw(b"././@LongLink", b'L', b"", format!("{long}\0").as_bytes())
        .raw(b"cut", b'2', b"cut", b"")
        .finish();
    assert_eq!(layer_lines(&gnu), expected);
    // ustar's prefix.
    let mut ustar = Header::new_ustar();
    ustar
        .set_path(format!("{}/{}", "p".repeat(150), "n".repeat(90)))
        .unwrap();
    ustar.set_mode(0o644);
    ustar.set_size(0);
    let tar = Tar::new().header(*ustar.as_bytes()).finish();
    assert_eq!(
        layer_lines(&tar)[1],
        format!("{}/{} = ", "p".repeat(150), "n".repeat(90))
    );
}

#[test]
fn paths_of_4096_bytes_are_exact() {
    let path = "a/".repeat(2048) + "f";
    let layer = layer(&Tar::new().file(&path, "1").finish());
    assert_eq!(layer.walk().last().unwrap().0, path.as_bytes());
}

#[test]
fn pax_header_before_a_gnu_long_name_belongs_to_the_file() {
    let long = "n".repeat(200);
    let tar = Tar::new()
        .raw(b"PaxHeaders/x", b'x', b"", b"12 uid=1234\n")
        .raw(b"././@LongLink", b'L', b"", format!("{long}\0").as_bytes())
        .raw(b"cut", b'0', b"", b"1")
        .finish();
    assert_eq!(layer_lines(&tar), [format!("{long} = 1")]);
    assert_eq!(only(&tar).uid, 1234);
}

#[test]
fn names_and_targets_that_are_not_utf_8_are_kept_as_bytes() {
    let tar = Tar::new()
        .file(b"\xff\xfe\x80", "1")
        .symlink(b"\xc3\x28", b"\xa0\xa1\n")
        .pax("path", b"\xe2\x28\xa1")
        .file("x", "2")
        .file("a", "")
        .file("A", "")
        .finish();
    let layer = layer(&tar);
    assert!(layer.lookup(b"\xff\xfe\x80").is_some());
    assert_eq!(
        layer.kind(layer.lookup(b"\xc3\x28").unwrap()),
        Kind::Symlink(b"\xa0\xa1\n")
    );
    assert!(layer.lookup(b"\xe2\x28\xa1").is_some());
    assert_ne!(layer.lookup(b"a"), layer.lookup(b"A"));
}

#[test]
fn nul_or_a_component_over_255_bytes_is_refused() {
    let path = "x".repeat(255);
    layer(&Tar::new().file(&path, "").finish());
    for path in ["x".repeat(256), format!("{}/f", "x".repeat(256))] {
        assert_eq!(
            problem(&Tar::new().file(&path, "").finish()),
            Problem::NameTooLong { bytes: 256 }
        );
    }
    let tar = Tar::new().pax("path", b"a\0b").file("f", "").finish();
    assert!(matches!(problem(&tar), Problem::Pax { .. }));
    let tar = Tar::new()
        .pax("linkpath", b"a\0b")
        .symlink("f", "x")
        .finish();
    assert!(matches!(problem(&tar), Problem::Pax { .. }));
    let tar = Tar::new()
        .pax("GNU.sparse.name", b"a\0b")
        .file("f", "")
        .finish();
    assert_eq!(problem(&tar), Problem::Nul);
}

#[test]
fn symlink_targets_go_up_to_4095_bytes() {
    let target = "t/".repeat(2047) + "t";
    assert_eq!(target.len(), 4095);
    assert_eq!(
        layer_lines(&Tar::new().symlink("s", &target).finish()),
        [format!("s -> {target}")]
    );
    let tar = Tar::new().symlink("s", target + "t").finish();
    assert_eq!(
        problem(&tar),
        Problem::Limit {
            name: "symlink_bytes",
            limit: 4095
        }
    );
    assert_eq!(
        problem(&Tar::new().symlink("s", "").finish()),
        Problem::EmptyTarget
    );
}
