//! The seeds of the fuzz targets that read EROFS images: small images of `mkfs.erofs` and of
//! `erofs-writer`, and parts of them.

#![cfg(all(
    feature = "deflate",
    feature = "lz4",
    feature = "lzma",
    feature = "zstd"
))]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use common::lab::Lab;
use common::{mkfs, noise, prose};
use erofs_reader::{Algorithm, Image, Layout, Source};
use testkit::TarBuilder;

fn small_tar() -> Vec<u8> {
    TarBuilder::new()
        .dir("./")
        .xattr("user.own", "1")
        .xattr("trusted.shared", "a value that is worth sharing")
        .file("a", prose(1, 3000))
        .xattr("trusted.shared", "a value that is worth sharing")
        .xattr("user.prefix.a", "")
        .file("b", noise(2, 700))
        .file("c", vec![0; 2000])
        .link("d", "a")
        .dir("dir")
        .file("dir/e", prose(3, 900))
        .symlink("dir/link", "../a")
        .device("null", b'3', 1, 3)
        .finish()
}

#[test]
fn a_cluster_decodes_to_any_beginning_of_its_data() {
    for (folder, algorithm) in [
        ("erofs_lz4", Algorithm::Lz4),
        ("erofs_lzma", Algorithm::Lzma),
        ("erofs_deflate", Algorithm::Deflate),
        ("erofs_zstd", Algorithm::Zstd),
    ] {
        let seeds = testkit::repository().join("fuzz/seeds").join(folder);
        for seed in fs::read_dir(seeds).unwrap() {
            let seed = seed.unwrap();
            // The others are what libFuzzer made of these.
            if !seed.file_name().as_encoded_bytes().starts_with(b"mkfs") {
                continue;
            }
            let seed = fs::read(seed.path()).unwrap();
            let (length, input) = seed.split_first_chunk().unwrap();
            let mut whole = vec![0; u16::from_le_bytes(*length).into()];
            erofs_reader::decode_cluster(algorithm, input, &mut whole).unwrap();
            for length in 0..whole.len() {
                let mut part = vec![0; length];
                erofs_reader::decode_cluster(algorithm, input, &mut part).unwrap();
                assert_eq!(part, whole[..length], "{algorithm:?}");
            }
        }
    }
}

#[test]
#[ignore = "writes fuzz/seeds: to be run when other seeds are wanted"]
fn seeds_for_the_fuzz_targets() {
    let dir = tempfile::tempdir().unwrap();
    let tar = dir.path().join("small.tar");
    fs::write(&tar, small_tar()).unwrap();
    let mut seeds = vec![("writer".to_owned(), Lab::new().0)];
    for options in [
        &["-b512"][..],
        &["-b1024", "-Enosbcrc"],
        &["-b512", "--chunksize=512"],
        &["-b512", "--chunksize=1024", "-Eforce-chunk-indexes"],
        &[
            "-b512",
            "-x1",
            "--xattr-prefix=user.prefix.",
            "-Exattr-name-filter",
        ],
        &["-b512", "-E48bit,dot-omitted"],
        &["-b512", "-zlz4"],
        &["-b512", "-zlz4", "-Elegacy-compress"],
        &["-b512", "-zlz4", "-C2048"],
        &["-b512", "-zlz4", "-Eztailpacking"],
        &["-b512", "-zlz4", "-Efragments", "--zD"],
        &["-b512", "-zlz4", "-m512", "--MZ=i"],
        &["-b512", "-zlzma"],
        &["-b512", "-zdeflate", "-Eztailpacking"],
        &["-b512", "-zzstd"],
        &["-b512", "-zzstd", "-C2048", "-E48bit"],
    ] {
        let fixed = ["--tar=f", "-T0", "-Uclear"];
        let options: Vec<_> = fixed.iter().chain(options).copied().collect();
        let Some(image) = mkfs(dir.path(), "image", &options, &tar) else {
            return;
        };
        let name = options[fixed.len()..]
            .concat()
            .replace(['=', ',', '.'], "-");
        let name = name.trim_start_matches('-').to_owned();
        seeds.push((format!("mkfs-{name}"), fs::read(image).unwrap()));
    }
    let folder = testkit::repository().join("fuzz/seeds");
    let mut parts: BTreeMap<&str, Vec<(String, Vec<u8>)>> = BTreeMap::new();
    for (name, bytes) in &seeds {
        for (target, part) in parts_of(bytes) {
            parts.entry(target).or_default().push((name.clone(), part));
        }
    }
    write_seeds(&folder.join("erofs"), &seeds);
    for (target, mut parts) in parts {
        // Images differ less than their parts are many.
        parts.dedup_by(|a, b| a.1 == b.1);
        write_seeds(&folder.join(target), &parts);
    }
}

/// The parts of an image that single targets take: one of each kind.
fn parts_of(bytes: &[u8]) -> BTreeMap<&'static str, Vec<u8>> {
    let image = Image::open(bytes).unwrap();
    let mut parts = BTreeMap::new();
    for step in image.walk() {
        let (_, inode) = step.unwrap();
        let inode_size = if inode.is_compact() { 32 } else { 64 };
        let xattrs = usize::try_from(inode.position()).unwrap() + inode_size;
        let body = xattrs + usize::try_from(inode.xattr_size()).unwrap();
        let [a, b, c, ..] = inode.size().to_le_bytes();
        if inode.has_xattrs() {
            let words = u8::try_from((inode.xattr_size() - 12) / 4 + 1).unwrap();
            parts.insert("erofs_xattrs", [&[words, 0], &bytes[xattrs..body]].concat());
        }
        let format = match inode.layout() {
            Layout::CompressedFull => 1,
            Layout::CompressedCompact => 3,
            Layout::Chunks => 4,
            _ => 0,
        };
        for extent in image.extents(&inode).unwrap() {
            let length = usize::try_from(extent.length).unwrap();
            match extent.source {
                Source::Data { offset, .. } | Source::Inline { offset } if inode.is_dir() => {
                    let start = usize::try_from(offset).unwrap();
                    parts.insert("erofs_dirs", bytes[start..start + length].to_vec());
                }
                Source::Compressed {
                    offset,
                    length: stored,
                    algorithm,
                    ..
                } => {
                    let target = match algorithm {
                        Algorithm::Lzma => "erofs_lzma",
                        Algorithm::Deflate => "erofs_deflate",
                        Algorithm::Zstd => "erofs_zstd",
                        _ => "erofs_lz4",
                    };
                    let start = usize::try_from(offset).unwrap();
                    let stored = &bytes[start..start + usize::try_from(stored).unwrap()];
                    let zeros = stored.iter().take_while(|&&byte| byte == 0).count();
                    let length = u16::try_from(length).unwrap().to_le_bytes();
                    parts.insert(target, [&length, &stored[zeros..]].concat());
                }
                _ => {}
            }
        }
        if inode.is_file() && format != 0 {
            let end = (body + 128).min(bytes.len());
            parts.insert(
                "erofs_data",
                [&[format, a, b, c, 1], &bytes[body..end]].concat(),
            );
        }
    }
    parts
}

fn write_seeds(folder: &Path, seeds: &[(String, Vec<u8>)]) {
    fs::create_dir_all(folder).unwrap();
    for (name, bytes) in seeds {
        fs::write(folder.join(name), bytes).unwrap();
    }
}
