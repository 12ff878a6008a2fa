//! The tree as files in a directory.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, XattrFlags};
use rustix::io::Errno;

use super::Extracted;
use super::workers::{self, Queue};
use crate::error::Error;
use crate::extent::Source;
use crate::image::Image;
use crate::inode::{FileType, Inode, Nid};
use crate::num::{clamp_len, narrow, wide};
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
/// Devices, fifos and sockets are skipped where the system cannot make them, and xattrs where the filesystem does not keep
/// any, or none of that name or size.
///
/// Files' contents are decoded and written by as many threads as the machine runs at once.
///
/// # Errors
///
/// Where the image is damaged; [`Error::Output`] where a file cannot be written, for instance because its path is longer
/// than the system's limit; [`Error::Limit`]. What was written before stays.
pub fn extract_to_dir<R: ReadAt + Sync>(
    image: &Image<R>,
    to: &Path,
    options: &DirOptions,
) -> Result<Extracted, Error> {
    let mut entries = to.read_dir().map_err(|source| at(&[], source))?;
    if entries.next().is_some() {
        return Err(at(&[], io::ErrorKind::DirectoryNotEmpty.into()));
    }
    let mut done = Extracted::default();
    let (dirs, refused) = workers::with(
        |file: Contents| {
            write_file(image, &file)?;
            restore(image, &file.inode, &file.path, &file.target, options)
        },
        |files| make_names(image, to, options, files, &mut done),
    )?;
    done.refused_xattrs = refused;
    for (path, target, inode) in dirs.iter().rev() {
        if let Some(refused) = restore(image, inode, path, target, options)? {
            done.refused_xattrs.push(refused);
        }
    }
    done.refused_xattrs.sort();
    Ok(done)
}

/// A file that was made, and waits for its contents and attributes.
struct Contents {
    file: File,
    inode: Inode,
    path: Vec<u8>,
    target: PathBuf,
}

type Directory = (Vec<u8>, PathBuf, Inode);

/// Makes every name of the tree, and sends files to `files` to be filled. Returns the directories, which get their
/// attributes last: a read-only one could not be filled, and filling changes its time.
fn make_names<R: ReadAt>(
    image: &Image<R>,
    to: &Path,
    options: &DirOptions,
    files: &Queue<'_, Contents, Refused>,
    done: &mut Extracted,
) -> Result<Vec<Directory>, Error> {
    let mut written: HashMap<Nid, PathBuf> = HashMap::new();
    let mut dirs = Vec::new();
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
                let file = OpenOptions::new()
                    .write(true)
                    .create_new(true)
                    .mode(0o600)
                    .open(&target)
                    .map_err(output)?;
                if inode.nlink() != 1 {
                    written.insert(inode.nid(), target.clone());
                }
                done.entries = done.entries.saturating_add(1);
                let contents = Contents {
                    file,
                    inode,
                    path,
                    target,
                };
                if !files.send(contents) {
                    break;
                }
                continue;
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
        files.keep(restore(image, &inode, &path, &target, options)?);
        done.entries = done.entries.saturating_add(1);
        if inode.nlink() != 1 {
            written.insert(inode.nid(), target);
        }
    }
    Ok(dirs)
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

fn write_file<R: ReadAt>(image: &Image<R>, to: &Contents) -> Result<(), Error> {
    let Contents { file, inode, .. } = to;
    let output = |source| at(&to.path, source);
    file.set_len(inode.size()).map_err(output)?;
    let mut data = image.data(inode)?;
    let mut buffer = vec![0; narrow(inode.size().min(1 << 20))];
    let mut extents = image
        .extents(inode)?
        .into_iter()
        .filter(|extent| extent.source != Source::Hole)
        .peekable();
    while let Some(first) = extents.next() {
        // Extents without a hole between them are one run, written in large pieces however small they are.
        let mut end = first.end();
        while let Some(next) = extents.next_if(|next| next.logical == end) {
            end = next.end();
        }
        let mut offset = first.logical;
        while offset < end {
            let wanted = clamp_len(buffer.len(), end.saturating_sub(offset));
            let piece = buffer.get_mut(..wanted).unwrap_or_default();
            let n = data.read_full_at(piece, offset)?;
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

/// A path and the names of its xattrs that were refused.
type Refused = (Vec<u8>, Vec<Vec<u8>>);

/// Restores everything but the contents, in the order that keeps what came before: a new owner clears set-user-ID bits
/// and capabilities, and everything changes the time.
fn restore<R: ReadAt>(
    image: &Image<R>,
    inode: &Inode,
    path: &[u8],
    target: &Path,
    options: &DirOptions,
) -> Result<Option<Refused>, Error> {
    let output = |source| at(path, source);
    let mut refused = Vec::new();
    if options.owners {
        std::os::unix::fs::lchown(target, Some(inode.uid()), Some(inode.gid())).map_err(output)?;
    }
    if options.xattrs {
        for (name, value) in image.xattrs(inode)? {
            match rustix::fs::lsetxattr(target, &name[..], &value, XattrFlags::empty()) {
                Ok(()) => {}
                Err(e) if is_refusal(e) => refused.push(name),
                Err(e) => return Err(output(e.into())),
            }
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
        .map_err(|e| output(e.into()))?;
    Ok((!refused.is_empty()).then(|| (path.to_vec(), refused)))
}

/// Whether a filesystem says that it keeps no xattr of such a name, size or value, or that this user may not set it.
fn is_refusal(error: Errno) -> bool {
    matches!(
        error,
        Errno::OPNOTSUPP
            | Errno::PERM
            | Errno::ACCESS
            | Errno::INVAL
            | Errno::RANGE
            | Errno::TOOBIG
            | Errno::NOSPC
    )
}
