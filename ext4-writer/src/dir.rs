//! Filling a filesystem from a directory of this host.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Seek, Write};
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use crate::{Builder, Device, Error, Metadata, NodeId, Options, Ranges, Summary, Timestamp};

/// The longest list of names, and value, that Linux gives (`XATTR_LIST_MAX`, `XATTR_SIZE_MAX`).
const XATTR_MAX: usize = 65536;

/// Writes a filesystem of what is in a directory of this host to `out`, as [`Builder::new`], [`Builder::add_dir_all`] and
/// [`Builder::finish`] do.
///
/// # Errors
///
/// Theirs.
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
    /// Adds all that is in a directory of this host, and gives the root its attributes: every kind of file, hard links, extended
    /// attributes as far as they may be read, and holes as holes where the host's filesystem tells where they are. What is
    /// mounted in it is added too.
    ///
    /// A file with more names than an inode can count (65,000) becomes as many as it takes.
    ///
    /// Directories are read in the order of their names' bytes: the same tree gives the same image.
    ///
    /// # Errors
    ///
    /// [`Error::Host`] for what cannot be read; else those of the methods that add nodes, with some of the tree added.
    pub fn add_dir_all(&mut self, source: impl AsRef<Path>) -> Result<(), Error> {
        let source = source.as_ref();
        let root = self.root();
        let stat = fs::metadata(source).map_err(failed(source))?;
        self.set_metadata(root, metadata(source, &stat)?)?;
        let mut links = HashMap::new();
        let mut pending = vec![(source.to_owned(), root)];
        while let Some((dir, parent)) = pending.pop() {
            let mut names: Vec<OsString> = fs::read_dir(&dir)
                .and_then(|entries| entries.map(|entry| Ok(entry?.file_name())).collect())
                .map_err(failed(&dir))?;
            names.sort_unstable();
            let before = pending.len();
            for name in names {
                let path = dir.join(&name);
                let stat = fs::symlink_metadata(&path).map_err(failed(&path))?;
                let id = (stat.dev(), stat.ino());
                if let Some(&node) = links.get(&id) {
                    match self.link(parent, name.as_bytes(), node) {
                        // The next names are of a copy.
                        Err(Error::TooManyLinks { .. }) => (),
                        linked => {
                            linked?;
                            continue;
                        }
                    }
                }
                let node = self.add_from(parent, name.as_bytes(), &path, &stat)?;
                if stat.is_dir() {
                    pending.push((path, node));
                } else if stat.nlink() > 1 {
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
        name: &[u8],
        path: &Path,
        stat: &fs::Metadata,
    ) -> Result<NodeId, Error> {
        let meta = metadata(path, stat)?;
        let kind = stat.file_type();
        let (major, minor) = (
            rustix::fs::major(stat.rdev()),
            rustix::fs::minor(stat.rdev()),
        );
        if kind.is_dir() {
            self.add_dir(parent, name, meta)
        } else if kind.is_symlink() {
            let target = fs::read_link(path).map_err(failed(path))?;
            self.add_symlink(parent, name, meta, target.as_os_str().as_bytes())
        } else if kind.is_char_device() {
            self.add_device(parent, name, meta, Device::Char { major, minor })
        } else if kind.is_block_device() {
            self.add_device(parent, name, meta, Device::Block { major, minor })
        } else if kind.is_fifo() {
            self.add_fifo(parent, name, meta)
        } else if kind.is_socket() {
            self.add_socket(parent, name, meta)
        } else {
            let file = File::open(path).map_err(failed(path))?;
            let size = file.metadata().map_err(failed(path))?.len();
            // Where as many blocks are taken as there are bytes, there are no holes to look for.
            let ranges = match stat.blocks().saturating_mul(512) >= size {
                true => std::iter::once(0..size).collect(),
                false => data_ranges(&file, size).map_err(failed(path))?,
            };
            let data = Ranges::new(file, ranges.clone());
            self.add_sparse_file(parent, name, meta, size, &ranges, data)
        }
    }
}

fn failed(path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path: PathBuf = path.to_owned();
    |source| Error::Host { path, source }
}

fn metadata(path: &Path, stat: &fs::Metadata) -> Result<Metadata, Error> {
    Ok(Metadata {
        mode: (stat.mode() & 0o7777) as u16,
        uid: stat.uid(),
        gid: stat.gid(),
        mtime: Timestamp {
            secs: stat.mtime(),
            nanos: stat.mtime_nsec() as u32,
        },
        xattrs: xattrs(path).map_err(|e| failed(path)(e.into()))?,
    })
}

type Xattrs = Vec<(Vec<u8>, Vec<u8>)>;

fn xattrs(path: &Path) -> Result<Xattrs, Errno> {
    let mut names = vec![0; XATTR_MAX];
    let len = match rustix::fs::llistxattr(path, &mut names[..]) {
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => return Ok(Vec::new()),
        len => len?,
    };
    let mut value = Vec::new();
    names[..len]
        .split(|&byte| byte == 0)
        .filter(|name| !name.is_empty())
        .map(|name| {
            value.resize(XATTR_MAX, 0);
            let len = rustix::fs::lgetxattr(path, name, &mut value[..])?;
            Ok((name.to_vec(), value[..len].to_vec()))
        })
        .collect()
}

/// Where a file of `size` bytes has data.
fn data_ranges(file: &File, size: u64) -> io::Result<Vec<Range<u64>>> {
    use rustix::fs::{SeekFrom, seek};
    let mut ranges = Vec::new();
    let mut at = 0;
    while at < size {
        let start = match seek(file, SeekFrom::Data(at)) {
            Ok(start) => start,
            // There are holes only.
            Err(Errno::NXIO) => break,
            // It does not tell.
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
