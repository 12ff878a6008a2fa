//! What the integration tests share.
#![allow(
    dead_code,
    unreachable_pub,
    reason = "every test file uses another part of it"
)]

use std::collections::HashMap;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use ext4_writer::{Builder, Device, Metadata, NodeId, Options, Summary, Timestamp};
use tempfile::TempDir;

/// An image in a temporary directory.
pub struct Image {
    pub path: PathBuf,
    pub summary: Summary,
    _dir: TempDir,
}

impl Image {
    /// Makes an image with the tree that `populate` adds.
    pub fn new(options: Options, populate: impl FnOnce(&mut Builder<File>)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("image.ext4");
        let file = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&path)
            .unwrap();
        file.set_len(options.size).unwrap();
        let mut builder = Builder::new(file, options).unwrap();
        populate(&mut builder);
        let (file, summary) = builder.finish().unwrap();
        file.sync_all().unwrap();
        Self {
            path,
            summary,
            _dir: dir,
        }
    }

    /// The bytes the image takes on the host.
    pub fn allocated(&self) -> u64 {
        File::open(&self.path).unwrap().sync_all().unwrap();
        fs::metadata(&self.path).unwrap().blocks() * 512
    }

    /// Fails unless e2fsck finds nothing to complain about.
    pub fn assert_clean(&self) {
        let Some(mut e2fsck) = testkit::oracle("e2fsck") else {
            return;
        };
        let output = e2fsck.arg("-fn").arg(&self.path).output().unwrap();
        assert!(
            output.status.success(),
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }
}

/// Adds the tree under `source`, its own attributes included, to the root of an image.
pub fn add_tree(image: &mut Builder<File>, source: &Path) {
    let root = image.root();
    image.set_metadata(root, metadata(source)).unwrap();
    let mut links = HashMap::new();
    let mut pending = vec![(source.to_owned(), root)];
    while let Some((dir, parent)) = pending.pop() {
        let mut children: Vec<_> = fs::read_dir(&dir)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        children.sort();
        for path in children {
            let name = path.file_name().unwrap().as_bytes();
            let stat = fs::symlink_metadata(&path).unwrap();
            if let Some(&first) = links.get(&stat.ino()) {
                image.link(parent, name, first).unwrap();
                continue;
            }
            let node = add_node(image, parent, &path);
            if stat.is_dir() {
                pending.push((path, node));
            } else {
                links.insert(stat.ino(), node);
            }
        }
    }
}

fn add_node(image: &mut Builder<File>, parent: NodeId, path: &Path) -> NodeId {
    let name = path.file_name().unwrap().as_bytes();
    let meta = metadata(path);
    let stat = fs::symlink_metadata(path).unwrap();
    let kind = stat.file_type();
    let (major, minor) = (
        rustix::fs::major(stat.rdev()),
        rustix::fs::minor(stat.rdev()),
    );
    if kind.is_dir() {
        image.add_dir(parent, name, meta)
    } else if kind.is_symlink() {
        let target = fs::read_link(path).unwrap();
        image.add_symlink(parent, name, meta, target.as_os_str().as_bytes())
    } else if kind.is_char_device() {
        image.add_device(parent, name, meta, Device::Char { major, minor })
    } else if kind.is_block_device() {
        image.add_device(parent, name, meta, Device::Block { major, minor })
    } else if kind.is_fifo() {
        image.add_fifo(parent, name, meta)
    } else if kind.is_socket() {
        image.add_socket(parent, name, meta)
    } else {
        let data = File::open(path).unwrap();
        image.add_file(parent, name, meta, data, Some(stat.len()))
    }
    .unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn metadata(path: &Path) -> Metadata {
    let stat = fs::symlink_metadata(path).unwrap();
    let mut names = vec![0; 1 << 16];
    let n = rustix::fs::llistxattr(path, &mut names[..]).unwrap();
    let xattrs = names[..n]
        .split(|&byte| byte == 0)
        .filter(|name| !name.is_empty())
        .map(|name| {
            let mut value = vec![0; 1 << 16];
            let n = rustix::fs::lgetxattr(path, name, &mut value[..]).unwrap();
            (name.to_vec(), value[..n].to_vec())
        })
        .collect();
    Metadata {
        mode: (stat.mode() & 0o7777) as u16,
        uid: stat.uid(),
        gid: stat.gid(),
        mtime: Timestamp {
            secs: stat.mtime(),
            nanos: stat.mtime_nsec() as u32,
        },
        xattrs,
    }
}
