//! Filling a filesystem from a directory of this host.

use std::collections::HashMap;
use std::ffi::{CStr, CString, OsStr};
use std::fs::File;
use std::io::{self, Seek, Write};
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use crate::{Builder, DeviceNumber, Error, Metadata, NodeId, Options, Ranges, Summary, Timestamp};

/// The longest list of names, and value, that Linux gives (`XATTR_LIST_MAX`, `XATTR_SIZE_MAX`).
const XATTR_MAX: usize = 65536;

/// Writes a filesystem of what is in a directory of this host to `out`, as [`Builder::new`],
/// [`Builder::add_dir_all`] and [`Builder::finish`] do.
///
/// ```no_run
/// use ext4_writer::Options;
///
/// let out = std::fs::File::create("rootfs.ext4")?;
/// ext4_writer::from_dir(out, Options::new(1 << 30), "rootfs")?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
///
/// Those of these methods.
pub fn from_dir<W: Write + Seek>(
    out: W,
    options: Options,
    source: impl AsRef<Path>,
) -> Result<(W, Summary), Error> {
    let mut image = Builder::new(out, options)?;
    image.add_dir_all(source)?;
    image.finish()
}

impl<W: Write + Seek> Builder<W> {
    /// Adds all that is in a directory of this host, and gives the root its attributes: every kind
    /// of file, hard links, extended attributes as far as they may be read, and holes as holes if
    /// the host's filesystem reports them. Mounts in the directory are included.
    ///
    /// A file with more names than an inode can count (65,000) becomes as many as it takes.
    ///
    /// Directories are read in the order of their names' bytes: the same tree gives the same image.
    ///
    /// ```no_run
    /// use ext4_writer::{Builder, Options};
    ///
    /// let mut image = Builder::create("rootfs.ext4", Options::new(1 << 30))?;
    /// image.add_dir_all("rootfs")?;
    /// image.finish()?;
    /// # Ok::<(), ext4_writer::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Host`] for what cannot be read; else those of the methods that add nodes, with some
    /// of the tree added.
    pub fn add_dir_all(&mut self, source: impl AsRef<Path>) -> Result<(), Error> {
        let source = source.as_ref();
        let mut scratch = Scratch::new();
        let mut links = HashMap::new();
        let mut pending = vec![(source.to_owned(), self.root())];
        while let Some((path, parent)) = pending.pop() {
            // Names are looked up relative to the open directory, so each path component is
            // resolved once.
            let dir = open(CWD, &path, OFlags::DIRECTORY).map_err(|e| failed(&path, e))?;
            if parent == self.root() {
                let stat = rustix::fs::fstat(&dir).map_err(|e| failed(&path, e))?;
                let xattrs = scratch.of_file(dir.as_fd());
                let metadata = metadata(&stat, xattrs.map_err(|e| failed(&path, e))?);
                self.set_metadata(parent, metadata)?;
            }
            let mut dir = Dir::new(dir).map_err(|e| failed(&path, e))?;
            let names = names(&mut dir).map_err(|e| failed(&path, e))?;
            let before = pending.len();
            for name in names {
                let mut child = Child {
                    dir: dir.fd().map_err(|e| failed(&path, e))?,
                    parent: &path,
                    name: &name,
                    scratch: &mut scratch,
                };
                let stat = rustix::fs::statat(child.dir, &name, AtFlags::SYMLINK_NOFOLLOW)
                    .map_err(|e| child.failed(e))?;
                let id = (stat.st_dev, stat.st_ino);
                if let Some(&node) = links.get(&id) {
                    match self.link(parent, name.as_bytes(), node) {
                        // The next names refer to a copy.
                        Err(Error::TooManyLinks { .. }) => (),
                        linked => {
                            linked?;
                            continue;
                        }
                    }
                }
                let node = self.add_from(parent, &mut child, &stat)?;
                if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                    pending.push((path.join(OsStr::from_bytes(name.as_bytes())), node));
                } else if stat.st_nlink > 1 {
                    links.insert(id, node);
                }
            }
            pending[before..].reverse();
        }
        Ok(())
    }

    fn add_from(
        &mut self,
        parent: NodeId,
        child: &mut Child<'_>,
        stat: &Stat,
    ) -> Result<NodeId, Error> {
        let name = child.name.to_bytes();
        let kind = FileType::from_raw_mode(stat.st_mode);
        if kind == FileType::RegularFile {
            let file =
                open(child.dir, child.name, OFlags::NOFOLLOW).map_err(|e| child.failed(e))?;
            let xattrs = child.scratch.of_file(file.as_fd());
            let meta = metadata(stat, xattrs.map_err(|e| child.failed(e))?);
            let file = File::from(file);
            let size = stat.st_size as u64;
            // A file with enough blocks for all its bytes has no holes.
            if (stat.st_blocks as u64).saturating_mul(512) >= size {
                let whole = 0..size;
                return self.add_sparse_file(
                    parent,
                    name,
                    meta,
                    size,
                    std::slice::from_ref(&whole),
                    file,
                );
            }
            let ranges = data_ranges(&file, size).map_err(|e| child.failed(e))?;
            let data = Ranges::new(file, ranges.clone());
            return self.add_sparse_file(parent, name, meta, size, &ranges, data);
        }
        let meta = metadata(stat, child.xattrs()?);
        let number = DeviceNumber {
            major: rustix::fs::major(stat.st_rdev),
            minor: rustix::fs::minor(stat.st_rdev),
        };
        match kind {
            FileType::Directory => self.add_dir(parent, name, meta),
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(child.dir, child.name, Vec::new())
                    .map_err(|e| child.failed(e))?;
                self.add_symlink(parent, name, meta, target.to_bytes())
            }
            FileType::CharacterDevice => self.add_char_device(parent, name, meta, number),
            FileType::BlockDevice => self.add_block_device(parent, name, meta, number),
            FileType::Fifo => self.add_fifo(parent, name, meta),
            FileType::Socket => self.add_socket(parent, name, meta),
            _ => Err(child.failed(io::Error::from(io::ErrorKind::Unsupported))),
        }
    }
}

/// One name in a directory of the host.
struct Child<'a> {
    dir: BorrowedFd<'a>,
    parent: &'a Path,
    name: &'a CStr,
    scratch: &'a mut Scratch,
}

impl Child<'_> {
    fn path(&self) -> std::path::PathBuf {
        self.parent.join(OsStr::from_bytes(self.name.to_bytes()))
    }

    fn failed(&self, error: impl Into<io::Error>) -> Error {
        failed(&self.path(), error)
    }

    /// The xattrs of a file that is not opened.
    fn xattrs(&mut self) -> Result<Xattrs, Error> {
        let path = self.path();
        self.scratch.of_path(&path).map_err(|e| failed(&path, e))
    }
}

fn failed(path: &Path, error: impl Into<io::Error>) -> Error {
    Error::Host {
        path: path.to_owned(),
        source: error.into(),
    }
}

fn open(
    dir: impl AsFd,
    name: impl rustix::path::Arg,
    flags: OFlags,
) -> Result<std::os::fd::OwnedFd, Errno> {
    let flags = flags | OFlags::RDONLY | OFlags::CLOEXEC;
    rustix::fs::openat(dir, name, flags, Mode::empty())
}

/// All names in a directory but its own and its parent's, in the order of their bytes.
fn names(dir: &mut Dir) -> Result<Vec<CString>, Errno> {
    let mut names = Vec::new();
    for entry in dir {
        let entry = entry?;
        let name = entry.file_name();
        if name != c"." && name != c".." {
            names.push(name.to_owned());
        }
    }
    names.sort_unstable();
    Ok(names)
}

fn metadata(stat: &Stat, xattrs: Xattrs) -> Metadata {
    #[allow(clippy::unnecessary_cast, reason = "not on macOS alone")]
    let mode = (stat.st_mode & 0o7777) as u16;
    Metadata::new(mode)
        .uid(stat.st_uid)
        .gid(stat.st_gid)
        .mtime(Timestamp {
            secs: stat.st_mtime,
            nanos: stat.st_mtime_nsec as u32,
        })
        .xattrs(xattrs)
}

type Xattrs = Vec<(Vec<u8>, Vec<u8>)>;

/// Buffers for reading xattrs.
struct Scratch {
    names: Vec<u8>,
    value: Vec<u8>,
}

impl Scratch {
    fn new() -> Self {
        Self {
            names: vec![0; XATTR_MAX],
            value: vec![0; XATTR_MAX],
        }
    }

    fn of_file(&mut self, file: BorrowedFd<'_>) -> Result<Xattrs, Errno> {
        let names = rustix::fs::flistxattr(file, &mut self.names[..]);
        self.values(names, |name, value| {
            rustix::fs::fgetxattr(file, name, value)
        })
    }

    fn of_path(&mut self, path: &Path) -> Result<Xattrs, Errno> {
        let names = rustix::fs::llistxattr(path, &mut self.names[..]);
        self.values(names, |name, value| {
            rustix::fs::lgetxattr(path, name, value)
        })
    }

    /// The attributes whose names were read.
    fn values(
        &mut self,
        names: Result<usize, Errno>,
        mut get: impl FnMut(&[u8], &mut [u8]) -> Result<usize, Errno>,
    ) -> Result<Xattrs, Errno> {
        let len = match names {
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => return Ok(Vec::new()),
            len => len?,
        };
        self.names[..len]
            .split(|&byte| byte == 0)
            .filter(|name| !name.is_empty())
            .map(|name| {
                let len = get(name, &mut self.value)?;
                Ok((name.to_vec(), self.value[..len].to_vec()))
            })
            .collect()
    }
}

/// Where a file of `size` bytes has data.
fn data_ranges(file: &File, size: u64) -> io::Result<Vec<Range<u64>>> {
    use rustix::fs::{SeekFrom, seek};
    let mut ranges = Vec::new();
    let mut at = 0;
    while at < size {
        let start = match seek(file, SeekFrom::Data(at)) {
            Ok(start) => start,
            // The rest is a hole.
            Err(Errno::NXIO) => break,
            // The filesystem does not report holes.
            Err(Errno::INVAL | Errno::OPNOTSUPP) if at == 0 => {
                return Ok(std::iter::once(0..size).collect());
            }
            Err(e) => return Err(e.into()),
        };
        let end = seek(file, SeekFrom::Hole(start))?.min(size);
        if start >= end {
            break;
        }
        ranges.push(start..end);
        at = end;
    }
    Ok(ranges)
}
