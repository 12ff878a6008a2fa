//! Comparing our reading of an image with the kernel's.

use std::fs::{self, File};
use std::path::Path;

use erofs_reader::{Buffered, Detail, Image, Problem};
use testkit::{Difference, Mount, walk};

use super::{mkfs, nasty_tar, our_walk};

/// Compares our reading of `image`, which is of the nasty tree, with the kernel's.
pub(crate) fn assert_reads_as_the_kernel(image: &Path, devices: &[&Path]) {
    let names = names_that_read_as_the_kernel_says(image, devices);
    assert!(names > 700, "{names} names are no nasty tree");
}

/// Compares our reading of `image` with the kernel's, and returns how many names it has.
pub(crate) fn names_that_read_as_the_kernel_says(image: &Path, devices: &[&Path]) -> usize {
    let mount = Mount::erofs(image, devices);
    let theirs = walk(mount.path()).unwrap();
    let open = |path: &Path| Buffered::new(File::open(path).unwrap());
    let ours = if devices.is_empty() {
        Image::open(open(image)).unwrap()
    } else {
        Image::open_with_devices(open(image), devices.iter().map(|d| open(d)).collect()).unwrap()
    };
    Difference::between(&our_walk(&ours), &theirs).assert_none();
    // Nothing that mkfs.erofs makes is wrong, but that it counts the root again of an image that it
    // adds to.
    let mut findings = ours.check().findings;
    findings.retain(|finding| {
        let problem = &finding.problem;
        !matches!(problem, Problem::Corrupt(what)
            if matches!(what.detail(), Detail::InodeCount { stored, found } if *stored == found + 1))
    });
    let findings: Vec<_> = findings.iter().take(20).map(ToString::to_string).collect();
    assert!(findings.is_empty(), "{}", findings.join("\n"));
    theirs.len()
}

/// A folder with the nasty tree as a tar, and its image mounted to be the source of others.
pub(crate) struct Sources {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) tree: Mount,
}

impl Sources {
    pub(crate) fn new() -> Option<Self> {
        if !testkit::kernel_mounts() {
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        let tar = dir.path().join("nasty.tar");
        fs::write(&tar, nasty_tar()).unwrap();
        let image = mkfs(dir.path(), "tree.erofs", &["--tar=f"], &tar)?;
        Some(Self {
            tree: Mount::erofs(&image, &[]),
            dir,
        })
    }

    pub(crate) fn check(&self, options: &[&str]) {
        println!("mkfs.erofs {}", options.join(" "));
        let Some(image) = mkfs(self.dir.path(), "image.erofs", options, self.tree.path()) else {
            return;
        };
        assert_reads_as_the_kernel(&image, &[]);
    }
}
