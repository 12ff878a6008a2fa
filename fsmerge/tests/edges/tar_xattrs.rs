//! EDGES "Tar framing": extended attributes, ACLs among them.

use crate::support::{Store, layer_lines, only, problem};
use fsmerge::{Problem, WarningKind};
use testkit::TarBuilder as Tar;

#[test]
fn xattrs_of_both_spellings_are_decoded_and_unknown_namespaces_dropped() {
    let tar = Tar::new()
        .xattr("user.raw", b"a\0b\n=")
        .xattr("security.capability", b"\x01\x00\x00\x02")
        .xattr(
            "system.posix_acl_access",
            acl(&[(1, 6), (2, 4), (4, 4), (16, 4), (32, 4)]),
        )
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
            pair(
                b"system.posix_acl_access",
                &acl(&[(1, 6), (2, 4), (4, 4), (16, 4), (32, 4)])
            ),
            pair(b"trusted.t", b"t"),
            pair(b"user.b=64%", b"a\0b\n"),
            pair(b"user.raw", b"a\0b\n="),
        ]
    );
    assert_eq!(stats.warning_count, 3);
    let dropped = WarningKind::UnknownXattr {
        name: "com.apple.quarantine".into(),
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
            r"d/\x0a: dropped the malformed ACL system.posix_acl_access",
            r"d/\x0a: dropped the malformed ACL system.posix_acl_default",
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

/// An ACL as `getxattr` returns it, of tags and permission bits. Named users and groups have the
/// ID 7.
fn acl(entries: &[(u16, u16)]) -> Vec<u8> {
    let entry = |&(tag, bits): &(u16, u16)| {
        let id = if matches!(tag, 2 | 8) { 7 } else { u32::MAX };
        let (tag, bits, id) = (tag.to_le_bytes(), bits.to_le_bytes(), id.to_le_bytes());
        [&tag[..], &bits, &id].concat()
    };
    [vec![2, 0, 0, 0], entries.iter().flat_map(entry).collect()].concat()
}

#[cfg(unix)]
#[test]
fn acl_equals_the_result_of_chown_xattrs_and_chmod() {
    use rustix::fs::XattrFlags;
    use std::os::unix::fs::PermissionsExt;
    const ACCESS: &str = "system.posix_acl_access";
    const DEFAULT: &str = "system.posix_acl_default";
    let dir = tempfile::tempdir().unwrap();
    let acls: [&[(u16, u16)]; 6] = [
        // setfacl -m u:7:rw, and a mode that grants the group less.
        &[(1, 6), (2, 6), (4, 4), (16, 6), (32, 0)],
        &[(1, 7), (2, 7), (4, 0), (8, 5), (16, 7), (32, 7)],
        &[(1, 6), (4, 4), (16, 7), (32, 4)],
        &[(1, 6), (4, 4), (32, 4)],
        &[(1, 0), (2, 0), (4, 0), (16, 0), (32, 0)],
        &[],
    ];
    for entries in acls {
        for mode in [0o644, 0o750, 0o2711, 0o4707, 0o0, 0o1777] {
            for (name, directory) in [(ACCESS, false), (ACCESS, true), (DEFAULT, true)] {
                let path = dir.path().join("d");
                match directory {
                    true => std::fs::create_dir(&path).unwrap(),
                    false => std::fs::write(&path, "").unwrap(),
                }
                rustix::fs::chown(&path, None, None).unwrap();
                let value = acl(entries);
                match rustix::fs::lsetxattr(&path, name, &value, XattrFlags::empty()) {
                    Err(rustix::io::Errno::OPNOTSUPP) => {
                        testkit::skip("the filesystem of temporary files has no ACLs");
                        return;
                    }
                    set => set.unwrap(),
                }
                let permissions = std::fs::Permissions::from_mode(mode);
                std::fs::set_permissions(&path, permissions).unwrap();
                let mut buffer = vec![0; 1024];
                let expected = rustix::fs::lgetxattr(&path, name, &mut buffer[..])
                    .ok()
                    .map(|len| &buffer[..len]);
                let tar = Tar::new().mode(mode).xattr(name, &value);
                let tar = match directory {
                    true => tar.entry("d", b'5', b"", b"").finish(),
                    false => tar.file("d", "").finish(),
                };
                let found = only(&tar);
                assert_eq!(u32::from(found.mode), mode);
                assert_eq!(
                    found.xattrs.get(name.as_bytes()),
                    expected,
                    "{entries:?} {mode:o} {name} {directory}"
                );
                match directory {
                    true => std::fs::remove_dir(&path).unwrap(),
                    false => std::fs::remove_file(&path).unwrap(),
                }
            }
        }
    }
}
