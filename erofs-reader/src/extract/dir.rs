//! The tree as files in a directory.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, XattrFlags};

use super::Extracted;
use crate::error::Error;
use crate::extent::Source;
use crate::image::Image;
use crate::inode::{FileType, Inode, Nid};
use crate::num::{narrow, wide};
use crate::read_at::ReadAt;

/// What to restore in a directory.
#[derive(Clone, Debug)]
pub struct DirOptions {
    /// Owners and groups, which takes root.
    pub owners: bool,
    /// Devices, which take root. Skipped if not wanted.
    pub devices: bool,
    /// Xattrs, of which `trusted.*` and `security.*` take root.
    pub xattrs: bool,
    /// How many bytes of file contents may be written, holes included; any number if `None`.
    pub max_bytes: Option<u64>,
}

impl Default for DirOptions {
    /// Everything, as root extracts.
    fn default() -> Self {
        Self {
            owners: true,
            devices: true,
            xattrs: true,
            max_bytes: None,
        }
    }
}

impl DirOptions {
    /// What a user without privileges can restore: no owners, no devices, no xattrs.
    pub fn unprivileged() -> Self {
        Self {
            owners: false,
            devices: false,
            xattrs: false,
            max_bytes: None,
        }
    }
}

/// Writes the tree of `image` into the directory `to`, which must exist and be empty.
///
/// Modes, times to the nanosecond, hard links and holes are restored, and what `options` say. Nothing outside `to` is
/// touched, whatever the image holds: every directory on the way was made here, and no existing name is ever reused.
/// Devices, fifos and sockets are skipped where the system cannot make them.
///
/// # Errors
///
/// Where the image is damaged; [`Error::Output`] where a file cannot be written, for instance because its path is longer
/// than the system's limit; [`Error::Limit`]. What was written before stays.
pub fn extract_to_dir<R: ReadAt>(
    image: &Image<R>,
    to: &Path,
    options: &DirOptions,
) -> Result<Extracted, Error> {
    let mut done = Extracted::default();
    let mut written: HashMap<Nid, PathBuf> = HashMap::new();
    // Directories get their attributes last: a read-only one could not be filled, and filling changes its time.
    let mut dirs = Vec::new();
    let mut entries = to.read_dir().map_err(|source| at(&[], source))?;
    if entries.next().is_some() {
        return Err(at(&[], io::ErrorKind::DirectoryNotEmpty.into()));
    }
    for step in image.walk() {
        let (path, inode) = step?;
        let target = to.join(OsStr::from_bytes(&path));
        let output = |source| at(&path, source);
        if let Some(first) = written.get(&inode.nid()) {
            fs::hard_link(first, &target).map_err(output)?;
            done.entries = done.entries.saturating_add(1);
            continue;
        }
        match inode.file_type() {
            FileType::Directory => {
                if !path.is_empty() {
                    let mut builder = fs::DirBuilder::new();
                    builder.mode(0o700).create(&target).map_err(output)?;
                }
                dirs.push((path, target, inode));
                done.entries = done.entries.saturating_add(1);
                continue;
            }
            FileType::Regular => {
                done.charge(inode.size(), options.max_bytes)?;
                write_file(image, &inode, &path, &target)?;
            }
            FileType::Symlink => {
                let link = image.read_link(&inode)?;
                std::os::unix::fs::symlink(OsStr::from_bytes(&link), &target).map_err(output)?;
            }
            FileType::CharDevice | FileType::BlockDevice if !options.devices => {
                done.skipped.push(path);
                continue;
            }
            FileType::CharDevice | FileType::BlockDevice | FileType::Fifo | FileType::Socket => {
                match make_node(&target, &inode) {
                    Ok(()) => {}
                    Err(e) if e.kind() == io::ErrorKind::Unsupported => {
                        done.skipped.push(path);
                        continue;
                    }
                    Err(e) => return Err(output(e)),
                }
            }
        }
        restore(image, &inode, &path, &target, options)?;
        done.entries = done.entries.saturating_add(1);
        if inode.nlink() != 1 {
            written.insert(inode.nid(), target);
        }
    }
    for (path, target, inode) in dirs.iter().rev() {
        restore(image, inode, path, target, options)?;
    }
    Ok(done)
}

fn at(path: &[u8], source: io::Error) -> Error {
    Error::Output {
        path: path.to_vec(),
        source,
    }
}

/// Makes a device, fifo or socket.
#[cfg(not(target_vendor = "apple"))]
fn make_node(target: &Path, inode: &Inode) -> io::Result<()> {
    use rustix::fs::{FileType as Kind, Mode};
    let kind = match inode.file_type() {
        FileType::CharDevice => Kind::CharacterDevice,
        FileType::BlockDevice => Kind::BlockDevice,
        FileType::Fifo => Kind::Fifo,
        FileType::Socket => Kind::Socket,
        _ => return Err(io::ErrorKind::InvalidInput.into()),
    };
    let (major, minor) = inode.rdev();
    let device = rustix::fs::makedev(major, minor);
    rustix::fs::mknodat(CWD, target, kind, Mode::from_raw_mode(0o600), device)?;
    Ok(())
}

/// macOS has no `mknodat`.
#[cfg(target_vendor = "apple")]
fn make_node(_: &Path, _: &Inode) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

fn write_file<R: ReadAt>(
    image: &Image<R>,
    inode: &Inode,
    path: &[u8],
    target: &Path,
) -> Result<(), Error> {
    let output = |source| at(path, source);
    let file: File = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(target)
        .map_err(output)?;
    file.set_len(inode.size()).map_err(output)?;
    let mut data = image.file(inode)?;
    let mut buffer = vec![0; narrow(inode.size().min(1 << 20))];
    for extent in image.extents(inode)? {
        if extent.source == Source::Hole {
            continue;
        }
        let mut offset = extent.logical;
        while offset < extent.end() {
            let n = data.read_at(&mut buffer, offset)?;
            if n == 0 {
                break;
            }
            let bytes = buffer.get(..n).unwrap_or_default();
            file.write_all_at(bytes, offset).map_err(output)?;
            offset = offset.saturating_add(wide(n));
        }
    }
    Ok(())
}

/// Restores everything but the contents, in the order that keeps what came before: a new owner clears set-user-ID bits
/// and capabilities, and everything changes the time.
fn restore<R: ReadAt>(
    image: &Image<R>,
    inode: &Inode,
    path: &[u8],
    target: &Path,
    options: &DirOptions,
) -> Result<(), Error> {
    let output = |source| at(path, source);
    if options.owners {
        std::os::unix::fs::lchown(target, Some(inode.uid()), Some(inode.gid())).map_err(output)?;
    }
    if options.xattrs {
        for (name, value) in image.xattrs(inode)? {
            rustix::fs::lsetxattr(target, &name[..], &value, XattrFlags::empty())
                .map_err(|e| output(e.into()))?;
        }
    }
    if !inode.is_symlink() {
        fs::set_permissions(target, Permissions::from_mode(inode.mode().into())).map_err(output)?;
    }
    let (seconds, nanoseconds) = inode.mtime();
    let time = Timespec {
        tv_sec: seconds,
        tv_nsec: nanoseconds.into(),
    };
    let times = Timestamps {
        last_access: time,
        last_modification: time,
    };
    rustix::fs::utimensat(CWD, target, &times, AtFlags::SYMLINK_NOFOLLOW)
        .map_err(|e| output(e.into()))
}
