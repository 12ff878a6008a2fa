//! Unpacks a tar stream into a file tree of this system.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, BufRead, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use blockbox_tar::{Attributes, Entry, Limits, Map, Reader, Source, What};
use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, OFlags, RawMode, Timespec, Timestamps, Uid};
use rustix::io::Errno;

use crate::error::{Error, Problem, Result};
use crate::xattrs;

/// Limits for the archive.
const LIMITS: Limits = Limits {
    entries: u32::MAX,
    extended_header_bytes: 8 << 20,
    file_bytes: i64::MAX as u64,
    sparse_ranges: 1 << 20,
};

/// The deepest nesting that is unpacked.
const MAX_DEPTH: usize = 4096;

/// The most memory for the names and attributes of directories, in bytes. Directories get their
/// attributes after their contents.
const MAX_HELD: usize = 256 << 20;

/// Options of unpacking an archive.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct UnpackOptions {
    /// Whether files keep the owners of the archive; otherwise they belong to this process's user.
    pub owners: bool,
    /// Whether the archive is trusted: device nodes are created, set-id bits and all extended
    /// attributes are set, and the target directory itself gets the attributes of `./`. Otherwise
    /// device nodes are left out, and privileges are only kept with [`owners`](Self::owners).
    pub trusted: bool,
}

impl UnpackOptions {
    /// Returns options for a trusted archive.
    pub fn trusted() -> Self {
        Self {
            owners: false,
            trusted: true,
        }
    }

    /// Returns options for an untrusted archive.
    pub fn untrusted() -> Self {
        Self {
            owners: false,
            trusted: false,
        }
    }

    /// Sets [`owners`](Self::owners).
    #[must_use]
    pub fn owners(mut self, owners: bool) -> Self {
        self.owners = owners;
        self
    }

    /// Returns whether set-id bits and capabilities are kept.
    fn privileges(&self) -> bool {
        self.trusted || self.owners
    }
}

/// A summary of an unpacked archive.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Unpacked {
    /// The number of entries unpacked.
    pub entries: u64,
    /// The total size of files in bytes, holes included.
    pub bytes: u64,
    /// The names of device nodes that were left out; only the first hundred.
    pub skipped: Vec<Vec<u8>>,
}

/// Unpacks the archive `input` into the directory `target`. A file replaces an existing one of its
/// name; an existing directory keeps its contents. Nothing outside `target` is created or changed.
///
/// # Errors
///
/// [`Error::Archive`], [`Error::Entry`], [`Error::Io`]: files that were unpacked before the error
/// stay.
pub fn unpack(target: &Path, input: impl BufRead, options: UnpackOptions) -> Result<Unpacked> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::openat(CWD, target, flags, Mode::empty()).map_err(Error::io(target))?;
    let mut unpacker = Unpacker {
        target,
        root,
        options,
        parent: None,
        directories: Vec::new(),
        held: 0,
        done: Unpacked::default(),
    };
    let mut reader = Reader::new(Source::new(input), LIMITS);
    while let Some(entry) = reader.next(|_| ()).map_err(Error::Archive)? {
        unpacker.entry(&entry, &mut reader.source)?;
    }
    unpacker.finish()
}

struct Unpacker<'a> {
    target: &'a Path,
    root: OwnedFd,
    options: UnpackOptions,
    /// The directory of the last entry, and its path.
    parent: Option<(Vec<Vec<u8>>, OwnedFd)>,
    /// Directories whose attributes are set at the end.
    directories: Vec<(Vec<Vec<u8>>, Attributes)>,
    /// The approximate size of these in bytes.
    held: usize,
    done: Unpacked,
}

impl Unpacker<'_> {
    fn entry<R: BufRead>(&mut self, entry: &Entry, source: &mut Source<R>) -> Result<()> {
        let fail = |problem| Error::Entry {
            name: entry.path.clone().into(),
            problem,
        };
        let mut names = components(&entry.path).map_err(fail)?;
        let attributes = entry.attributes().map_err(|_| fail(Problem::Attributes))?;
        self.done.entries += 1;
        let Some(name) = names.pop() else {
            if !matches!(entry.what, What::Directory) {
                return Err(fail(Problem::OverDirectory));
            }
            if self.options.trusted {
                self.directories.push((Vec::new(), attributes));
            }
            return Ok(());
        };
        let path = self.path(&names, &name);
        self.enter(&names).map_err(|e| e.of(&path, fail))?;
        if let What::Directory = entry.what {
            self.directory(&name).map_err(|e| e.of(&path, fail))?;
            names.push(name);
            let of_names: usize = names.iter().map(|name| name.len() + 32).sum();
            let of_xattrs: usize = attributes
                .xattrs
                .iter()
                .map(|(name, value)| name.len() + value.len() + 64)
                .sum();
            self.held = self.held.saturating_add(of_names + of_xattrs + 64);
            if self.held > MAX_HELD {
                return Err(fail(Problem::Directories));
            }
            self.directories.push((names, attributes));
            return Ok(());
        }
        match &entry.what {
            What::File(map) => {
                let file = self.create(&name).map_err(|e| e.of(&path, fail))?;
                if let Err(error) = contents(&file, map, source, &path) {
                    // What lacks bytes must not look like the whole file.
                    let _ = rustix::fs::unlinkat(self.directory_fd(), &name[..], AtFlags::empty());
                    return Err(error);
                }
                self.done.bytes = self.done.bytes.saturating_add(map.size);
                self.describe(&file, &attributes).map_err(Error::io(&path))
            }
            What::HardLink(to) => {
                let to = components(to).map_err(fail)?;
                self.link(&name, to).map_err(|e| e.of(&path, fail))
            }
            What::Symlink(to) => {
                self.clear(&name).map_err(|e| e.of(&path, fail))?;
                let parent = self.directory_fd();
                rustix::fs::symlinkat(&to[..], parent, &name[..]).map_err(Error::io(&path))?;
                self.describe_node(&name, &attributes, false)
                    .map_err(Error::io(&path))
            }
            What::Fifo => self
                .node(&name, FileType::Fifo, 0, &attributes)
                .map_err(|e| e.of(&path, fail)),
            &What::CharDevice { major, minor } | &What::BlockDevice { major, minor } => {
                if !self.options.trusted {
                    if self.done.skipped.len() < 100 {
                        self.done.skipped.push(entry.path.clone());
                    }
                    return Ok(());
                }
                let kind = match entry.what {
                    What::CharDevice { .. } => FileType::CharacterDevice,
                    _ => FileType::BlockDevice,
                };
                let number = rustix::fs::makedev(major, minor) as u64;
                self.node(&name, kind, number, &attributes)
                    .map_err(|e| e.of(&path, fail))
            }
            What::Unknown { .. } | What::Directory => Err(fail(Problem::Type)),
        }
    }

    /// Returns the path of an entry for error messages.
    fn path(&self, parents: &[Vec<u8>], name: &[u8]) -> PathBuf {
        let parents = parents.iter().map(|name| OsStr::from_bytes(name));
        let mut path = self.target.to_owned();
        path.extend(parents);
        path.join(OsStr::from_bytes(name))
    }

    /// Opens the directory at the path `names`, and creates missing components.
    fn enter(&mut self, names: &[Vec<u8>]) -> Result<(), Failure> {
        if self.parent.as_ref().is_some_and(|(now, _)| now == names) {
            return Ok(());
        }
        let mut at = self.root.try_clone().map_err(Failure::io)?;
        for name in names {
            at = match open_directory(&at, name) {
                Err(Errno::NOENT) => {
                    let mode = Mode::from_raw_mode(0o755);
                    rustix::fs::mkdirat(&at, &name[..], mode)?;
                    open_directory(&at, name)?
                }
                Err(Errno::NOTDIR | Errno::LOOP) => return Err(Problem::Parent.into()),
                opened => opened?,
            };
        }
        self.parent = Some((names.to_vec(), at));
        Ok(())
    }

    /// Returns the directory that [`enter`](Self::enter) opened.
    fn directory_fd(&self) -> &OwnedFd {
        self.parent.as_ref().map_or(&self.root, |(_, fd)| fd)
    }

    fn kind(&self, name: &[u8]) -> Result<Option<FileType>, Failure> {
        match rustix::fs::statat(self.directory_fd(), name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(FileType::from_raw_mode(stat.st_mode))),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }

    fn directory(&self, name: &[u8]) -> Result<(), Failure> {
        match self.kind(name)? {
            Some(FileType::Directory) => Ok(()),
            Some(_) => Err(Problem::OverFile.into()),
            None => {
                // Other users cannot enter before its own mode is set.
                let mode = Mode::from_raw_mode(0o700);
                Ok(rustix::fs::mkdirat(self.directory_fd(), name, mode)?)
            }
        }
    }

    /// Removes an existing entry of this name.
    fn clear(&self, name: &[u8]) -> Result<(), Failure> {
        match self.kind(name)? {
            Some(FileType::Directory) => Err(Problem::OverDirectory.into()),
            Some(_) => Ok(rustix::fs::unlinkat(
                self.directory_fd(),
                name,
                AtFlags::empty(),
            )?),
            None => Ok(()),
        }
    }

    /// Creates an empty file.
    fn create(&self, name: &[u8]) -> Result<File, Failure> {
        let mut flags = OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        match self.clear(name) {
            Ok(()) => flags |= OFlags::CREATE | OFlags::EXCL,
            // The name is a mount point of a file, which can only be written to.
            Err(Failure::System(error))
                if Errno::from_io_error(&error) == Some(Errno::BUSY)
                    && self.kind(name)? == Some(FileType::RegularFile) =>
            {
                flags |= OFlags::TRUNC;
            }
            Err(error) => return Err(error),
        }
        let mode = Mode::from_raw_mode(0o600);
        let file = rustix::fs::openat(self.directory_fd(), name, flags, mode)?;
        Ok(File::from(file))
    }

    /// Creates a hard link to the file at the path `to`.
    fn link(&mut self, name: &[u8], mut to: Vec<Vec<u8>>) -> Result<(), Failure> {
        let last = to.pop().ok_or(Problem::LinkTarget)?;
        let from = self.directory_fd().try_clone().map_err(Failure::io)?;
        let mut at = self.root.try_clone().map_err(Failure::io)?;
        for part in &to {
            at = match open_directory(&at, part) {
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {
                    return Err(Problem::LinkTarget.into());
                }
                opened => opened?,
            };
        }
        let missing = |errno| match errno {
            Errno::NOENT => Problem::LinkTarget.into(),
            errno => Failure::from(errno),
        };
        let target = rustix::fs::statat(&at, &last[..], AtFlags::SYMLINK_NOFOLLOW);
        let target = target.map_err(missing)?;
        if FileType::from_raw_mode(target.st_mode) == FileType::Directory {
            return Err(Problem::LinkTarget.into());
        }
        if let Ok(now) = rustix::fs::statat(&from, name, AtFlags::SYMLINK_NOFOLLOW)
            && (now.st_dev, now.st_ino) == (target.st_dev, target.st_ino)
        {
            return Ok(());
        }
        self.clear(name)?;
        rustix::fs::linkat(&at, &last[..], &from, name, AtFlags::empty()).map_err(missing)
    }

    fn node(
        &self,
        name: &[u8],
        kind: FileType,
        number: u64,
        attributes: &Attributes,
    ) -> Result<(), Failure> {
        self.clear(name)?;
        let mode = Mode::from_raw_mode(0o600);
        make_node(self.directory_fd(), name, kind, mode, number)?;
        Ok(self.describe_node(name, attributes, true)?)
    }

    /// Sets the attributes of an open file or directory. The owner comes first, because changing it
    /// drops set-id bits and capabilities.
    fn describe(&self, file: impl AsFd, attributes: &Attributes) -> rustix::io::Result<()> {
        let file = file.as_fd();
        if self.options.owners {
            let (uid, gid) = (attributes.uid, attributes.gid);
            rustix::fs::fchown(file, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?;
        }
        for (name, value) in &attributes.xattrs {
            let wanted = self.options.trusted
                || name.starts_with(b"user.")
                || self.options.owners && name == b"security.capability";
            if wanted {
                xattrs::set(file, name, value)?;
            }
        }
        rustix::fs::fchmod(file, self.mode(attributes))?;
        rustix::fs::futimens(file, &times(attributes))
    }

    /// As [`describe`](Self::describe), for files that cannot be opened.
    fn describe_node(
        &self,
        name: &[u8],
        attributes: &Attributes,
        has_mode: bool,
    ) -> rustix::io::Result<()> {
        let parent = self.directory_fd();
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        if self.options.owners {
            let (uid, gid) = (attributes.uid, attributes.gid);
            let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
            rustix::fs::chownat(parent, name, Some(uid), Some(gid), flags)?;
        }
        if has_mode {
            // The file was just created, under a name that only this user can change.
            rustix::fs::chmodat(parent, name, self.mode(attributes), AtFlags::empty())?;
        }
        rustix::fs::utimensat(parent, name, &times(attributes), flags)
    }

    fn mode(&self, attributes: &Attributes) -> Mode {
        let kept = match self.options.privileges() {
            true => 0o7777,
            false => 0o1777,
        };
        Mode::from_raw_mode(RawMode::from(attributes.mode & kept))
    }

    /// Sets the attributes of directories, the innermost first.
    fn finish(mut self) -> Result<Unpacked> {
        for (names, attributes) in std::mem::take(&mut self.directories).into_iter().rev() {
            let path = self.path(&names, b"");
            let mut at = self.root.try_clone().map_err(Error::io(&path))?;
            for name in &names {
                at = open_directory(&at, name).map_err(Error::io(&path))?;
            }
            self.describe(&at, &attributes).map_err(Error::io(&path))?;
        }
        Ok(self.done)
    }
}

fn open_directory(at: &OwnedFd, name: &[u8]) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(at, name, flags, Mode::empty())
}

#[cfg(target_os = "linux")]
fn make_node(
    parent: &OwnedFd,
    name: &[u8],
    kind: FileType,
    mode: Mode,
    number: u64,
) -> rustix::io::Result<()> {
    rustix::fs::mknodat(parent, name, kind, mode, number)
}

#[cfg(not(target_os = "linux"))]
fn make_node(_: &OwnedFd, _: &[u8], _: FileType, _: Mode, _: u64) -> rustix::io::Result<()> {
    Err(Errno::NOTSUP)
}

fn times(attributes: &Attributes) -> Timestamps {
    let time = Timespec {
        tv_sec: attributes.mtime.secs as _,
        tv_nsec: attributes.mtime.nanos as _,
    };
    Timestamps {
        last_access: time,
        last_modification: time,
    }
}

/// Writes a file's data; the gaps between its ranges stay holes.
fn contents<R: BufRead>(
    mut file: &File,
    map: &Map,
    source: &mut Source<R>,
    path: &Path,
) -> Result<()> {
    for &(start, length) in &map.ranges {
        file.seek(SeekFrom::Start(start)).map_err(Error::io(path))?;
        let mut left = length;
        while left > 0 {
            let there = match source.fill_buf() {
                Ok(there) => there,
                Err(error) => {
                    let failure = source.take_failure().map(Error::Archive);
                    return Err(failure.unwrap_or_else(|| Error::io(path)(error)));
                }
            };
            let count = usize::try_from(left).map_or(there.len(), |left| left.min(there.len()));
            let there = there.get(..count).unwrap_or_default();
            file.write_all(there).map_err(Error::io(path))?;
            source.consume(count);
            left -= count as u64;
        }
    }
    let ends = map
        .ranges
        .last()
        .map_or(0, |(start, length)| start + length);
    if ends < map.size {
        file.set_len(map.size).map_err(Error::io(path))?;
    }
    source.padding(map.stored()).map_err(Error::Archive)
}

/// Returns the components of a path; none for the archive's root.
fn components(path: &[u8]) -> Result<Vec<Vec<u8>>, Problem> {
    let mut names = Vec::new();
    for name in path.split(|&byte| byte == b'/') {
        match name {
            b"" | b"." => {}
            b".." => return Err(Problem::Escape),
            name if name.contains(&0) => return Err(Problem::Escape),
            name => names.push(name.to_vec()),
        }
    }
    match names.len() > MAX_DEPTH {
        true => Err(Problem::Depth),
        false => Ok(names),
    }
}

/// The error of an entry whose name is added later.
enum Failure {
    System(io::Error),
    Problem(Problem),
}

impl Failure {
    fn io(error: io::Error) -> Self {
        Self::System(error)
    }

    fn of(self, path: &Path, named: impl FnOnce(Problem) -> Error) -> Error {
        match self {
            Self::System(source) => Error::io(path)(source),
            Self::Problem(problem) => named(problem),
        }
    }
}

impl From<Errno> for Failure {
    fn from(errno: Errno) -> Self {
        Self::System(errno.into())
    }
}

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Self {
        Self::Problem(problem)
    }
}
