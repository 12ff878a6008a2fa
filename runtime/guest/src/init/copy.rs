//! Copies a directory tree with owners, modes, times, extended attributes and hard links, as `cp
//! -a` does, so that a file system mounted on the directory has its contents.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Mode, Timespec, Timestamps, XattrFlags};
use rustix::io::Errno;
use rustix::process::{Gid, Uid};

/// The deepest nesting that is copied.
const MAX_DEPTH: usize = 128;

/// The longest value of an extended attribute (`XATTR_SIZE_MAX`) and of a list of names
/// (`XATTR_LIST_MAX`).
const XATTR_MAX: usize = 64 * 1024;

/// Limits of a copy.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Bytes of all files.
    pub(crate) bytes: u64,
    /// Files, directories and other entries.
    pub(crate) entries: u64,
}

impl Limits {
    /// Subtracts the tree at `folder` from the limits. Returns `false` if it exceeds them.
    pub(crate) fn hold(&mut self, folder: &Path) -> io::Result<bool> {
        self.hold_to_depth(folder, 0)
    }

    fn hold_to_depth(&mut self, folder: &Path, depth: usize) -> io::Result<bool> {
        if depth > MAX_DEPTH {
            return Ok(false);
        }
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            let metadata = fs::symlink_metadata(&path)?;
            let bytes = if metadata.is_file() {
                metadata.len()
            } else {
                0
            };
            let (Some(bytes), Some(entries)) =
                (self.bytes.checked_sub(bytes), self.entries.checked_sub(1))
            else {
                return Ok(false);
            };
            *self = Limits { bytes, entries };
            if metadata.is_dir() && !self.hold_to_depth(&path, depth + 1)? {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// Copies the contents and attributes of the directory `from` to the existing directory `to`.
pub(crate) fn tree(from: &Path, to: &Path) -> io::Result<()> {
    Copier::default().directory(from, to, 0)
}

#[derive(Debug, Default)]
struct Copier {
    /// The first copy of each file with several names, by device and inode.
    linked: HashMap<(u64, u64), PathBuf>,
}

impl Copier {
    fn directory(&mut self, from: &Path, to: &Path, depth: usize) -> io::Result<()> {
        if depth > MAX_DEPTH {
            return Err(Errno::NAMETOOLONG.into());
        }
        for entry in fs::read_dir(from)? {
            let entry = entry?;
            self.entry(&entry.path(), &to.join(entry.file_name()), depth + 1)?;
        }
        attributes(from, to, &fs::metadata(from)?)
    }

    fn entry(&mut self, from: &Path, to: &Path, depth: usize) -> io::Result<()> {
        let metadata = fs::symlink_metadata(from)?;
        let kind = metadata.file_type();
        if kind.is_dir() {
            fs::create_dir(to)?;
            return self.directory(from, to, depth);
        }
        if metadata.nlink() > 1 {
            let inode = (metadata.dev(), metadata.ino());
            if let Some(first) = self.linked.get(&inode) {
                return fs::hard_link(first, to);
            }
            self.linked.insert(inode, to.to_owned());
        }
        if kind.is_file() {
            contents(from, to)?;
        } else if kind.is_symlink() {
            std::os::unix::fs::symlink(fs::read_link(from)?, to)?;
        } else {
            let kind = if kind.is_fifo() {
                FileType::Fifo
            } else if kind.is_socket() {
                FileType::Socket
            } else if kind.is_block_device() {
                FileType::BlockDevice
            } else {
                FileType::CharacterDevice
            };
            rustix::fs::mknodat(CWD, to, kind, Mode::from_raw_mode(0o600), metadata.rdev())?;
        }
        attributes(from, to, &metadata)
    }
}

fn contents(from: &Path, to: &Path) -> io::Result<()> {
    // This is a regular file; no other process runs that could replace it.
    let mut source = fs::File::open(from)?;
    let mut copy = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(to)?;
    io::copy(&mut source, &mut copy).map(drop)
}

/// Copies everything except the contents from `from` to `to`. The owner comes first, because
/// changing it drops set-id bits and capabilities.
pub(super) fn attributes(from: &Path, to: &Path, metadata: &fs::Metadata) -> io::Result<()> {
    let no_follow = AtFlags::SYMLINK_NOFOLLOW;
    let (uid, gid) = (Uid::from_raw(metadata.uid()), Gid::from_raw(metadata.gid()));
    // A root may be given as a path in /proc/self/fd, which is a link that must be followed.
    let is_link = metadata.file_type().is_symlink();
    let flags = if is_link { no_follow } else { AtFlags::empty() };
    rustix::fs::chownat(CWD, to, Some(uid), Some(gid), flags)?;
    if !is_link {
        extended_attributes(from, to)?;
        rustix::fs::chmod(to, Mode::from_raw_mode(metadata.mode() & 0o7777))?;
    }
    let time = |seconds, nanoseconds| Timespec {
        tv_sec: seconds,
        tv_nsec: nanoseconds,
    };
    let times = Timestamps {
        last_access: time(metadata.atime(), metadata.atime_nsec()),
        last_modification: time(metadata.mtime(), metadata.mtime_nsec()),
    };
    rustix::fs::utimensat(CWD, to, &times, flags)?;
    Ok(())
}

fn extended_attributes(from: &Path, to: &Path) -> io::Result<()> {
    let mut names = vec![0; XATTR_MAX];
    let length = match rustix::fs::listxattr(from, &mut names) {
        Ok(length) => length,
        Err(Errno::OPNOTSUPP) => return Ok(()),
        Err(errno) => return Err(errno.into()),
    };
    names.truncate(length);
    let mut value = vec![0; XATTR_MAX];
    for name in names
        .split(|&byte| byte == 0)
        .filter(|name| !name.is_empty())
    {
        let name = std::ffi::OsStr::from_bytes(name);
        let length = rustix::fs::getxattr(from, name, &mut value)?;
        let value = value.get(..length).unwrap_or_default();
        match rustix::fs::setxattr(to, name, value, XattrFlags::empty()) {
            // A kernel may support a namespace for one file system and not for another.
            Ok(()) | Err(Errno::OPNOTSUPP) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_copy_has_modes_times_links_and_hard_links_of_the_original() {
        let folder = tempfile::tempdir().unwrap();
        let (from, to) = (folder.path().join("from"), folder.path().join("to"));
        fs::create_dir_all(from.join("sub/deep")).unwrap();
        fs::create_dir(&to).unwrap();
        fs::write(from.join("sub/file"), "contents").unwrap();
        fs::set_permissions(from.join("sub/file"), fs::Permissions::from_mode(0o4711)).unwrap();
        fs::set_permissions(from.join("sub"), fs::Permissions::from_mode(0o1770)).unwrap();
        fs::hard_link(from.join("sub/file"), from.join("sub/deep/same")).unwrap();
        std::os::unix::fs::symlink("nowhere", from.join("link")).unwrap();
        let fifo = from.join("fifo");
        rustix::fs::mknodat(CWD, &fifo, FileType::Fifo, Mode::from_raw_mode(0o622), 0).unwrap();
        fs::set_permissions(&fifo, fs::Permissions::from_mode(0o622)).unwrap();

        tree(&from, &to).unwrap();
        for path in ["", "sub", "sub/file", "sub/deep", "link", "fifo"] {
            let [a, b] = [&from, &to].map(|root| fs::symlink_metadata(root.join(path)).unwrap());
            assert_eq!(
                (a.mode(), a.uid(), a.nlink(), a.mtime(), a.mtime_nsec()),
                (b.mode(), b.uid(), b.nlink(), b.mtime(), b.mtime_nsec()),
                "{path}"
            );
        }
        assert_eq!(fs::read(to.join("sub/deep/same")).unwrap(), b"contents");
        assert_eq!(
            fs::read_link(to.join("link")).unwrap(),
            Path::new("nowhere")
        );
        let inode = |path| fs::metadata(to.join(path)).unwrap().ino();
        assert_eq!(inode("sub/file"), inode("sub/deep/same"));
    }

    #[test]
    fn a_tree_beyond_the_limits_is_not_held() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("a"), [0; 100]).unwrap();
        fs::write(folder.path().join("b"), [0; 100]).unwrap();
        let held = |bytes, entries| Limits { bytes, entries }.hold(folder.path()).unwrap();
        assert!(held(200, 2));
        assert!(!held(199, 2));
        assert!(!held(200, 1));
        let mut deep = folder.path().to_owned();
        for _ in 0..MAX_DEPTH + 1 {
            deep.push("d");
            fs::create_dir(&deep).unwrap();
        }
        assert!(!held(u64::MAX, u64::MAX));
    }
}
