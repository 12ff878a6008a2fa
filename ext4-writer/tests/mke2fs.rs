//! The defaults are mke2fs's, but for what is named here.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use common::Image;
use ext4_writer::Options;

/// What mke2fs 1.47 makes by default as it is published; distributions leave them out.
const PUBLISHED: [&str; 2] = ["metadata_csum_seed", "orphan_file"];

/// What differs: identifiers and what follows from them, and times.
const DIFFERENT: [&str; 9] = [
    "Checksum",
    "Checksum seed",
    "Directory Hash Seed",
    "Filesystem UUID",
    "Filesystem created",
    "Last checked",
    "Last write time",
    "Lifetime writes",
    // Ours has the checksums with which the kernel begins at the first mount of mke2fs's.
    "Journal features",
];

/// What dumpe2fs says of the whole filesystem.
fn describe(path: &Path) -> BTreeMap<String, String> {
    let mut dumpe2fs = testkit::oracle("dumpe2fs").unwrap();
    let output = dumpe2fs.arg("-h").arg(path).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let pairs = text.lines().filter_map(|line| line.split_once(':'));
    pairs
        .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
        .collect()
}

fn features(described: &BTreeMap<String, String>) -> BTreeSet<String> {
    let features = described["Filesystem features"].split_whitespace();
    features.map(str::to_owned).collect()
}

/// An image that mke2fs makes, described.
fn mke2fs(size: u64, features: &[&str]) -> Option<BTreeMap<String, String>> {
    let mut mke2fs = testkit::oracle("mke2fs")?;
    testkit::oracle("dumpe2fs")?;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("image");
    mke2fs.args(["-F", "-q", "-t", "ext4"]);
    if !features.is_empty() {
        mke2fs.arg("-O").arg(features.join(","));
    }
    let output = mke2fs
        .arg(&path)
        .arg(format!("{}K", size >> 10))
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    Some(describe(&path))
}

/// mke2fs takes smaller blocks below 512 MiB.
const SIZES: [u64; 4] = [600 << 20, 4 << 30, (20 << 30) + (60 << 20), 200 << 30];

#[test]
fn features_are_those_of_mke2fs_as_it_is_installed_and_those_that_it_has_as_published() {
    for size in SIZES {
        let Some(theirs) = mke2fs(size, &[]) else {
            return;
        };
        let ours = describe(&Image::new(Options::new(size), |_| ()).path);
        let (ours, theirs) = (features(&ours), features(&theirs));
        assert_eq!(theirs.difference(&ours).count(), 0, "{theirs:?}");
        assert!(
            ours.difference(&theirs)
                .all(|name| PUBLISHED.contains(&&name[..])),
            "{ours:?}"
        );
    }
}

#[test]
fn the_superblock_equals_mke2fs_but_for_named_fields() {
    for size in SIZES {
        let Some(mut theirs) = mke2fs(size, &PUBLISHED) else {
            return;
        };
        // The defaults of these two are others.
        let options = Options::new(size)
            .reserved_percent(5)
            .reserved_gdt_blocks(theirs["Reserved GDT blocks"].parse().ok());
        let mut ours = describe(&Image::new(options, |_| ()).path);
        for name in DIFFERENT {
            ours.remove(name);
            theirs.remove(name);
        }
        if size >= 64 << 30 {
            assert_eq!(ours["Flex block group size"], "1024");
            ours.remove("Flex block group size");
            theirs.remove("Flex block group size");
        }
        ours.retain(|name, _| !name.starts_with("Journal checksum"));
        // The orphan file has 4 blocks, not as many as the size asks for, and lost+found has one,
        // not four.
        let free = |all: &mut BTreeMap<String, String>| -> u64 {
            all.remove("Free blocks").unwrap().parse().unwrap()
        };
        let more = free(&mut ours) - free(&mut theirs);
        assert!((3..=3 + 512).contains(&more), "{more}");
        assert_eq!(ours, theirs);
    }
}
