//! Sparse images, both kinds, against `qemu-img` in both directions and against damage.

use std::fs;
use std::io::{Cursor, Read};
use std::path::{Path, PathBuf};
use std::process::Command;

use proptest::prelude::*;
use testkit::oracle;
use vmdk::{
    Disk, Error, Progress, SparseOptions, SparseProblem, SparseSummary, write_monolithic_sparse,
    write_stream_optimized,
};

const KINDS: [&str; 2] = ["monolithicSparse", "streamOptimized"];

const GRAIN: usize = 64 << 10;

fn run(command: &mut Command) -> String {
    let output = command.output().expect("qemu-img starts");
    assert!(output.status.success(), "{command:?}: {output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Disk contents: in each grain zeros, noise or something that compresses, as `pattern` says.
fn contents(pattern: &[u8], tail_sectors: usize) -> Vec<u8> {
    let mut bytes = vec![0; pattern.len() * GRAIN];
    for (index, (kind, grain)) in pattern.iter().zip(bytes.chunks_mut(GRAIN)).enumerate() {
        let mut state = index as u32 + 1;
        match kind % 3 {
            0 => {}
            1 => grain.fill_with(|| {
                state = state.wrapping_mul(0x0019_660d).wrapping_add(0x3c6e_f35f);
                (state >> 24) as u8
            }),
            _ => {
                for (at, sector) in grain.chunks_mut(512).enumerate() {
                    sector.fill(at as u8 ^ index as u8);
                }
            }
        }
    }
    bytes.extend((0..tail_sectors * 512).map(|at| (at >> 8) as u8 | 1));
    bytes
}

fn write(
    kind: &str,
    data: &[u8],
    options: &SparseOptions,
) -> Result<(Vec<u8>, SparseSummary), Error> {
    let mut image = Cursor::new(Vec::new());
    let bytes = data.len() as u64;
    let summary = match kind {
        "monolithicSparse" => write_monolithic_sparse(data, bytes, &mut image, options)?,
        _ => write_stream_optimized(data, bytes, &mut image, options)?,
    };
    Ok((image.into_inner(), summary))
}

/// Writes an image of `data` into `folder`.
fn image(folder: &Path, kind: &str, data: &[u8]) -> PathBuf {
    let (image, summary) = write(kind, data, &SparseOptions::default()).expect("valid");
    assert_eq!(image.len() as u64, summary.bytes);
    let path = folder.join(format!("{kind}.vmdk"));
    fs::write(&path, image).expect("written");
    path
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    let mut disk = Disk::open(path)?;
    match disk.read_to_end(&mut bytes) {
        Ok(_) => Ok(bytes),
        Err(error) => Err(error
            .downcast()
            .unwrap_or_else(|source| Error::Stream { source })),
    }
}

/// Patterns: one grain, several, more than one table's worth of mostly zeros, all zeros.
fn samples() -> Vec<Vec<u8>> {
    let mut long = vec![0; 530];
    (long[0], long[511], long[512], long[529]) = (1, 2, 1, 2);
    vec![
        contents(&[1], 0),
        contents(&[], 1),
        contents(&[1, 0, 2, 0, 0, 1], 77),
        contents(&long, 3),
        contents(&[0, 0, 0], 0),
    ]
}

#[test]
fn written_descriptors_are_parsed_back() {
    let folder = tempfile::tempdir().unwrap();
    for kind in KINDS {
        for data in samples() {
            let path = image(folder.path(), kind, &data);
            let disk = Disk::open(&path).unwrap();
            assert_eq!(disk.descriptor().create_type(), kind);
            assert_eq!(disk.size(), data.len() as u64);
            assert!(read(&path).unwrap() == data, "{kind}");
            let mut buffer = vec![0; 100_000];
            for at in [0, 1, GRAIN - 1, data.len() / 2, data.len() - 1] {
                let n = disk.read_at(&mut buffer, at as u64).unwrap();
                assert!(buffer[..n] == data[at.min(data.len())..data.len().min(at + 100_000)]);
            }
        }
    }
}

#[test]
fn qemu_reads_written_disks() {
    let folder = tempfile::tempdir().unwrap();
    let (raw, back) = (folder.path().join("raw"), folder.path().join("back"));
    for kind in KINDS {
        for data in samples() {
            let Some(mut info) = oracle("qemu-img") else {
                return;
            };
            let qemu_img = || oracle("qemu-img").expect("found a moment ago");
            let path = image(folder.path(), kind, &data);
            let text = run(info
                .args(["info", "-f", "vmdk", "--output=json"])
                .arg(&path));
            assert!(
                text.contains(&format!("\"create-type\": \"{kind}\"")),
                "{text}"
            );
            assert!(
                text.contains(&format!("\"virtual-size\": {},", data.len())),
                "{text}"
            );
            run(qemu_img().args(["check", "-f", "vmdk"]).arg(&path));
            run(qemu_img()
                .args(["convert", "-O", "raw"])
                .arg(&path)
                .arg(&back));
            assert!(fs::read(&back).unwrap() == data, "{kind}");
            fs::write(&raw, &data).unwrap();
            run(qemu_img()
                .args(["compare", "-F", "raw"])
                .arg(&path)
                .arg(&raw));
        }
    }
}

#[test]
fn qemu_can_write_to_a_monolithic_sparse_image() {
    let Some(mut qemu_io) = oracle("qemu-io") else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let mut data = contents(&[0; 600], 0);
    let path = image(folder.path(), "monolithicSparse", &data);
    // The second table has no grain yet.
    let at = 550 * GRAIN;
    run(qemu_io
        .args(["-f", "vmdk", "-c", &format!("write -P 7 {at} 4096")])
        .arg(&path));
    data[at..at + 4096].fill(7);
    assert!(read(&path).unwrap() == data);
    let mut check = oracle("qemu-img").expect("comes with qemu-io");
    run(check.args(["check", "-f", "vmdk"]).arg(&path));
}

#[test]
fn disks_that_qemu_writes_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let (raw, path) = (folder.path().join("raw"), folder.path().join("q.vmdk"));
    for kind in [KINDS[0], KINDS[1], "twoGbMaxExtentSparse"] {
        for zeroed in ["off", "on"] {
            if zeroed == "on" && kind == KINDS[1] {
                continue;
            }
            for data in samples() {
                let Some(mut convert) = oracle("qemu-img") else {
                    return;
                };
                fs::write(&raw, &data).unwrap();
                run(convert
                    .args(["convert", "-f", "raw", "-O", "vmdk", "-o"])
                    .arg(format!("subformat={kind},zeroed_grain={zeroed}"))
                    .arg(&raw)
                    .arg(&path));
                assert!(read(&path).unwrap() == data, "{kind} {zeroed}");
            }
        }
    }
}

#[test]
fn conversion_to_stream_optimized_and_back_gives_the_same_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let data = contents(&[1, 2, 0, 2], 5);
    let first = image(folder.path(), "streamOptimized", &data);
    let disk = Disk::open(&first).unwrap();
    let size = disk.size();
    let second = folder.path().join("second.vmdk");
    let file = fs::File::create(&second).unwrap();
    write_monolithic_sparse(disk, size, file, &SparseOptions::default()).unwrap();
    assert!(read(&second).unwrap() == data);
}

#[test]
fn the_same_input_gives_the_same_bytes_and_zeros_cost_nothing() {
    for kind in KINDS {
        let data = contents(&[1, 0, 0, 2, 0], 0);
        let options = SparseOptions::default();
        let (image, summary) = write(kind, &data, &options).unwrap();
        assert_eq!((summary.grains, summary.zero_grains), (2, 3));
        assert_eq!(image, write(kind, &data, &options).unwrap().0);
        let (empty, _) = write(kind, &contents(&[0; 64], 0), &options).unwrap();
        assert!(empty.len() < 3 * GRAIN, "{kind}: {}", empty.len());
    }
}

#[test]
fn wrong_sizes_and_names_are_refused_before_anything_is_written() {
    let bad_size = SparseOptions::default();
    let bad_name = SparseOptions::default().name("a\"b");
    let bad_grain = SparseOptions::default().grain_sectors(100);
    for kind in KINDS {
        assert!(matches!(
            write(kind, &[0; 700], &bad_size),
            Err(Error::DiskSize { bytes: 700 })
        ));
        assert!(matches!(
            write(kind, &[], &bad_size),
            Err(Error::DiskSize { bytes: 0 })
        ));
        assert!(matches!(
            write(kind, &[0; 512], &bad_name),
            Err(Error::Name { .. })
        ));
        assert!(matches!(
            write(kind, &[0; 512], &bad_grain),
            Err(Error::Sparse {
                problem: SparseProblem::GrainSize,
                ..
            })
        ));
    }
    let short = write_stream_optimized(&[0; 512][..], 1024, Vec::new(), &SparseOptions::default());
    assert!(matches!(short, Err(Error::Stream { .. })));
}

/// What reading an image says after `change`.
fn damaged(kind: &str, change: impl FnOnce(&mut Vec<u8>)) -> Error {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let path = image(folder.path(), kind, &contents(&[1, 2, 1], 0));
    let mut bytes = fs::read(&path).expect("readable");
    change(&mut bytes);
    fs::write(&path, bytes).expect("written");
    read(&path).expect_err("damaged")
}

fn set(offset: usize, value: &[u8]) -> impl FnOnce(&mut Vec<u8>) {
    move |bytes| bytes[offset..offset + value.len()].copy_from_slice(value)
}

#[test]
fn damaged_headers_are_named() {
    use SparseProblem::*;
    for (offset, value, expected) in [
        (12, &0_u64.to_le_bytes()[..], Capacity),
        (12, &1_u64.to_le_bytes(), Capacity),
        (12, &(u64::MAX >> 9).to_le_bytes(), Capacity),
        (20, &0_u64.to_le_bytes(), GrainSize),
        (20, &100_u64.to_le_bytes(), GrainSize),
        (20, &(1_u64 << 63).to_le_bytes(), GrainSize),
        (28, &0_u64.to_le_bytes(), Descriptor),
        (28, &u64::MAX.to_le_bytes(), Descriptor),
        (36, &0_u64.to_le_bytes(), Descriptor),
        (36, &(1_u64 << 40).to_le_bytes(), Descriptor),
        (56, &0_u64.to_le_bytes(), Bounds),
        (56, &(u64::MAX - 1).to_le_bytes(), Bounds),
        (56, &u64::MAX.to_le_bytes(), Footer),
        (73, b"\n \n\n", LineEnds),
    ] {
        match damaged("monolithicSparse", set(offset, value)) {
            Error::Sparse { problem, .. } => assert_eq!(problem, expected, "{offset} {value:?}"),
            other => panic!("{offset} {value:?}: {other:?}"),
        }
    }
    for (offset, value) in [
        (4, &4_u32.to_le_bytes()[..]),
        (8, &(1_u32 | 1 << 20).to_le_bytes()),
        (8, &(1_u32 | 1 << 16).to_le_bytes()),
        (44, &0_u32.to_le_bytes()),
        (44, &u32::MAX.to_le_bytes()),
    ] {
        let error = damaged("monolithicSparse", set(offset, value));
        assert!(
            matches!(error, Error::Unsupported { .. }),
            "{offset} {value:?}: {error:?}"
        );
    }
}

#[test]
fn damaged_grains_and_tables_are_named() {
    use SparseProblem::*;
    let problem = |error| match error {
        Error::Sparse { problem, .. } => problem,
        other => panic!("{other:?}"),
    };
    let directory = |bytes: &[u8], at: usize| {
        let sector = u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight"));
        sector as usize * 512
    };
    let outside = u32::MAX.to_le_bytes();
    assert_eq!(
        problem(damaged("monolithicSparse", |bytes| set(
            directory(bytes, 56),
            &outside
        )(bytes))),
        Bounds
    );
    assert_eq!(
        problem(damaged("monolithicSparse", |bytes| {
            let table = directory(bytes, 56) + 512;
            set(table, &outside)(bytes);
        })),
        Bounds
    );
    // The first grain of a streamOptimized image is at sector 128: marker, then zlib.
    let first = 128 * 512;
    assert_eq!(
        problem(damaged("streamOptimized", set(first, &[1]))),
        Marker
    );
    assert_eq!(
        problem(damaged("streamOptimized", set(first + 8, &[0; 4]))),
        Marker
    );
    assert_eq!(
        problem(damaged("streamOptimized", set(first + 8, &outside))),
        Marker
    );
    assert_eq!(
        problem(damaged("streamOptimized", set(first + 12, &[0xff; 2]))),
        Deflate
    );
    assert_eq!(
        problem(damaged("streamOptimized", set(first + 200, &[0xff; 64]))),
        Deflate
    );
    assert_eq!(
        problem(damaged("streamOptimized", |bytes| bytes.truncate(first))),
        Footer
    );
    assert_eq!(
        problem(damaged("streamOptimized", |bytes| {
            let end = bytes.len();
            bytes[end - 512 + 12] = 9;
        })),
        Footer
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn every_disk_survives_a_round_trip_through_both_sparse_kinds(
        pattern in prop::collection::vec(0_u8..3, 0..12),
        tail in 1..128_usize,
        grain_bits in 3..8_u32,
    ) {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let data = contents(&pattern, tail);
        for kind in KINDS {
            let options = SparseOptions::default().grain_sectors(1 << grain_bits);
            let path = folder.path().join("disk.vmdk");
            fs::write(&path, write(kind, &data, &options).expect("valid").0).expect("written");
            prop_assert!(read(&path).expect("own output") == data);
        }
    }

    #[test]
    fn no_change_to_an_image_makes_the_reader_panic(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..20),
        near_header in any::<bool>(),
    ) {
        let folder = tempfile::tempdir().expect("a temporary directory");
        for kind in KINDS {
            let path = image(folder.path(), kind, &contents(&[2, 0, 2], 1));
            let mut bytes = fs::read(&path).expect("readable");
            for (at, value) in &changes {
                let range = if near_header { 80 } else { bytes.len() };
                bytes[at.index(range)] = *value;
            }
            fs::write(&path, &bytes).expect("written");
            // A size that was changed to something huge is read no further than this.
            if let Ok(disk) = Disk::open(&path) {
                let _ = disk.take(1 << 20).read_to_end(&mut Vec::new());
            }
        }
    }
}

#[test]
fn progress_grows_to_the_size_of_the_disk() {
    let disk = contents(&[1, 0, 2, 1], 3);
    let bytes = disk.len() as u64;
    let seen = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let listener = seen.clone();
    let progress = Progress::new(move |done| listener.lock().unwrap().push(done.bytes));
    let options = SparseOptions::default().progress(progress);
    let mut image = Cursor::new(Vec::new());
    write_stream_optimized(&disk[..], bytes, &mut image, &options).unwrap();
    let streamed = std::mem::take(&mut *seen.lock().unwrap());
    write_monolithic_sparse(&disk[..], bytes, Cursor::new(Vec::new()), &options).unwrap();
    for seen in [streamed, seen.lock().unwrap().clone()] {
        assert!(seen.is_sorted() && seen.len() > 2, "{seen:?}");
        assert_eq!(seen.last(), Some(&bytes));
    }
}
