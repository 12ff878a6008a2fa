//! Compressed images of `mkfs.erofs`, as the kernel's own mount shows them and as this crate reads
//! them.

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
fn statistics_count_what_is_stored_once() {
    use std::fs;

    use erofs_reader::Image;
    let dir = tempfile::tempdir().unwrap();
    let tar = dir.path().join("source.tar");
    let bytes = testkit::TarBuilder::new()
        .dir("./")
        .file("prose", common::prose(1, 50_000))
        .link("prose-too", "prose")
        .file("noise", common::noise(1, 50_000))
        .file("zeros", vec![0; 10_000])
        .xattr("user.name", "value")
        .symlink("link", "prose")
        .finish();
    fs::write(&tar, bytes).unwrap();
    let statistics = |options: &[&str]| {
        let options = [&["--tar=f"], options].concat();
        let image = common::mkfs(dir.path(), "image", &options, &tar)?;
        Some(
            Image::open(fs::read(image).unwrap())
                .unwrap()
                .statistics()
                .unwrap(),
        )
    };
    let Some(plain) = statistics(&["-Enoinline_data"]) else {
        return;
    };
    assert_eq!((plain.names, plain.inodes, plain.files), (6, 5, 3));
    assert_eq!(
        (plain.directories, plain.symlinks, plain.with_xattrs),
        (1, 1, 1)
    );
    assert_eq!(
        (plain.bytes, plain.stored, plain.compressed),
        (110_000, 110_000, 0)
    );
    let chunks = statistics(&["--chunksize=4096"]).unwrap();
    assert_eq!(chunks.holes + chunks.stored, 110_000);
    assert!(chunks.holes >= 8192);
    let lz4 = statistics(&["-zlz4", "-Eztailpacking"]).unwrap();
    assert!(lz4.compressed > 0 && lz4.inline > 0);
    assert!(lz4.stored < 90_000, "{lz4:?}");
    let fragments = statistics(&["-zzstd", "-Eall-fragments"]).unwrap();
    assert!(fragments.fragments >= 100_000, "{fragments:?}");
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
        // Directory data in the metadata zone too (`--MZ` alone) is what mkfs.erofs 1.9.4 gets
        // wrong: fsck.erofs and the kernel refuse the image.
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
