//! A layer from a directory of this host.

use crate::error::{Error, Problem, ReadError};
use crate::intake::Intake;
use crate::layer::{BuilderNodeId, LayerBuilder, LayerTree};
use crate::limits::Limits;
use crate::metadata::{DeviceNumber, Metadata};
use crate::progress::Meter;
use crate::stored::Stored;
use crate::tar::{Content, Sink, Stats};
use crate::timestamp::Timestamp;
use crate::tree::Kind;
use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;
use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// The kernel's own limit on a list of names and on a value (`XATTR_LIST_MAX`, `XATTR_SIZE_MAX`).
const XATTR_BUFFER: usize = 1 << 16;

/// Reads the tree under `root`, including mount points: the contents of each regular file that is
/// not empty go to `sink`, once however many names the file has. Holes are kept. Nothing in it is a
/// whiteout or a mark: `.wh.` names are names, and `trusted.overlay.*` is escaped as in a tar.
///
/// ```no_run
/// use fsmerge::{Limits, read_dir};
///
/// let (layer, _) = read_dir("rootfs".as_ref(), &mut (), &Limits::default())?;
/// println!("{} names", layer.names());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
///
/// [`ReadError::Layer`] where something cannot be read, a file becomes shorter while it is read,
/// there is a character device 0:0, or a limit is passed; [`ReadError::Sink`] where the sink
/// failed.
pub fn read_dir<S: Sink>(
    root: &Path,
    sink: &mut S,
    limits: &Limits,
) -> Result<(LayerTree, Stats), ReadError<S::Error>> {
    let mut reading = Reading {
        root,
        limits,
        layer: LayerBuilder::new(limits),
        intake: Intake::new(limits),
        stats: Stats::default(),
        links: HashMap::new(),
        buffer: vec![0; XATTR_BUFFER],
    };
    let meta = fs::metadata(root).map_err(unreadable(b""))?;
    if !meta.is_dir() {
        return Err(unreadable(b"")(io::ErrorKind::NotADirectory.into()).into());
    }
    let attributes = reading.attributes(b"", &meta)?;
    reading.layer.set_root(attributes, false, false);
    let mut meter = Meter::default();
    let mut pending = vec![(Vec::new(), reading.layer.root())];
    while let Some((path, parent)) = pending.pop() {
        let mut directories = Vec::new();
        for name in reading.names(&path)? {
            let separator: &[u8] = if path.is_empty() { b"" } else { b"/" };
            let path = [&path, separator, &name].concat();
            let before = reading.stats.content_bytes;
            if let Some(node) = reading.entry(parent, &name, &path, sink)? {
                directories.push((path, node));
            }
            if let Some(new) = meter.entry(reading.stats.content_bytes - before) {
                sink.progress(new);
            }
        }
        pending.extend(directories.into_iter().rev());
    }
    sink.progress(meter.rest());
    Ok((reading.layer.finish(), reading.stats))
}

struct Reading<'a> {
    root: &'a Path,
    limits: &'a Limits,
    layer: LayerBuilder,
    intake: Intake,
    stats: Stats,
    /// Nodes that may have further names, by device and inode.
    links: HashMap<(u64, u64), BuilderNodeId>,
    buffer: Vec<u8>,
}

impl Reading<'_> {
    /// The names in a directory, sorted: the sink gets contents in this order.
    fn names(&self, path: &[u8]) -> Result<Vec<Vec<u8>>, Error> {
        let mut names = Vec::new();
        for entry in fs::read_dir(self.host(path)).map_err(unreadable(path))? {
            let name = entry.map_err(unreadable(path))?.file_name();
            names.push(name.as_bytes().to_vec());
        }
        names.sort_unstable();
        Ok(names)
    }

    /// Adds what is at `path`. Where it is a directory, its node is returned.
    fn entry<S: Sink>(
        &mut self,
        parent: BuilderNodeId,
        name: &[u8],
        path: &[u8],
        sink: &mut S,
    ) -> Result<Option<BuilderNodeId>, ReadError<S::Error>> {
        self.stats.entries += 1;
        let host = self.host(path);
        let meta = fs::symlink_metadata(&host).map_err(unreadable(path))?;
        let link = (!meta.is_dir() && meta.nlink() > 1).then(|| (meta.dev(), meta.ino()));
        if let Some(&node) = link.and_then(|link| self.links.get(&link)) {
            self.layer.link(parent, name, node)?;
            return Ok(None);
        }
        let attributes = self.attributes(path, &meta)?;
        let target;
        let kind = meta.file_type();
        let kind = if kind.is_dir() {
            Kind::Directory {
                opaque: false,
                implied: false,
            }
        } else if kind.is_file() {
            self.file(path, &meta, sink)?
        } else if kind.is_symlink() {
            target = fs::read_link(&host).map_err(unreadable(path))?;
            Kind::Symlink(target.as_os_str().as_bytes())
        } else if kind.is_char_device() {
            Kind::CharDevice(device(meta.rdev()))
        } else if kind.is_block_device() {
            Kind::BlockDevice(device(meta.rdev()))
        } else if kind.is_fifo() {
            Kind::Fifo
        } else {
            Kind::Socket
        };
        let node = self.layer.add(parent, name, attributes, kind)?;
        if let Some(link) = link {
            self.links.insert(link, node);
        }
        Ok(meta.is_dir().then_some(node))
    }

    fn file<S: Sink>(
        &mut self,
        path: &[u8],
        meta: &fs::Metadata,
        sink: &mut S,
    ) -> Result<Kind<'static>, ReadError<S::Error>> {
        let size = meta.len();
        if size == 0 {
            return Ok(Kind::File { size, data: None });
        }
        if size > self.limits.file_bytes {
            let problem = Problem::Limit {
                name: "file_bytes",
                limit: self.limits.file_bytes,
            };
            return Err(Error::Node {
                path: path.into(),
                problem,
            }
            .into());
        }
        let file = open(self.root, path).map_err(unreadable(path))?;
        let ranges = ranges(&file, size, self.limits.sparse_ranges)
            .map_err(|errno| unreadable(path)(errno.into()))?;
        let stored = Stored::new(&ranges, |buffer, at| file.read_at(buffer, at));
        let mut stored = stored.buffered(size);
        let data = sink.file(path, Content::new(size, &ranges, &mut stored));
        let stored = stored.into_inner();
        // The sink's error does not contain the cause of a failed read, so it is taken from the
        // source.
        match stored.failure {
            Some(e) if e.kind() == io::ErrorKind::UnexpectedEof => {
                let path = path.to_vec();
                return Err(Error::Changed { path: path.into() }.into());
            }
            Some(e) => return Err(unreadable(path)(e).into()),
            None => {}
        }
        let data = data.map_err(|source| ReadError::Sink {
            path: path.into(),
            source,
        })?;
        self.stats.files += 1;
        self.stats.content_bytes = self.stats.content_bytes.saturating_add(size);
        Ok(Kind::File {
            size,
            data: Some(data),
        })
    }

    fn attributes(&mut self, path: &[u8], meta: &fs::Metadata) -> Result<Metadata, Error> {
        let xattrs = self
            .xattrs(path)
            .map_err(|errno| unreadable(path)(errno.into()))?;
        let mode = (meta.mode() & 0o7777) as u16;
        let (stats, limits) = (&mut self.stats, self.limits);
        let xattrs = self
            .intake
            .take(xattrs, mode, |kind| stats.warn(path, 0, kind, limits))
            .map_err(|problem| Error::Node {
                path: path.into(),
                problem,
            })?;
        Ok(Metadata {
            mode,
            uid: meta.uid(),
            gid: meta.gid(),
            mtime: Timestamp {
                secs: meta.mtime(),
                nanos: meta.mtime_nsec() as u32,
            },
            xattrs,
        })
    }

    fn xattrs(&mut self, path: &[u8]) -> rustix::io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
        let path = self.host(path);
        // The root may be a symlink to the directory; nothing below it is followed.
        let root = path == self.root;
        let buffer = &mut self.buffer[..];
        let listed = match root {
            true => rustix::fs::listxattr(&path, &mut *buffer),
            false => rustix::fs::llistxattr(&path, &mut *buffer),
        };
        let names = match listed {
            Ok(len) => buffer[..len].to_vec(),
            Err(Errno::NOTSUP) => return Ok(Vec::new()),
            Err(errno) => return Err(errno),
        };
        let mut xattrs = Vec::new();
        for name in names.split(|&byte| byte == 0) {
            // Attributes that the kernel generates for a file system's own use (`system.nfs4_acl`)
            // can be dropped.
            if name.is_empty()
                || name.starts_with(b"system.") && !name.starts_with(b"system.posix_acl_")
            {
                continue;
            }
            let len = match root {
                true => rustix::fs::getxattr(&path, name, &mut *buffer)?,
                false => rustix::fs::lgetxattr(&path, name, &mut *buffer)?,
            };
            xattrs.push((name.to_vec(), buffer[..len].to_vec()));
        }
        Ok(xattrs)
    }

    /// Where a path of the layer is on this host.
    fn host(&self, path: &[u8]) -> PathBuf {
        host(self.root, path)
    }
}

fn host(root: &Path, path: &[u8]) -> PathBuf {
    if path.is_empty() {
        return root.to_owned();
    }
    root.join(OsStr::from_bytes(path))
}

/// Opens the regular file `path` of the tree of `root`.
pub(crate) fn open(root: &Path, path: &[u8]) -> io::Result<File> {
    // The file may have been replaced meanwhile: symlinks are not followed, and opening a fifo does
    // not wait.
    let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
    OpenOptions::new()
        .read(true)
        .custom_flags(flags.bits() as _)
        .open(host(root, path))
}

/// Where a file of `size` bytes has data, as far as its file system reports it; all of it if there
/// are more than `limit` ranges, since zeros read as well.
fn ranges(file: &File, size: u64, limit: usize) -> rustix::io::Result<Vec<(u64, u64)>> {
    let whole = vec![(0, size)];
    let mut ranges = Vec::new();
    let mut at = 0;
    while at < size {
        let start = match seek(file, SeekFrom::Data(at)) {
            Ok(start) => start,
            // The rest is a hole.
            Err(Errno::NXIO) => break,
            Err(Errno::INVAL | Errno::NOTSUP) => return Ok(whole),
            Err(errno) => return Err(errno),
        };
        if start >= size {
            break;
        }
        let end = seek(file, SeekFrom::Hole(start))?.min(size);
        // A file that another process changes meanwhile must not end in an endless loop.
        if start < at || end <= start || ranges.len() == limit {
            return Ok(whole);
        }
        ranges.push((start, end - start));
        at = end;
    }
    Ok(ranges)
}

fn unreadable(path: &[u8]) -> impl FnOnce(io::Error) -> Error {
    |source| Error::Read {
        path: path.into(),
        source,
    }
}

fn device(rdev: u64) -> DeviceNumber {
    // rustix's type of device numbers differs between systems; std's has 64 bits on all.
    DeviceNumber {
        major: rustix::fs::major(rdev as _),
        minor: rustix::fs::minor(rdev as _),
    }
}
