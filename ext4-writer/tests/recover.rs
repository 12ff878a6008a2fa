//! Recovering filesystems that were cut off, as e2fsck and the kernel do it.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::fs::{self, File};
use std::io::Cursor;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use common::{Image, copy, e2fsck, open};
use ext4_writer::{
    BlockSize, Builder, Error, Features, Info, Journal, Metadata, Options, grow, recover,
};
use proptest::prelude::*;
use testkit::{Difference, Mount, walk};

const JBD2_MAGIC: [u8; 4] = [0xc0, 0x3b, 0x39, 0x98];

fn needs_recovery(features: Features) -> bool {
    features.names().any(|name| name == "needs_recovery")
}

fn has_orphans(path: &Path) -> bool {
    let info = Info::read(File::open(path).unwrap()).unwrap();
    let listed = read(path, 1024 + 232, 4) != [0; 4];
    listed || info.features.names().any(|name| name == "orphan_present")
}

/// Recovers one copy of an image and lets e2fsck replay the journal of another, and compares all
/// that is not a superblock. Gives our copy, or `None` where both find the journal corrupt.
fn recover_as_e2fsck_does(image: &Path) -> Option<PathBuf> {
    let ours = copy(image, "ours");
    let theirs = copy(image, "theirs");
    let recovered = recover(open(&ours));
    let (code, said) = e2fsck(&["-y", "-E", "journal_only"], &theirs);
    // Those we free too; tests/orphans.rs compares that.
    let orphans = has_orphans(&theirs);
    let info = match recovered {
        Ok(info) => info,
        Err(Error::Corrupt { .. }) if code != 0 || orphans => return None,
        Err(e) => panic!("{e}: {said}"),
    };
    if orphans {
        return Some(ours);
    }
    assert!(code <= 1, "{said}");
    assert!(!needs_recovery(info.features));
    let (ours_bytes, theirs_bytes) = (fs::read(&ours).unwrap(), fs::read(&theirs).unwrap());
    assert_eq!(ours_bytes.len(), theirs_bytes.len());
    let chunks = ours_bytes.chunks(1024).zip(theirs_bytes.chunks(1024));
    for (at, (ours, theirs)) in chunks.enumerate() {
        if ours[..4] == JBD2_MAGIC && ours[..8] == theirs[..8] && ours[7] == 4 {
            // The sequence that is next, and that there is nothing to replay.
            assert_eq!(ours[24..32], theirs[24..32]);
        } else if ours[56..58] != [0x53, 0xef] {
            assert!(ours == theirs, "they differ at byte {}", at * 1024);
        }
    }
    Some(ours)
}

/// Fails unless what was recovered is whole, and what the kernel makes of the same image.
fn assert_whole(image: &Path, ours: &Path) {
    let (code, said) = e2fsck(&["-fn"], ours);
    assert_eq!(code, 0, "{said}");
    let theirs = copy(image, "kernel");
    let kernels = walk(Mount::ext4(&theirs, true).path()).unwrap();
    let before = fs::read(ours).unwrap();
    let walked = walk(Mount::ext4(ours, false).path()).unwrap();
    assert!(fs::read(ours).unwrap() == before);
    Difference::between(&walked, &kernels).assert_none();
    // And it can be used.
    let mount = Mount::ext4(ours, true);
    fs::write(mount.path().join("afterwards"), [1; 10_000]).unwrap();
    drop(mount);
    let (code, said) = e2fsck(&["-fn"], ours);
    assert_eq!(code, 0, "{said}");
}

fn oracles() -> bool {
    testkit::kernel_mounts() && testkit::oracle("e2fsck").is_some()
}

/// Makes directories and files, and removes those of two rounds ago: blocks of metadata become free
/// and data.
fn churn(root: &Path, round: usize) {
    let dir = root.join(format!("round {round}"));
    fs::create_dir(&dir).unwrap();
    for i in 0..60 {
        let name = format!("{i:0>width$}", width = 20 + i % 40);
        fs::write(dir.join(name), vec![round as u8; i * 700]).unwrap();
    }
    let _ = fs::remove_dir_all(root.join(format!("round {}", round.wrapping_sub(2))));
}

#[test]
fn synced_data_of_an_interrupted_image_is_recovered_as_by_the_kernel() {
    if !oracles() {
        return;
    }
    for (block_size, journal) in [
        (BlockSize::B4096, Journal::Auto),
        (BlockSize::B1024, Journal::Size(1 << 20)),
        (BlockSize::B2048, Journal::Size(4 << 20)),
    ] {
        let image = Image::new(
            Options::new(48 << 20)
                .block_size(block_size)
                .journal(journal),
            |_| (),
        );
        let mount = Mount::ext4(&image.path, true);
        for round in 0..4 {
            churn(mount.path(), round);
            // Commits everything; nothing writes while it is copied.
            File::open(mount.path()).unwrap().sync_all().unwrap();
            // Only Linux mounts it.
            #[cfg(target_os = "linux")]
            rustix::fs::syncfs(File::open(mount.path()).unwrap()).unwrap();
            if round < 2 {
                continue;
            }
            fs::write(mount.path().join(format!("late {round}")), "x").unwrap();
            fs::rename(
                mount.path().join(format!("late {round}")),
                mount.path().join("late"),
            )
            .unwrap();
            File::open(mount.path().join("late"))
                .unwrap()
                .sync_all()
                .unwrap();
            let cut = copy(&image.path, "cut");
            let info = Info::read(File::open(&cut).unwrap()).unwrap();
            assert!(needs_recovery(info.features) && !info.clean);
            let ours = recover_as_e2fsck_does(&cut).unwrap();
            assert_whole(&cut, &ours);

            let grown = copy(&cut, "grown");
            let info = grow(open(&grown), 200 << 20).unwrap();
            assert_eq!(info.blocks * u64::from(info.block_size), 200 << 20);
            let (code, said) = e2fsck(&["-fn"], &grown);
            assert_eq!(code, 0, "{said}");
        }
    }
}

#[test]
fn images_copied_amid_writes_replay_as_e2fsck_replays_them() {
    if !oracles() {
        return;
    }
    let image = Image::new(
        Options::new(32 << 20).journal(Journal::Size(4 << 20)),
        |_| (),
    );
    let mount = Mount::ext4(&image.path, true);
    let cuts: Vec<_> = std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            for round in 0..40 {
                churn(mount.path(), round);
                File::open(mount.path()).unwrap().sync_all().unwrap();
            }
        });
        (0..6)
            .take_while(|_| !writer.is_finished())
            .map(|i| {
                std::thread::sleep(std::time::Duration::from_millis(37));
                copy(&image.path, &format!("cut{i}"))
            })
            .collect()
    });
    let replayed = cuts
        .iter()
        .filter(|cut| recover_as_e2fsck_does(cut).is_some())
        .count();
    assert!(replayed > 0);
}

/// An image with a journal of what `commands` say to debugfs, which writes each of these files over
/// the blocks it is given.
fn journaled(block_size: BlockSize, contents: &[&[u8]], commands: &str) -> Option<Image> {
    let mut debugfs = testkit::oracle("debugfs")?;
    testkit::oracle("e2fsck")?;
    let image = Image::new(
        Options::new(48 << 20)
            .block_size(block_size)
            .journal(Journal::Size(4 << 20)),
        |_| (),
    );
    let folder = image.path.parent().unwrap();
    for (i, contents) in contents.iter().enumerate() {
        fs::write(folder.join(format!("block{i}")), contents).unwrap();
    }
    fs::write(folder.join("commands"), commands).unwrap();
    let output = debugfs
        .current_dir(folder)
        .args(["-w", "-f", "commands"])
        .arg(&image.path)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let info = Info::read(File::open(&image.path).unwrap()).unwrap();
    assert!(needs_recovery(info.features), "{output:?}");
    Some(image)
}

fn read(path: &Path, offset: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    File::open(path)
        .unwrap()
        .read_exact_at(&mut bytes, offset)
        .unwrap();
    bytes
}

#[test]
fn a_revoked_block_is_written_only_by_later_transactions() {
    let block = |byte| vec![byte; 4096];
    let contents: [&[u8]; 2] = [&block(1), &block(2)];
    for checksums in ["", "-c"] {
        let commands = format!(
            "jo {checksums}\njw -b 9000,9001,9002 block0\njw -r 9000,9001\njw -b 9001 block1\njc\n"
        );
        let contents = [&[contents[0]; 3].concat()[..], contents[1]];
        let Some(image) = journaled(BlockSize::B4096, &contents, &commands) else {
            return;
        };
        let ours = recover_as_e2fsck_does(&image.path).unwrap();
        let first = [9000, 9001, 9002].map(|at| read(&ours, at * 4096, 4096)[9]);
        assert_eq!(first, [0, 2, 1]);
    }
}

#[test]
fn a_block_that_looks_like_the_journals_own_is_written_as_it_was() {
    for (block_size, bytes) in [(BlockSize::B1024, 1024), (BlockSize::B4096, 4096)] {
        let mut content = JBD2_MAGIC.to_vec();
        content.resize(bytes, 5);
        let commands = "jo -c\njw -b 8500 block0\njc\n";
        let Some(image) = journaled(block_size, &[&content], commands) else {
            return;
        };
        let ours = recover_as_e2fsck_does(&image.path).unwrap();
        assert_eq!(read(&ours, 8500 * bytes as u64, bytes), content);
    }
}

#[test]
fn a_corrupt_journal_is_an_error_and_nothing_is_written() {
    let content = vec![3; 4096 * 4];
    let commands = "jo -c\njw -b 9000,9001,9002,9003 block0\njc\n";
    let Some(image) = journaled(BlockSize::B4096, &[&content], commands) else {
        return;
    };
    let bytes = fs::read(&image.path).unwrap();
    let journal = (0..bytes.len())
        .step_by(4096)
        .find(|&at| bytes[at..at + 4] == JBD2_MAGIC && bytes[at + 7] == 4)
        .unwrap();
    // The superblock, the descriptor block, a journaled block, the commit block.
    for at in [30, 4096 + 20, 2 * 4096 + 100, 6 * 4096 + 200] {
        let mut corrupt = bytes.clone();
        corrupt[journal + at] ^= 0x10;
        let mut image = Cursor::new(corrupt.clone());
        let recovered = recover(&mut image);
        assert!(
            matches!(recovered, Err(Error::Corrupt { .. })),
            "{at}: {recovered:?}"
        );
        assert!(image.into_inner() == corrupt);
    }
}

#[test]
fn an_empty_journal_begins_after_its_last_transaction() {
    let Some(_) = testkit::oracle("e2fsck") else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("image.ext4");
    fs::write(&path, small()).unwrap();
    let ours = recover_as_e2fsck_does(&path).unwrap();
    let (code, said) = e2fsck(&["-fn"], &ours);
    assert_eq!(code, 0, "{said}");
}

#[test]
fn a_clean_filesystem_is_not_written_to() {
    let image = Image::new(Options::new(16 << 20), |_| ());
    let info = recover(Untouched(File::open(&image.path).unwrap())).unwrap();
    assert!(info.clean);
}

/// An output that must not be written.
struct Untouched(File);

impl std::io::Read for Untouched {
    fn read(&mut self, bytes: &mut [u8]) -> std::io::Result<usize> {
        self.0.read(bytes)
    }
}

impl std::io::Seek for Untouched {
    fn seek(&mut self, to: std::io::SeekFrom) -> std::io::Result<u64> {
        self.0.seek(to)
    }
}

impl std::io::Write for Untouched {
    fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
        panic!("written")
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// A small image that says its journal, of a few blocks that are used, is to be replayed.
fn small() -> Vec<u8> {
    let options = Options::new(2 << 20)
        .block_size(BlockSize::B1024)
        .journal(Journal::Size(1 << 20));
    let mut image = Builder::new(Cursor::new(Vec::new()), options).unwrap();
    let root = image.root();
    image.add_dir(root, b"d", Metadata::new(0o755)).unwrap();
    let (image, _) = image.finish().unwrap();
    let mut image = image.into_inner();
    image[1024 + 96] |= 4;
    seal(&mut image);
    image
}

/// Corrects the superblock's checksum.
fn seal(image: &mut [u8]) {
    let sum = !crc32c::crc32c(&image[1024..2044]);
    image[2044..2048].copy_from_slice(&sum.to_le_bytes());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, ..ProptestConfig::default() })]

    #[test]
    fn recovering_never_panics_on_any_log(
        blocks in prop::collection::vec((1..8_u8, 1..4_u8, prop::collection::vec(any::<u8>(), 0..200)), 0..12),
        start in 0..20_u8,
    ) {
        let mut image = small();
        let journal = (0..image.len())
            .step_by(1024)
            .find(|&at| image[at..at + 4] == JBD2_MAGIC)
            .unwrap();
        // No checksums, so that what is after them is looked at.
        image[journal + 40..journal + 44].copy_from_slice(&3_u32.to_be_bytes());
        image[journal + 31] = start;
        for (i, (kind, sequence, bytes)) in blocks.into_iter().enumerate() {
            let at = journal + 1024 * (i + 1);
            image[at..at + 4].copy_from_slice(&JBD2_MAGIC);
            image[at + 4..at + 12].copy_from_slice(&[0, 0, 0, kind, 0, 0, 0, sequence]);
            image[at + 12..at + 12 + bytes.len()].copy_from_slice(&bytes);
        }
        let _ = recover(Cursor::new(image));
    }
}
