//! Compressed images of `mkfs.erofs`, as the kernel's own mount shows them and as this crate reads them.

#![cfg(all(
    feature = "deflate",
    feature = "lz4",
    feature = "lzma",
    feature = "zstd"
))]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::oracle::Sources;

fn check(options: &[&[&str]]) {
    let Some(sources) = Sources::new() else {
        return;
    };
    for options in options {
        sources.check(options);
    }
}

#[test]
fn every_algorithm_reads_as_the_kernel_does() {
    check(&[
        &["-zlz4"],
        &["-zlz4hc,level=12"],
        &["-zlzma"],
        &["-zdeflate,level=9"],
        &["-zlibdeflate"],
        &["-zzstd"],
    ]);
}

#[test]
fn every_kind_of_index_reads_as_the_kernel_does() {
    check(&[
        &["-zlz4", "-Elegacy-compress"],
        &["-zlz4", "-Elegacy-compress", "-C65536"],
        &["-zlz4", "-C65536"],
        &["-zlz4", "-C16384", "-b1024"],
        &["-zzstd", "-C1048576"],
        &["-zlz4", "-b512"],
        &["-zlz4hc:lzma", "-C32768"],
        &["-zlz4", "--max-extent-bytes=65536"],
    ]);
}

#[test]
fn tails_inline_and_in_fragments_read_as_the_kernel_does() {
    check(&[
        &["-zlz4", "-Eztailpacking"],
        &["-zlzma", "-Eztailpacking,legacy-compress"],
        &["-zlz4", "-Efragments"],
        &["-zlz4", "-Eall-fragments"],
        &["-zzstd", "-Eall-fragments,dedupe", "-C65536"],
        &["-zlz4", "-Efragments,legacy-compress"],
        &["-zdeflate", "-Eztailpacking,fragments"],
        &["-zlz4", "-Ededupe"],
        &["-zlzma", "-Ededupe", "-C65536"],
        &["-zlz4", "-Efragments", "--xattr-prefix=user.overlay."],
    ]);
}

#[test]
fn encoded_extents_read_as_the_kernel_does() {
    check(&[
        &["-zzstd", "-E48bit"],
        &["-zlz4", "-E48bit", "-C65536"],
        &["-zzstd", "-E48bit,fragments", "-C65536"],
        &["-zzstd", "-E48bit,all-fragments,dedupe", "-C65536"],
        &["-zlzma", "-E48bit,ztailpacking"],
    ]);
}

#[test]
fn compressed_directories_and_metadata_read_as_the_kernel_does() {
    check(&[
        &["-zlz4", "--zD"],
        &["-zzstd", "--zD", "-Efragments"],
        &["-zlz4", "-m4096"],
        // Directory data in the metadata zone too (`--MZ` alone) is what mkfs.erofs 1.9.4 gets wrong: fsck.erofs and the
        // kernel refuse the image.
        &["-zlz4", "-m4096", "--MZ=i"],
        &["-zzstd", "-C65536", "-m65536:zstd", "--MZ=i", "--zD"],
        &[
            "-zlzma",
            "-m4096:lzma",
            "--MZ=i",
            "--xattr-prefix=user.overlay.",
        ],
        &["-zlz4", "-m4096", "--MZ=i", "-Eall-fragments"],
    ]);
}
