//! Packs a file tree of this system into a tar stream.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use blockbox_tar::{Body, Head, Timestamp, Writer};
use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use crate::error::{Error, Problem, Result};
use crate::xattrs;

/// The deepest nesting that is packed: each level has an open directory.
const MAX_DEPTH: usize = 900;

/// The most data ranges of one file; beyond that, holes are packed as zeros.
const MAX_RANGES: usize = 1 << 16;

/// Options of packing a tree.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct PackOptions {
    /// The name of the tree's root in the archive. If empty, a directory's contents are packed
    /// under `./`.
    pub name: Vec<u8>,
    /// Whether a root that is a symbolic link is followed.
    pub follow: bool,
}

impl PackOptions {
    /// Sets [`name`](Self::name).
    #[must_use]
    pub fn name(mut self, name: impl Into<Vec<u8>>) -> Self {
        self.name = name.into();
        self
    }

    /// Sets [`follow`](Self::follow).
    #[must_use]
    pub fn follow(mut self, follow: bool) -> Self {
        self.follow = follow;
        self
    }
}

/// Writes the file or the tree at `path` to `out` as a tar archive: modes, owners, times, holes,
/// hard links, and the extended attributes of files and directories. Sockets are left out, and so
/// are the contents of kernel filesystems (`/proc`, `/sys`, `/dev`) mounted in the tree.
///
/// # Errors
///
/// [`Error::Io`] for files that cannot be read; [`Error::Output`].
pub fn pack(path: &Path, options: &PackOptions, out: impl Write) -> Result<()> {
    let mut packer = Packer {
        out: Writer::new(out),
        linked: HashMap::new(),
    };
    let flags = match options.follow {
        true => AtFlags::empty(),
        false => AtFlags::SYMLINK_NOFOLLOW,
    };
    let stat = rustix::fs::statat(CWD, path, flags).map_err(Error::io(path))?;
    let mut name = options.name.clone();
    if name.is_empty() {
        name = b".".to_vec();
    }
    let top = Node {
        parent: CWD,
        file: path.as_os_str(),
        path: path.to_owned(),
        name,
        stat,
        follow: options.follow,
    };
    packer.tree(top)?;
    packer.out.finish().map_err(Error::Output)?;
    Ok(())
}

struct Packer<W> {
    out: Writer<W>,
    /// The first name of each file with several names, by device and inode.
    linked: HashMap<(u64, u64), Vec<u8>>,
}

/// A file to pack.
struct Node<'a> {
    parent: BorrowedFd<'a>,
    /// Its name in `parent`.
    file: &'a OsStr,
    /// Its path in error messages.
    path: PathBuf,
    /// Its name in the archive.
    name: Vec<u8>,
    stat: Stat,
    follow: bool,
}

/// A directory that is being packed.
struct Level {
    directory: OwnedFd,
    /// In descending order.
    names: Vec<OsString>,
    path: PathBuf,
    name: Vec<u8>,
    device: u64,
}

impl<W: Write> Packer<W> {
    fn tree(&mut self, top: Node<'_>) -> Result<()> {
        let mut levels: Vec<Level> = self.node(top, None)?.into_iter().collect();
        while let Some(level) = levels.last_mut() {
            let Some(file) = level.names.pop() else {
                levels.pop();
                continue;
            };
            let path = level.path.join(&file);
            let stat = rustix::fs::statat(&level.directory, &file, AtFlags::SYMLINK_NOFOLLOW);
            let stat = match stat {
                Ok(stat) => stat,
                // It was removed after the directory was read.
                Err(Errno::NOENT) => continue,
                Err(errno) => return Err(Error::io(path)(errno)),
            };
            let node = Node {
                parent: level.directory.as_fd(),
                file: &file,
                path,
                name: [&level.name[..], b"/", file.as_bytes()].concat(),
                stat,
                follow: false,
            };
            let device = level.device;
            if let Some(inner) = self.node(node, Some(device))? {
                if levels.len() >= MAX_DEPTH {
                    return Err(Error::Entry {
                        name: inner.name.into(),
                        problem: Problem::Depth,
                    });
                }
                levels.push(inner);
            }
        }
        Ok(())
    }

    /// Packs a node; for a directory, returns the level to pack next. `device` is that of its
    /// parent.
    fn node(&mut self, node: Node<'_>, device: Option<u64>) -> Result<Option<Level>> {
        let kind = FileType::from_raw_mode(node.stat.st_mode);
        let key = (node.stat.st_dev as u64, node.stat.st_ino as u64);
        // Sockets are left out under all their names.
        let linked = !matches!(kind, FileType::Directory | FileType::Socket);
        if linked && node.stat.st_nlink > 1 {
            if let Some(first) = self.linked.get(&key).cloned() {
                self.entry(&node, Vec::new(), Body::HardLink(&first))?;
                return Ok(None);
            }
            self.linked.insert(key, node.name.clone());
        }
        let number = node.stat.st_rdev as u64;
        let (major, minor) = (
            rustix::fs::major(number as _),
            rustix::fs::minor(number as _),
        );
        let body = match kind {
            FileType::Directory => return self.directory(&node, device),
            FileType::RegularFile => return self.file(&node).map(|()| None),
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(node.parent, node.file, Vec::new())
                    .map_err(Error::io(&node.path))?;
                self.entry(&node, Vec::new(), Body::Symlink(target.as_bytes()))?;
                return Ok(None);
            }
            FileType::CharacterDevice => Body::CharDevice(major, minor),
            FileType::BlockDevice => Body::BlockDevice(major, minor),
            FileType::Fifo => Body::Fifo,
            _ => return Ok(None),
        };
        self.entry(&node, Vec::new(), body)?;
        Ok(None)
    }

    fn directory(&mut self, node: &Node<'_>, device: Option<u64>) -> Result<Option<Level>> {
        let failed = |errno: Errno| Error::io(&node.path)(errno);
        let directory = open(node, OFlags::DIRECTORY).map_err(failed)?;
        let xattrs = xattrs::read(&directory).map_err(failed)?;
        self.entry(node, xattrs, Body::Directory)?;
        let own = node.stat.st_dev as u64;
        if device.is_some_and(|parent| parent != own) && is_kernels(&directory).map_err(failed)? {
            return Ok(None);
        }
        let mut names = Vec::new();
        for entry in Dir::read_from(&directory).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name().to_bytes().to_vec();
            if !matches!(&name[..], b"." | b"..") {
                names.push(OsString::from_vec(name));
            }
        }
        names.sort_unstable_by(|a, b| b.cmp(a));
        Ok(Some(Level {
            directory,
            names,
            path: node.path.clone(),
            name: node.name.clone(),
            device: own,
        }))
    }

    fn file(&mut self, node: &Node<'_>) -> Result<()> {
        let failed = |errno: Errno| Error::io(&node.path)(errno);
        let file = File::from(open(node, OFlags::NONBLOCK).map_err(failed)?);
        let xattrs = xattrs::read(&file).map_err(failed)?;
        let size = u64::try_from(node.stat.st_size).unwrap_or(0);
        let ranges = ranges(&file, size).map_err(failed)?;
        let head = head(node, xattrs);
        let mut data = Ranges {
            file,
            ranges: ranges.clone().into_iter(),
            left: 0,
            failure: None,
        };
        let written = self.out.file(&head, size, &ranges, &mut data);
        match data.failure {
            Some(source) => Err(Error::io(&node.path)(source)),
            None => written.map_err(Error::Output),
        }
    }

    fn entry(
        &mut self,
        node: &Node<'_>,
        xattrs: Vec<(Vec<u8>, Vec<u8>)>,
        body: Body<'_>,
    ) -> Result<()> {
        let written = self.out.entry(&head(node, xattrs), body);
        written.map_err(Error::Output)
    }
}

fn open(node: &Node<'_>, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let mut flags = flags | OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOCTTY;
    if !node.follow {
        // The file may have been replaced meanwhile.
        flags |= OFlags::NOFOLLOW;
    }
    rustix::fs::openat(node.parent, node.file, flags, Mode::empty())
}

fn head<'a>(node: &'a Node<'_>, xattrs: Vec<(Vec<u8>, Vec<u8>)>) -> Head<'a> {
    Head {
        path: &node.name,
        mode: (node.stat.st_mode & 0o7777) as u16,
        uid: node.stat.st_uid,
        gid: node.stat.st_gid,
        mtime: Timestamp {
            secs: node.stat.st_mtime as i64,
            nanos: node.stat.st_mtime_nsec as u32,
        },
        xattrs,
    }
}

/// Returns whether a directory is on a filesystem that shows the kernel's state instead of files.
#[cfg(target_os = "linux")]
fn is_kernels(directory: &OwnedFd) -> rustix::io::Result<bool> {
    /// `PROC_SUPER_MAGIC`, `SYSFS_MAGIC`, `DEVPTS_SUPER_MAGIC`, `CGROUP2_SUPER_MAGIC`,
    /// `CGROUP_SUPER_MAGIC`, `BPF_FS_MAGIC`, `DEBUGFS_MAGIC`, `TRACEFS_MAGIC`, `SECURITYFS_MAGIC`.
    const MAGICS: [u64; 9] = [
        0x9fa0,
        0x6265_6572,
        0x1cd1,
        0x6367_7270,
        0x0027_e0eb,
        0xcafe_4a11,
        0x6462_6720,
        0x7472_6163,
        0x7363_6673,
    ];
    let magic = rustix::fs::fstatfs(directory)?.f_type as u64;
    Ok(MAGICS.contains(&(magic & 0xffff_ffff)))
}

#[cfg(not(target_os = "linux"))]
fn is_kernels(_: &OwnedFd) -> rustix::io::Result<bool> {
    Ok(false)
}

/// Returns the data ranges of a file of `size` bytes, as far as its filesystem reports them.
fn ranges(file: &File, size: u64) -> rustix::io::Result<Vec<Range<u64>>> {
    use rustix::fs::{SeekFrom, seek};

    let whole: Vec<_> = std::iter::once(0..size).collect();
    let mut ranges = Vec::new();
    let mut at = 0;
    while at < size {
        let start = match seek(file, SeekFrom::Data(at)) {
            Ok(start) => start,
            // Only a hole follows.
            Err(Errno::NXIO) => break,
            Err(Errno::INVAL | Errno::NOTSUP) => return Ok(whole),
            Err(errno) => return Err(errno),
        };
        if start >= size {
            break;
        }
        let end = seek(file, SeekFrom::Hole(start))?.min(size);
        // Another process may change the file meanwhile, which must not cause an error.
        if start < at || end <= start || ranges.len() == MAX_RANGES {
            return Ok(whole);
        }
        ranges.push(start..end);
        at = end;
    }
    Ok(ranges)
}

/// Reads the ranges of a file in order.
struct Ranges {
    file: File,
    ranges: std::vec::IntoIter<Range<u64>>,
    left: u64,
    /// The error of reading, kept because the archive's writer cannot distinguish it from its own.
    failure: Option<io::Error>,
}

impl Read for Ranges {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.left == 0 {
            let Some(range) = self.ranges.next() else {
                return Ok(0);
            };
            self.file.seek(SeekFrom::Start(range.start))?;
            self.left = range.end - range.start;
        }
        match (&mut self.file).take(self.left).read(buffer) {
            // The file was truncated; zeros replace the missing bytes.
            Ok(0) if !buffer.is_empty() => {
                let count =
                    usize::try_from(self.left).map_or(buffer.len(), |n| n.min(buffer.len()));
                buffer[..count].fill(0);
                self.left -= count as u64;
                Ok(count)
            }
            Ok(count) => {
                self.left -= count as u64;
                Ok(count)
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Err(error),
            Err(error) => {
                let kind = error.kind();
                self.failure = Some(error);
                Err(kind.into())
            }
        }
    }
}
