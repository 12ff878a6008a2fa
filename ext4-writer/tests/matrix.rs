//! Every combination of options makes a filesystem that is right: e2fsck, dumpe2fs, ext4-view and
//! the kernel agree on it, and it stays right when the kernel writes to it.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, symlink};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use common::options::{
    FACTORS, Kernel, add_large_values, add_small, check_features, check_large_values, compare_view,
    write_and_delete,
};
use common::{e2fsck, open};
use ext4_writer::{BlockSize, Builder, Journal, Options, grow};
use rustix::fs::XattrFlags;
use tempfile::TempDir;
use testkit::{Difference, Mount, Node, Walk, walk};

const BLOCK_SIZES: [BlockSize; 3] = [BlockSize::B1024, BlockSize::B2048, BlockSize::B4096];

/// 24 ways to set the twelve options, among which each three of them are set in all eight ways: the
/// twelve of Plackett and Burman, and their opposites.
fn rows() -> Vec<[bool; 12]> {
    const ROW: [bool; 11] = [
        true, true, false, true, true, true, false, false, false, true, false,
    ];
    let rotated = (0..11).map(|by| {
        let mut row = ROW;
        row.rotate_left(by);
        row
    });
    let rows = rotated.chain([[false; 11]]).map(|row| {
        let mut all = [true; 12];
        all[..11].copy_from_slice(&row);
        all
    });
    rows.flat_map(|row| [row, row.map(|on| !on)]).collect()
}

#[test]
fn each_three_options_are_set_in_all_eight_ways() {
    for a in 0..12 {
        for b in 0..a {
            for c in 0..b {
                let ways: BTreeSet<_> = rows().iter().map(|r| (r[a], r[b], r[c])).collect();
                assert_eq!(ways.len(), 8);
            }
        }
    }
}

/// A small tree with every kind of node, and what lies in inodes or blocks by its size.
fn source() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    add_small(dir.path());
    fs::write(at("blocks"), [7; 20_000]).unwrap();
    let sparse = File::create(at("sparse")).unwrap();
    sparse.set_len(100_000).unwrap();
    sparse.write_all_at(b"in the middle", 50_000).unwrap();
    fs::create_dir(at("many")).unwrap();
    for i in 0..160 {
        fs::write(at(&format!("many/{i} {}", "n".repeat(40))), b"").unwrap();
    }
    fs::hard_link(at("blocks"), at("many/again")).unwrap();
    for len in [59, 60, 200] {
        symlink("x".repeat(len), at(&format!("link of {len}"))).unwrap();
    }
    for (name, node) in [
        ("null", Node::CharDevice(1, 3)),
        ("far", Node::BlockDevice(259, 70000)),
        ("fifo", Node::Fifo),
        ("socket", Node::Socket),
    ] {
        node.make(at(name), 0o640).unwrap();
    }
    for (name, len) in [
        ("48 bytes", 30),
        ("60 bytes", 600),
        ("many", 600),
        ("blocks", 700),
    ] {
        rustix::fs::setxattr(at(name), "user.name", &vec![9; len], XattrFlags::empty()).unwrap();
    }
    dir
}

/// Where images are made: in memory, where the host has such a filesystem.
fn scratch() -> TempDir {
    tempfile::tempdir_in("/dev/shm").unwrap_or_else(|_| tempfile::tempdir().unwrap())
}

fn check(options: &Options, kernel: &Kernel, path: &Path, source: &Path, expected: &Walk) {
    let write = kernel.not_written(options).is_none();
    let file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open(path)
        .unwrap();
    file.set_len(options.size).unwrap();
    let mut image = Builder::new(file, options.clone()).unwrap();
    image.add_dir_all(source).unwrap();
    if options.project {
        let dir = image.lookup(b"many").unwrap();
        image.set_project(dir, 70_000).unwrap();
    }
    if options.ea_inode {
        add_large_values(&mut image);
    }
    image.finish().unwrap();

    check_features(path, options);
    let assert_clean = || {
        if testkit::oracle("e2fsck").is_some() {
            let (code, said) = e2fsck(&["-fn"], path);
            assert_eq!(code, 0, "{options:?}: {said}");
        }
    };
    assert_clean();
    if !(options.inline_data || options.ea_inode || options.large_dir || options.meta_bg) {
        compare_view(path, options, expected);
    }
    if kernel.not_mounted(options).is_none() {
        let mount = Mount::ext4(path, write);
        let mut found = walk(mount.path()).unwrap();
        found.remove(&b"lost+found"[..]);
        if options.ea_inode {
            found.retain(|path, _| !path.starts_with(b"values"));
            check_large_values(mount.path());
        }
        Difference::between(&found, expected).assert_none();
        if write {
            write_and_delete(mount.path());
        }
        drop(mount);
        if write {
            assert_clean();
            grow(open(path), 2 * options.size).unwrap();
            assert_clean();
        }
    }
}

/// Checks all combinations in `rows` with every block size, on all processors. Says how many
/// filesystems the kernel wrote ten thousand files to, and why it did not write to the others.
fn check_all(rows: &[[bool; 12]]) {
    let source = source();
    let expected = walk(source.path()).unwrap();
    let kernel = Kernel::here();
    let all: Vec<_> = rows
        .iter()
        .flat_map(|row| BLOCK_SIZES.map(|block_size| (row, block_size)))
        .map(|(row, block_size)| {
            let mut options = Options::new(24 << 20).block_size(block_size);
            for (set, on) in FACTORS.iter().zip(row) {
                set(&mut options, *on);
            }
            let reason = kernel.not_written(&options);
            if reason.is_none() {
                options.size = 80 << 20;
                options.inode_ratio = 2048;
            }
            (options, reason)
        })
        .collect();
    let start = Instant::now();
    let next = AtomicUsize::new(0);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let folder = scratch();
                while let Some((options, _)) = all.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let path = folder.path().join("image");
                    check(options, &kernel, &path, source.path(), &expected);
                }
            });
        }
    });
    let mut tally = BTreeMap::<_, usize>::new();
    for (_, reason) in &all {
        *tally.entry(reason.unwrap_or("written to")).or_default() += 1;
    }
    println!(
        "{} filesystems in {:?}: {tally:?}",
        all.len(),
        start.elapsed()
    );
}

#[test]
fn every_three_options_make_a_right_filesystem_with_every_block_size() {
    check_all(&rows());
}

/// Without quotas, which not every kernel writes to.
#[test]
fn every_three_options_but_quotas_stay_right_when_ten_thousand_files_come_and_go() {
    let rows = rows().into_iter().map(|mut row| {
        for (on, set) in row.iter_mut().zip(FACTORS) {
            let mut options = Options::new(0);
            set(&mut options, true);
            *on &= !(options.quota || options.project || options.read_only);
        }
        row
    });
    let rows: BTreeSet<_> = rows.collect();
    check_all(&rows.into_iter().collect::<Vec<_>>());
}

/// All 4,096, but for those that make the image of another one: an orphan file needs a journal, and
/// blocks are never reserved where groups hold their own descriptors. By what they ask of a kernel
/// that is to write to them.
fn all_combinations() -> BTreeMap<&'static str, Vec<[bool; 12]>> {
    let mut all: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for bits in 0..1 << 12 {
        let row: [bool; 12] = std::array::from_fn(|at| bits >> at & 1 == 1);
        let mut options = Options::new(0);
        for (set, on) in FACTORS.iter().zip(row) {
            set(&mut options, on);
        }
        let no_effect = options.orphan_file && options.journal == Journal::None
            || options.meta_bg && options.reserved_gdt_blocks == Some(0);
        if !no_effect {
            let needs = match (options.read_only, options.quota, options.project) {
                (true, _, _) => "never written",
                (_, false, false) => "no quotas",
                (_, true, false) => "quotas",
                (_, false, true) => "projects",
                (_, true, true) => "quotas and projects",
            };
            all.entry(needs).or_default().push(row);
        }
    }
    all
}

#[test]
fn every_combination_of_options_is_checked_once() {
    let counts = all_combinations()
        .into_iter()
        .map(|(needs, rows)| (needs, rows.len()));
    let expected = [
        ("never written", 3 * 3 * 128),
        ("no quotas", 3 * 3 * 32),
        ("projects", 3 * 3 * 32),
        ("quotas", 3 * 3 * 32),
        ("quotas and projects", 3 * 3 * 32),
    ];
    assert_eq!(counts.collect::<Vec<_>>(), expected);
}

#[test]
#[ignore = "takes several minutes"]
fn all_combinations_that_are_never_written_make_a_right_filesystem() {
    check_all(&all_combinations()["never written"]);
}

#[test]
#[ignore = "takes several minutes"]
fn all_combinations_without_quotas_stay_right_when_ten_thousand_files_come_and_go() {
    check_all(&all_combinations()["no quotas"]);
}

#[test]
#[ignore = "takes several minutes"]
fn all_combinations_with_quotas_stay_right_when_ten_thousand_files_come_and_go() {
    check_all(&all_combinations()["quotas"]);
}

#[test]
#[ignore = "takes several minutes"]
fn all_combinations_with_projects_stay_right_when_ten_thousand_files_come_and_go() {
    check_all(&all_combinations()["projects"]);
}

#[test]
#[ignore = "takes several minutes"]
fn all_combinations_with_quotas_and_projects_stay_right_when_ten_thousand_files_come_and_go() {
    check_all(&all_combinations()["quotas and projects"]);
}
