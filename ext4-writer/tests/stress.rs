//! Filesystems that programs made to find faults have worked on for a while: e2fsck finds none.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::fs::File;
use std::path::Path;

use common::{Image, open};
use ext4_writer::{BlockSize, Info, Journal, Options, grow};
use testkit::Mount;

/// Names, links, attributes and preallocated files come and go (stress-ng), while pieces of files
/// are written in random order, synced and compared with what was written (fio). `None` where a
/// program is missing.
fn stress(root: &Path) -> Option<()> {
    let mut stress_ng = testkit::oracle("stress-ng")?;
    let mut fio = testkit::oracle("fio")?;
    let temp_path = root.join("stress");
    std::fs::create_dir(&temp_path).unwrap();
    let mut names = stress_ng
        .arg("--temp-path")
        .arg(&temp_path)
        .args(["--timeout", "4s", "--quiet", "--no-rand-seed"])
        .args([
            "--dentry", "1", "--dir", "1", "--rename", "1", "--link", "1",
        ])
        .args([
            "--symlink",
            "1",
            "--xattr",
            "1",
            "--chmod",
            "1",
            "--utime",
            "1",
        ])
        .args(["--fallocate", "1", "--fallocate-bytes", "8M"])
        .args(["--hdd", "1", "--hdd-bytes", "8M"])
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let files = fio
        .arg("--directory")
        .arg(root)
        .args(["--name=pieces", "--numjobs=2", "--size=12M", "--rw=randrw"])
        .args(["--bsrange=512-64k", "--fsync=64", "--fallocate=none"])
        .args([
            "--verify=crc32c",
            "--verify_fatal=1",
            "--output-format=terse",
        ])
        .args(["--randseed=1", "--unlink=0", "--verify_state_save=0"])
        .output()
        .unwrap();
    let names = names.wait().unwrap();
    assert!(files.status.success(), "{files:?}");
    assert!(names.success(), "{names}");
    Some(())
}

#[test]
fn a_filesystem_of_every_kind_is_clean_after_stress_and_after_it_grew_and_was_stressed_again() {
    if !testkit::kernel_mounts() {
        return;
    }
    for (block_size, every_feature) in [(BlockSize::B4096, false), (BlockSize::B1024, true)] {
        let options = Options::new(128 << 20)
            .block_size(block_size)
            .inline_data(every_feature)
            .ea_inode(every_feature)
            .meta_bg(every_feature)
            .large_dir(every_feature)
            .signed_hash(!every_feature)
            .journal(Journal::Size(4 << 20))
            .inode_ratio(4096);
        let image = Image::new(options, |_| ());
        let mount = Mount::ext4(&image.path, true);
        if stress(mount.path()).is_none() {
            return;
        }
        drop(mount);
        image.assert_clean();
        grow(open(&image.path), 400 << 20).unwrap();
        let mount = Mount::ext4(&image.path, true);
        for name in ["stress", "pieces.0.0", "pieces.1.0"] {
            let path = mount.path().join(name);
            let removed = match path.is_dir() {
                true => std::fs::remove_dir_all(path),
                false => std::fs::remove_file(path),
            };
            removed.unwrap();
        }
        stress(mount.path());
        drop(mount);
        image.assert_clean();
        let info = Info::read(File::open(&image.path).unwrap()).unwrap();
        assert!(info.clean);
    }
}
