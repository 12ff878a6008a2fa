//! Makes the seeds of the fuzz targets that read EROFS images: small images of `mkfs.erofs` and of `erofs-writer`.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::fs;
use std::path::Path;

use common::lab::Lab;
use common::{mkfs, noise, prose};
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
    for target in ["erofs_open_walk", "erofs_check"] {
        let folder = testkit::repository().join("fuzz/seeds").join(target);
        write_seeds(&folder, &seeds);
    }
}

fn write_seeds(folder: &Path, seeds: &[(String, Vec<u8>)]) {
    fs::create_dir_all(folder).unwrap();
    for (name, bytes) in seeds {
        fs::write(folder.join(name), bytes).unwrap();
    }
}
