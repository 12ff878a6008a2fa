//! Files that were deleted while open when an image was cut off: recover frees them as e2fsck does.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use common::options::add_large_values;
use common::{Image, copy, e2fsck, open};
use ext4_writer::{BlockSize, Info, Metadata, Options, grow, recover};
use rustix::fs::XattrFlags;
use testkit::{Difference, Mount, walk};

fn info(path: &Path) -> Info {
    Info::read(File::open(path).unwrap()).unwrap()
}

/// Recovers a copy of an image that was cut off and lets `oracle` do the same with another, and
/// fails unless both then have as much free, and the same tree, and ours has nothing for e2fsck to
/// say.
fn assert_recovers_as(cut: &Path, oracle: impl FnOnce(&Path) -> String) -> PathBuf {
    let (ours, theirs) = (copy(cut, "ours"), copy(cut, "theirs"));
    let recovered = recover(open(&ours)).unwrap();
    assert!(recovered.clean);
    let said = oracle(&theirs);
    let expected = info(&theirs);
    assert_eq!(recovered.free_blocks, expected.free_blocks, "{said}");
    assert_eq!(recovered.free_inodes, expected.free_inodes, "{said}");
    assert!(
        recovered
            .features
            .names()
            .all(|name| name != "orphan_present")
    );
    let (code, said) = e2fsck(&["-fn"], &ours);
    assert_eq!(code, 0, "{said}");
    let of = |path: &Path| {
        let mut walk = walk(Mount::ext4(path, false).path()).unwrap();
        // The kernel says of a file that it truncates that it was changed now.
        walk.get_mut(&b"pieces"[..])
            .into_iter()
            .for_each(|entry| entry.mtime = (0, 0));
        walk
    };
    Difference::between(&of(&ours), &of(&theirs)).assert_none();
    ours
}

/// A file in so many pieces that its extents need a node of their own.
fn write_pieces(path: &Path) -> File {
    let file = File::create(path).unwrap();
    for piece in 0..600 {
        file.write_all_at(&[piece as u8; 4096], piece * 3 * 4096)
            .unwrap();
    }
    file
}

#[test]
fn files_deleted_while_open_are_freed_as_e2fsck_frees_them() {
    if !testkit::kernel_mounts() || testkit::oracle("e2fsck").is_none() {
        return;
    }
    for (block_size, orphan_file) in [
        (BlockSize::B4096, true),
        (BlockSize::B4096, false),
        (BlockSize::B1024, true),
    ] {
        let options = Options::new(64 << 20)
            .block_size(block_size)
            .orphan_file(orphan_file);
        let image = Image::new(options, |image| {
            let root = image.root();
            for name in [&b"one"[..], b"two", b"three"] {
                let metadata =
                    Metadata::new(0o644).xattrs(vec![(b"user.shared".to_vec(), vec![5; 600])]);
                image
                    .add_file(root, name, metadata, &[7; 50_000][..], None)
                    .unwrap();
            }
        });
        let mount = Mount::ext4(&image.path, true);
        let at = |name: &str| mount.path().join(name);
        let mut open_files = vec![write_pieces(&at("pieces"))];
        fs::write(at("alone"), [1; 10_000]).unwrap();
        rustix::fs::setxattr(at("alone"), "user.own", &[9; 700], XattrFlags::empty()).unwrap();
        fs::create_dir(at("dir")).unwrap();
        fs::write(at("kept"), "kept").unwrap();
        for name in ["one", "two", "alone"] {
            open_files.push(File::open(at(name)).unwrap());
        }
        open_files.push(File::open(at("dir")).unwrap());
        for i in 0..300 {
            let mut file = File::create_new(at(&format!("{i}"))).unwrap();
            file.write_all(&vec![i as u8; i * 40]).unwrap();
            open_files.push(file);
            fs::remove_file(at(&format!("{i}"))).unwrap();
        }
        for name in ["pieces", "one", "two", "alone"] {
            fs::remove_file(at(name)).unwrap();
        }
        fs::remove_dir(at("dir")).unwrap();
        // Only Linux mounts it.
        #[cfg(target_os = "linux")]
        rustix::fs::syncfs(File::open(mount.path()).unwrap()).unwrap();
        let cut = copy(&image.path, "cut");
        let ours = assert_recovers_as(&cut, |theirs| {
            let (code, said) = e2fsck(&["-p"], theirs);
            assert!(code <= 1, "{said}");
            said
        });
        assert!(info(&ours).free_inodes > info(&cut).free_inodes.saturating_sub(400));
        // grow recovers first.
        let grown = copy(&cut, "grown");
        grow(open(&grown), 100 << 20).unwrap();
        let (code, said) = e2fsck(&["-fn"], &grown);
        assert_eq!(code, 0, "{said}");
        drop(open_files);
    }
}

#[test]
fn a_truncation_that_was_interrupted_is_completed() {
    let Some(mut debugfs) = testkit::oracle("debugfs") else {
        return;
    };
    if !testkit::kernel_mounts() {
        return;
    }
    for size in [0, 5, 4096, 9000, 3 * 4096 * 200 + 17, 3 * 4096 * 598] {
        let image = Image::new(Options::new(64 << 20), |_| ());
        let mount = Mount::ext4(&image.path, true);
        drop(write_pieces(&mount.path().join("pieces")));
        let ino = fs::metadata(mount.path().join("pieces")).unwrap().ino();
        drop(mount);
        let commands = format!("sif <{ino}> size {size}\nssv last_orphan {ino}\n");
        let folder = image.path.parent().unwrap();
        fs::write(folder.join("commands"), commands).unwrap();
        let output = debugfs
            .args(["-w", "-f"])
            .arg(folder.join("commands"))
            .arg(&image.path)
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        debugfs = testkit::oracle("debugfs").unwrap();

        // e2fsck 1.47.0 leaves empty nodes in such a tree, and miscounts its blocks then.
        let ours = assert_recovers_as(&image.path, |theirs| {
            drop(Mount::ext4(theirs, true));
            String::new()
        });
        // What is after the end is zeros when the file grows again.
        let mount = Mount::ext4(&ours, true);
        let mut file = open(&mount.path().join("pieces"));
        assert_eq!(file.metadata().unwrap().len(), size);
        file.set_len(size + 10_000).unwrap();
        file.seek(SeekFrom::Start(size)).unwrap();
        let mut behind = Vec::new();
        file.read_to_end(&mut behind).unwrap();
        assert!(behind.iter().all(|&byte| byte == 0), "{size}");
        drop((file, mount));
        let (code, said) = e2fsck(&["-fn"], &ours);
        assert_eq!(code, 0, "{said}");
    }
}

/// Makes an empty file or directory one whose blocks are mapped one by one, as in ext3.
fn map_by_blocks(path: &Path) {
    let status = Command::new("chattr").arg("-e").arg(path).status().unwrap();
    assert!(status.success());
}

/// Where a file has blocks that its inode points to, and blocks after one and two indirect ones;
/// with small blocks, which make for less of a hole to read, after three too. Some are in a row.
fn mapped_blocks(block_size: u64) -> Vec<u64> {
    let pointers = block_size / 4;
    let (two, three) = (12 + pointers, 12 + pointers + pointers * pointers);
    let mut ranges = vec![
        0..3,
        11..20,
        two - 1..two + 1,
        two + 3 * pointers - 2..two + 3 * pointers + 2,
    ];
    if block_size == 1024 {
        ranges.push(three - 1..three + 2);
        ranges.push(three + 2 * pointers..three + 2 * pointers + 1);
    }
    ranges.into_iter().flatten().collect()
}

fn write_mapped(path: &Path, block_size: u64) -> File {
    let file = File::create(path).unwrap();
    map_by_blocks(path);
    for block in mapped_blocks(block_size) {
        let data = vec![block as u8 | 1; block_size as usize];
        file.write_all_at(&data, block * block_size).unwrap();
    }
    file
}

#[test]
fn deleted_files_mapped_block_by_block_are_freed_as_e2fsck_frees_them() {
    if !testkit::kernel_mounts() || testkit::oracle("e2fsck").is_none() {
        return;
    }
    for block_size in [BlockSize::B1024, BlockSize::B2048, BlockSize::B4096] {
        let options = Options::new(64 << 20).block_size(block_size);
        let image = Image::new(options, |_| ());
        let mount = Mount::ext4(&image.path, true);
        let at = |name: &str| mount.path().join(name);
        let mut open_files = vec![write_mapped(&at("pieces"), block_size.bytes().into())];
        drop(write_mapped(&at("kept"), block_size.bytes().into()));
        fs::create_dir(at("dir")).unwrap();
        map_by_blocks(&at("dir"));
        for i in 0..300 {
            fs::write(at(&format!("dir/{i} {}", "n".repeat(100))), "").unwrap();
        }
        open_files.push(File::open(at("dir")).unwrap());
        fs::remove_dir_all(at("dir")).unwrap();
        fs::write(at("none"), "").unwrap();
        map_by_blocks(&at("none"));
        open_files.push(File::open(at("none")).unwrap());
        fs::write(at("with extents"), [1; 10_000]).unwrap();
        open_files.push(File::open(at("with extents")).unwrap());
        for name in ["pieces", "none", "with extents"] {
            fs::remove_file(at(name)).unwrap();
        }
        // Only Linux mounts it.
        #[cfg(target_os = "linux")]
        rustix::fs::syncfs(File::open(mount.path()).unwrap()).unwrap();
        let cut = copy(&image.path, "cut");
        let ours = assert_recovers_as(&cut, |theirs| {
            let (code, said) = e2fsck(&["-p"], theirs);
            assert!(code <= 1, "{said}");
            said
        });
        grow(open(&ours), 100 << 20).unwrap();
        let (code, said) = e2fsck(&["-fn"], &ours);
        assert_eq!(code, 0, "{said}");
        drop(open_files);
    }
}

#[test]
fn a_truncation_of_a_file_mapped_block_by_block_is_completed_as_the_kernel_does_it() {
    if !testkit::kernel_mounts() || testkit::oracle("debugfs").is_none() {
        return;
    }
    for block_size in [BlockSize::B1024, BlockSize::B4096] {
        let options = Options::new(64 << 20).block_size(block_size);
        let image = Image::new(options, |_| ());
        let mount = Mount::ext4(&image.path, true);
        let block_size = u64::from(block_size.bytes());
        drop(write_mapped(&mount.path().join("pieces"), block_size));
        let ino = fs::metadata(mount.path().join("pieces")).unwrap().ino();
        drop(mount);
        let mapped = mapped_blocks(block_size);
        let ends = (0..mapped.len())
            .filter(|at| [0, 2, 3, 4, 11, 12, 13, 15, 16, 18, 21].contains(at))
            .map(|at| mapped[at] * block_size + [0, 7][at % 2])
            .chain([500 * block_size - 1]);
        for size in ends {
            let cut = copy(&image.path, "cut");
            make_orphans(&cut, &[], (ino as u32, size)).unwrap();
            let ours = assert_recovers_as(&cut, |theirs| {
                drop(Mount::ext4(theirs, true));
                String::new()
            });
            // What is after the end is zeros when the file grows again.
            let mount = Mount::ext4(&ours, true);
            let file = open(&mount.path().join("pieces"));
            assert_eq!(file.metadata().unwrap().len(), size);
            file.set_len(size + 10_000).unwrap();
            let mut behind = [1; 10_000];
            file.read_exact_at(&mut behind, size).unwrap();
            assert!(behind.iter().all(|&byte| byte == 0), "{size}");
        }
    }
}

/// Sets an attribute to as many bytes, which begin with `seed`.
fn set_value(path: &Path, name: &str, len: usize, seed: u8) {
    let value: Vec<u8> = (0..len).map(|i| seed.wrapping_add((i / 7) as u8)).collect();
    rustix::fs::setxattr(path, name, &value, XattrFlags::empty()).unwrap();
}

#[test]
fn large_values_of_deleted_files_are_freed_with_their_last_reference() {
    if !testkit::kernel_mounts() || testkit::oracle("e2fsck").is_none() {
        return;
    }
    for block_size in [BlockSize::B4096, BlockSize::B1024] {
        let options = Options::new(64 << 20).block_size(block_size).ea_inode(true);
        let image = Image::new(options, add_large_values);
        let mount = Mount::ext4(&image.path, true);
        let at = |name: &str| mount.path().join(name);
        let mut names = vec!["values/one", "values/three", "values/five"];
        // Values and blocks of entries are shared with files that stay, and with files that go.
        for name in ["alone", "gone", "gone too", "stays"] {
            fs::write(at(name), [1; 10_000]).unwrap();
            let seed = name.len() as u8 % 3;
            set_value(&at(name), "user.large", 20_000, seed);
            set_value(&at(name), "user.other", 5_000, seed);
            set_value(&at(name), "user.small", 300, 7);
            set_value(&at(name), "user.in-inode", 10, 7);
            names.push(name);
        }
        names.pop();
        let open_files: Vec<_> = names
            .iter()
            .map(|name| File::open(at(name)).unwrap())
            .collect();
        for name in names {
            fs::remove_file(at(name)).unwrap();
        }
        // Only Linux mounts it.
        #[cfg(target_os = "linux")]
        rustix::fs::syncfs(File::open(mount.path()).unwrap()).unwrap();
        let cut = copy(&image.path, "cut");
        drop((open_files, mount));
        let ours = assert_recovers_as(&cut, |theirs| {
            drop(Mount::ext4(theirs, true));
            String::new()
        });
        grow(open(&ours), 100 << 20).unwrap();
        let (code, said) = e2fsck(&["-fn"], &ours);
        assert_eq!(code, 0, "{said}");
    }
}

/// Makes orphans of files in the root with debugfs: some deleted, one truncated. The kernel of this
/// host may not write to filesystems with quotas.
fn make_orphans(image: &Path, deleted: &[(&str, u32)], truncated: (u32, u64)) -> Option<()> {
    let (ino, size) = truncated;
    let mut commands = format!("sif <{ino}> size {size}\nsif <{ino}> dtime 0\n");
    let mut next = ino;
    for (name, ino) in deleted {
        commands +=
            &format!("unlink /{name}\nsif <{ino}> links_count 0\nsif <{ino}> dtime {next}\n");
        next = *ino;
    }
    commands += &format!("ssv last_orphan {next}\n");
    let file = image.with_file_name("commands");
    fs::write(&file, commands).unwrap();
    let output = testkit::oracle("debugfs")?
        .args(["-w", "-f"])
        .arg(file)
        .arg(image)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    Some(())
}

#[test]
fn space_of_deleted_files_is_subtracted_from_the_quotas_of_their_owners() {
    if !testkit::kernel_mounts() || testkit::oracle("e2fsck").is_none() {
        return;
    }
    for (block_size, ea_inode, project) in [
        (BlockSize::B4096, false, true),
        (BlockSize::B1024, false, false),
        (BlockSize::B4096, true, true),
        (BlockSize::B1024, true, false),
    ] {
        let options = Options::new(64 << 20)
            .block_size(block_size)
            .ea_inode(ea_inode)
            .project(project)
            .quota(true);
        let mut inodes = Vec::new();
        let image = Image::new(options, |image| {
            // Enough owners for quota files of several blocks.
            for (name, uid) in [("alone", 0), ("shared", 5), ("kept", 5), ("cut", 70_000)]
                .map(|(name, uid)| (name.to_owned(), uid))
                .into_iter()
                .chain((0..40).map(|i| (format!("{i}"), 1000 + i * 300)))
            {
                // e2fsck 1.47.0 takes the attribute block from files that it truncates.
                let len = match (ea_inode, &name[..]) {
                    (true, _) => 20_000,
                    (false, "cut") => 20,
                    (false, _) => 400,
                };
                let metadata = Metadata::new(0o644).uid(uid).gid(uid / 2).xattrs(
                    ["user.a", "user.b"]
                        .map(|n| (n.as_bytes().to_vec(), vec![u8::from(name == "alone"); len]))
                        .into(),
                );
                let data = vec![3; 50_000];
                let root = image.root();
                let node = image
                    .add_file(root, name.as_bytes(), metadata, &data[..], None)
                    .unwrap();
                if project {
                    image.set_project(node, uid + 1).unwrap();
                }
                inodes.push((name, node.ino()));
            }
        });
        image.assert_clean();
        let ino = |wanted: &str| inodes.iter().find(|(name, _)| name == wanted).unwrap().1;
        let deleted = ["alone", "shared", "7", "39"].map(|name| (name, ino(name)));
        if make_orphans(&image.path, &deleted, (ino("cut"), 5000)).is_none() {
            return;
        }
        if ea_inode {
            // e2fsck 1.47.0 does not free values: nothing is left to say is what counts.
            let recovered = recover(open(&image.path)).unwrap();
            assert!(recovered.clean);
        } else {
            assert_recovers_as(&image.path, |theirs| {
                let (code, said) = e2fsck(&["-p"], theirs);
                assert!(code <= 1, "{said}");
                said
            });
            recover(open(&image.path)).unwrap();
        }
        let (code, said) = e2fsck(&["-fn"], &image.path);
        assert_eq!(code, 0, "{said}");
        let info = info(&image.path);
        assert!(info.clean);
        // Ten blocks and more of each that was deleted, and what was cut off.
        let least = (4 * 50_000 + 45_000) / u64::from(info.block_size) - 5;
        assert!(info.free_blocks >= image.summary.free_blocks + least);
    }
}
