//! Damaged archives: whatever the bytes, a tree or an error.

use crate::support::{Store, try_merge};
use fsmerge::Error;
use proptest::collection::vec;
use proptest::prelude::*;
use testkit::TarBuilder as Tar;

/// One of everything.
fn archive() -> Vec<u8> {
    Tar::new()
        .pax_global("comment", "x")
        .dir("./")
        .xattr("user.a", "1")
        .pax("mtime", "1.5")
        .dir("d/")
        .file("d/f", vec![b'x'; 700])
        .link("d/l", "d/f")
        .link("early", "late")
        .file("late", "1")
        .symlink("s", "d")
        .file("s/through", "2")
        .device("c", b'3', 1, 3)
        .file("d/.wh.gone", "")
        .file("e/.wh..wh..opq", "")
        .pax("GNU.sparse.size", "20")
        .pax("GNU.sparse.map", "2,3,10,3")
        .file("sparse", "abcdef")
        .raw(b"././@LongLink", b'L', b"", b"a/long/name\0")
        .raw(b"cut", b'0', b"", b"3")
        .link("below", "nothing")
        .finish()
}

/// Corrects the checksums of what may be headers, so that damage reaches further than the first
/// check.
fn repair(tar: &mut [u8], intact: &[u8]) {
    for (block, intact) in tar.chunks_mut(512).zip(intact.chunks(512)) {
        if block.len() == 512 && intact[257..].starts_with(b"ustar") {
            block[148..156].fill(b' ');
            let sum: u32 = block.iter().map(|&byte| u32::from(byte)).sum();
            block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn damaged_archives_give_a_tree_or_an_error(
        damage in vec((any::<prop::sample::Index>(), any::<u8>()), 0..8),
        cut in any::<prop::sample::Index>(),
        whole in prop::bool::weighted(0.8),
    ) {
        let intact = archive();
        let mut tar = intact.clone();
        for (at, byte) in damage {
            // Nine of ten hits go where fields are.
            let at = at.index(tar.len());
            let at = if byte % 10 == 0 { at } else { at / 512 * 512 + at % 160 };
            tar[at] = byte;
        }
        repair(&mut tar, &intact);
        if !whole {
            tar.truncate(cut.index(intact.len()));
        }
        if let Ok((layer, stats)) = Store::default().read(&tar) {
            prop_assert!(layer.walk().count() <= stats.entries as usize * 8 + 1);
            match try_merge([&layer, &layer]) {
                Ok(merged) => prop_assert!(merged.walk().count() <= layer.walk().count()),
                Err(e) => prop_assert!(matches!(e, Error::Merge { .. }), "{}", e),
            }
        }
    }
}

#[test]
fn messages_name_the_problem_and_the_place() {
    let message = |tar: Vec<u8>| Store::default().read(&tar).unwrap_err().to_string();
    insta::assert_snapshot!(
        message(Tar::new().file("d/../../\u{e9}", "").finish()),
        @r"d/../../é (archive byte 0): the path climbs above the root"
    );
    insta::assert_snapshot!(
        message(Tar::new().file("ok", "1").file("d/.wh.", "").finish()),
        @"d/.wh. (archive byte 1024): a whiteout of nothing"
    );
    insta::assert_snapshot!(
        message(Tar::new().file("f", "1").unfinished()[..512].to_vec()),
        @"the archive is cut off at byte 512"
    );
    insta::assert_snapshot!(
        message(Tar::new().dir("d").link("l", "d").finish()),
        @"l (archive byte 512): hard link to the directory d"
    );
    let layer = crate::support::layer(&Tar::new().link("a/l", "b").finish());
    insta::assert_snapshot!(
        try_merge([&layer]).unwrap_err().to_string(),
        @"layer 0: a/l: hard link to b, which does not exist"
    );
}
