//! Files with holes, taken out of images.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs::{self, File};
use std::io::{Cursor, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use erofs_reader::extract::{DirOptions, TarOptions, extract_to_dir, extract_to_tar};
use erofs_reader::{Error, Image};
use erofs_writer::{Builder, ChunkSize, Metadata, Node, Options};

/// A part of a file: so many bytes of a value, or a hole.
#[derive(Clone, Copy)]
enum Part {
    Data(u8, u64),
    Hole(u64),
}

use Part::{Data, Hole};

/// An image with one file of each name.
fn image(files: &[(&str, &[Part])], chunk: u64) -> Image<Vec<u8>> {
    let options = Options::default();
    // Blocks have 512 bytes.
    let size = ChunkSize::from_block_bits((chunk / 512).ilog2() as u8).unwrap();
    let mut builder = Builder::new(Cursor::new(Vec::new()), options).unwrap();
    for (name, parts) in files {
        let mut data = builder.data_in_chunks(size);
        for part in *parts {
            match *part {
                Data(value, length) => data.write_all(&vec![value; length as usize]).unwrap(),
                Hole(length) => data.hole(length).unwrap(),
            }
        }
        let contents = data.finish().unwrap();
        let metadata = Metadata::new(0o755);
        builder
            .add_path(name.as_bytes(), metadata, Node::File(contents))
            .unwrap();
    }
    Image::open(builder.finish().unwrap().0.into_inner()).unwrap()
}

const MIB: u64 = 1 << 20;
const LARGE: u64 = 1 << 36;

/// Files of 64 GiB with data in every place.
fn files() -> Vec<(&'static str, &'static [Part])> {
    vec![
        ("all-hole", &[Hole(LARGE)]),
        ("at-the-end", &[Data(1, MIB), Hole(LARGE)]),
        ("at-the-start", &[Hole(LARGE), Data(2, MIB), Data(3, 100)]),
        (
            "between",
            &[
                Data(4, MIB),
                Hole(LARGE),
                Data(5, 2 * MIB),
                Hole(LARGE),
                Data(6, 1),
            ],
        ),
        ("none", &[Data(7, MIB), Data(8, 10)]),
    ]
}

/// Compares files in a folder with what they should be: contents where there are data, sizes, and
/// that holes take no room.
fn compare(folder: &Path, files: &[(&str, &[Part])]) {
    for (name, parts) in files {
        let file = File::open(folder.join(name)).unwrap();
        let (mut at, mut stored) = (0, 0);
        for part in *parts {
            match *part {
                Data(value, length) => {
                    let mut bytes = vec![0; length as usize];
                    file.read_exact_at(&mut bytes, at).unwrap();
                    assert!(bytes.iter().all(|&byte| byte == value), "{name} at {at}");
                    at += length;
                    stored += length;
                }
                Hole(length) => {
                    let mut bytes = [1; 4096];
                    for from in [at, at + length / 2, at + length - 4096] {
                        file.read_exact_at(&mut bytes, from).unwrap();
                        assert_eq!(bytes, [0; 4096], "{name} at {from}");
                    }
                    at += length;
                }
            }
        }
        let meta = file.metadata().unwrap();
        assert_eq!(meta.len(), at, "{name}");
        assert!(meta.blocks() * 512 <= stored + MIB, "{name}");
    }
}

#[test]
fn gnu_tar_unpacks_sparse_entries_to_sparse_files() {
    let Some(mut gnu_tar) = testkit::oracle("tar") else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let tar = folder.path().join("out.tar");
    let image = image(&files(), MIB);
    let done = extract_to_tar(&image, File::create(&tar).unwrap(), &TarOptions::default()).unwrap();
    assert!(done.bytes > 4 * LARGE);
    assert!(fs::metadata(&tar).unwrap().len() < 8 * MIB);
    let unpacked = gnu_tar
        .args(["--extract", "--file"])
        .arg(&tar)
        .arg("--directory")
        .arg(folder.path())
        .output()
        .unwrap();
    assert!(unpacked.status.success(), "{unpacked:?}");
    assert_eq!(unpacked.stderr, b"");
    compare(folder.path(), &files());
}

#[test]
fn files_of_many_and_huge_holes_are_extracted_in_bounded_time() {
    // More holes than a map may have, next to the largest file that there is.
    let many: Vec<Part> = (0..25_000)
        .flat_map(|number| [Data(number as u8 | 1, 4096), Hole(4096)])
        .collect();
    let huge = [Hole(9 << 50), Data(1, 10)];
    let bytes = {
        let image = image(&[("huge", &huge)], 1 << 40);
        let mut bytes = Vec::new();
        extract_to_tar(&image, &mut bytes, &TarOptions::default()).unwrap();
        bytes
    };
    assert!(bytes.len() < 10_000, "{} bytes", bytes.len());

    let Some(mut gnu_tar) = testkit::oracle("tar") else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let tar = folder.path().join("out.tar");
    let image = image(&[("many", &many)], 4096);
    let out = File::create(&tar).unwrap();
    extract_to_tar(&image, out, &TarOptions::default()).unwrap();
    let unpack = gnu_tar.arg("-xf").arg(&tar).arg("-C").arg(folder.path());
    assert!(unpack.status().unwrap().success());
    let bytes = fs::read(folder.path().join("many")).unwrap();
    assert_eq!(bytes.len(), 25_000 * 8192);
    for (number, pair) in bytes.chunks(8192).enumerate() {
        assert!(pair[..4096].iter().all(|&byte| byte == number as u8 | 1));
        assert!(pair[4096..].iter().all(|&byte| byte == 0));
    }
}

#[test]
fn extraction_to_a_directory_writes_holes_not_zeros() {
    let folder = tempfile::tempdir().unwrap();
    let image = image(&files(), MIB);
    extract_to_dir(&image, folder.path(), &DirOptions::unprivileged()).unwrap();
    compare(folder.path(), &files());
}

#[test]
fn size_limit_counts_holes_and_stops_before_the_file_that_exceeds_it() {
    let image = image(&[("a", &[Data(1, 1000)]), ("b", &[Hole(LARGE)])], MIB);
    let limit = 10_000;
    let mut out = Vec::new();
    let to_tar = extract_to_tar(&image, &mut out, &TarOptions::default().max_bytes(limit));
    assert!(matches!(to_tar, Err(Error::Limit { limit: 10_000 })));
    assert!(out.len() < 10_000);
    let folder = tempfile::tempdir().unwrap();
    let options = DirOptions::unprivileged().max_bytes(limit);
    let to_dir = extract_to_dir(&image, folder.path(), &options);
    assert!(matches!(to_dir, Err(Error::Limit { limit: 10_000 })));
    assert!(!folder.path().join("b").exists());
    // Just enough.
    let enough = DirOptions::unprivileged().max_bytes(1000 + LARGE);
    let folder = tempfile::tempdir().unwrap();
    extract_to_dir(&image, folder.path(), &enough).unwrap();
}

#[test]
fn a_limit_bounds_the_bytes_of_names_and_xattrs() {
    let mut builder = Builder::new(Cursor::new(Vec::new()), Options::default()).unwrap();
    let metadata = Metadata::new(0o755).xattrs(vec![(b"user.large".to_vec(), vec![b'v'; 3000])]);
    for number in 0..100 {
        let path = format!("{}/{number}", "n".repeat(200));
        builder
            .add_path(path.as_bytes(), metadata.clone(), Node::Fifo)
            .unwrap();
    }
    let image = Image::open(builder.finish().unwrap().0.into_inner()).unwrap();
    let options = TarOptions::default().max_bytes(100_000);
    let mut out = Vec::new();
    let result = extract_to_tar(&image, &mut out, &options);
    assert!(matches!(result, Err(Error::Limit { .. })), "{result:?}");
    assert!(out.len() <= 100_000);
    let folder = tempfile::tempdir().unwrap();
    let options = DirOptions::unprivileged().xattrs(true).max_bytes(100_000);
    let result = extract_to_dir(&image, folder.path(), &options);
    assert!(matches!(result, Err(Error::Limit { .. })), "{result:?}");
}
