//! A catalogue of malicious images: one for each thing that can be wrong, and the typed error it
//! gives.
//!
//! The superblock's checksum is repaired after each change, unless it is the point.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../common/mod.rs"]
mod common;
mod directories;
mod inodes;
mod superblock;
mod xattrs;

use common::hostile::exercise;
use common::lab::{Lab, SUPER};
use erofs_reader::{Error, Image, Problem};

/// Damages an image with `patch`, and gives the error of opening it.
fn open(patch: impl Fn(&mut Lab)) -> Error {
    let mut lab = Lab::new();
    patch(&mut lab);
    lab.repair();
    Image::open(&lab.0[..]).unwrap_err()
}

/// Damages an image with `patch`, and gives what the check finds.
fn problems(patch: impl Fn(&mut Lab)) -> Vec<Problem> {
    let mut lab = Lab::new();
    patch(&mut lab);
    lab.repair();
    let image = Image::open(&lab.0[..]).unwrap();
    exercise(&image);
    let report = image.check();
    report.findings.into_iter().map(|f| f.problem).collect()
}

#[test]
fn changing_any_byte_of_metadata_never_panics_or_hangs() {
    let base = Lab::new();
    for at in SUPER..base.0.len() {
        for value in [0x00, 0x01, 0x7f, 0x80, 0xff] {
            let mut lab = base.clone();
            if lab.0[at] == value {
                continue;
            }
            lab.0[at] = value;
            lab.repair();
            if let Ok(image) = Image::open(&lab.0[..]) {
                let _ = image.check();
                for step in image.walk().flatten() {
                    let _ = image.xattrs(&step.1);
                    let _ = image.extents(&step.1);
                }
            }
        }
    }
}

proptest::proptest! {
    #![proptest_config(proptest::test_runner::Config::with_cases(128))]

    #[test]
    fn arbitrary_numbers_at_arbitrary_offsets_never_panic_or_hang(
        changes in proptest::collection::vec((SUPER..4608_usize, proptest::prelude::any::<u32>()), 1..12)
    ) {
        let mut lab = Lab::new();
        let end = lab.0.len() - 4;
        for (at, number) in changes {
            // Fields are aligned, and half of all numbers small.
            let number = if number & 1 == 0 { number } else { number >> 20 };
            lab.put((at & !3).min(end), &number.to_le_bytes());
        }
        lab.repair();
        if let Ok(image) = Image::open(&lab.0[..]) {
            let _ = image.check();
            exercise(&image);
        }
    }
}
