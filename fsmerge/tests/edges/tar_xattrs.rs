//! EDGES "Tar framing": extended attributes, ACLs among them.

use crate::support::{Store, layer_lines, only, problem};
use fsmerge::{Problem, WarningKind};
use testkit::TarBuilder as Tar;

#[test]
fn xattrs_of_both_spellings_are_decoded_and_unknown_namespaces_dropped() {
    let tar = Tar::new()
        .xattr("user.raw", b"a\0b\n=")
        .xattr("security.capability", b"\x01\x00\x00\x02")
        .xattr("system.posix_acl_access", b"\x02\x00\x00\x00")
        .xattr("trusted.t", "t")
        .pax("LIBARCHIVE.xattr.user.b%3d64%25", "YQBiCg")
        .pax("LIBARCHIVE.xattr.user.raw", "eHh4")
        .xattr("com.apple.quarantine", "x")
        .xattr("system.nfs4_acl", "x")
        .xattr("user.", "x")
        .file("f", "")
        .finish();
    let (_, stats) = Store::default().read(&tar).unwrap();
    let pair = |name: &[u8], value: &[u8]| (name.to_vec(), value.to_vec());
    assert_eq!(
        &only(&tar).xattrs[..],
        [
            pair(b"security.capability", b"\x01\x00\x00\x02"),
            pair(b"system.posix_acl_access", b"\x02\x00\x00\x00"),
            pair(b"trusted.t", b"t"),
            pair(b"user.b=64%", b"a\0b\n"),
            pair(b"user.raw", b"a\0b\n="),
        ]
    );
    assert_eq!(stats.warning_count, 3);
    let dropped = WarningKind::UnknownXattr {
        name: b"com.apple.quarantine".to_vec(),
    };
    assert_eq!(stats.warnings[0].kind, dropped);
    assert_eq!(stats.warnings[0].path, b"f");
    for (key, value) in [
        ("LIBARCHIVE.xattr.user.a", "Y"),
        ("LIBARCHIVE.xattr.user.%4", "YQ"),
    ] {
        let problem = problem(&Tar::new().pax(key, value).file("f", "").finish());
        assert!(matches!(problem, Problem::PaxValue { .. }));
    }
}

#[test]
fn malformed_acls_are_dropped_with_a_warning() {
    let tar = Tar::new()
        .xattr("system.posix_acl_access", "nonsense")
        .xattr(
            "system.posix_acl_default",
            b"\x02\x00\x00\x00\x03\x00\x06\x00\x00\x00\x00\x00",
        )
        .xattr("user.kept", "x")
        .file("d/\n", "")
        .finish();
    let (layer, stats) = Store::default().read(&tar).unwrap();
    let xattrs = &layer.metadata(layer.lookup(b"d/\n").unwrap()).xattrs;
    assert_eq!(xattrs[..], [(b"user.kept".to_vec(), b"x".to_vec())]);
    let told: Vec<_> = stats.warnings.iter().map(ToString::to_string).collect();
    assert_eq!(
        told,
        [
            r"d/\n: dropped the malformed ACL system.posix_acl_access",
            r"d/\n: dropped the malformed ACL system.posix_acl_default",
        ]
    );
}

#[test]
fn overlayfs_xattrs_of_a_layer_are_escaped() {
    let tar = Tar::new()
        .xattr("trusted.overlay.opaque", "y")
        .xattr("trusted.overlay.overlay.opaque", "y")
        .xattr("trusted.overlayish", "z")
        .dir("d/")
        .finish();
    assert_eq!(layer_lines(&tar), ["d/"]);
    let names: Vec<_> = only(&tar)
        .xattrs
        .iter()
        .map(|(name, _)| name.clone())
        .collect();
    assert_eq!(
        names,
        [
            &b"trusted.overlay.overlay.opaque"[..],
            b"trusted.overlay.overlay.overlay.opaque",
            b"trusted.overlayish"
        ]
    );
}

#[test]
fn xattr_names_and_values_are_bounded() {
    let tar = Tar::new()
        .xattr(&format!("user.{}", "n".repeat(250)), vec![1; 65_535])
        .file("f", "");
    assert_eq!(only(&tar.finish()).xattrs[0].1.len(), 65_535);
    let tar = Tar::new()
        .xattr(&format!("user.{}", "n".repeat(251)), "")
        .file("f", "")
        .finish();
    assert_eq!(problem(&tar), Problem::NameTooLong { bytes: 256 });
    let tar = Tar::new()
        .xattr("user.a", vec![1; 65_536])
        .file("f", "")
        .finish();
    assert!(matches!(
        problem(&tar),
        Problem::Limit {
            name: "xattr_value_bytes",
            ..
        }
    ));
}
