//! Copies files into a stopped sandbox, by writing a new writable disk.

use std::fs::File;
use std::io::{self, BufRead, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::sync::Arc;

use blockbox_tar::{Attributes, Entry, Limits as TarLimits, Map, Reader, Source, What};
use fsmerge::{
    BuilderNodeId, ContentStore, DataId, DeviceNumber, Kind, LayerBuilder, Metadata, NodeId,
    Timestamp,
};

use super::{Sources, View, rebuild, upper};
use crate::error::{CopyProblem as Problem, Error, Result};

/// Limits for the archive.
const LIMITS: TarLimits = TarLimits {
    entries: 16 << 20,
    extended_header_bytes: 8 << 20,
    file_bytes: i64::MAX as u64,
    sparse_ranges: 1 << 20,
};

/// Options of copying into a sandbox.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct CopyOptions {
    /// Whether files keep the owners of the archive, instead of belonging to root.
    pub owners: bool,
}

impl CopyOptions {
    /// Sets [`owners`](Self::owners).
    #[must_use]
    pub fn owners(mut self, owners: bool) -> Self {
        self.owners = owners;
        self
    }
}

/// Writes to `out` the sandbox's disk with the files of the archive `tar` in the directory
/// `target`, a path as [`find`](super::find) returns it. A file replaces an existing one of its
/// name; an existing directory keeps its contents.
///
/// # Errors
///
/// [`Error::Diskless`], [`Error::Archive`], [`Error::Entry`]; [`Error::Ext4`] if the files do not
/// fit.
pub fn copy_in(
    sources: &Sources,
    target: &[u8],
    tar: impl BufRead,
    options: CopyOptions,
    out: File,
) -> Result<()> {
    let disk = sources.upper.as_ref().ok_or(Error::Diskless)?;
    let mut view = sources.view()?;
    let mut changed = Changed {
        layer: upper::read(disk, &mut view.contents)?,
        view: &view,
        target,
        options,
        added: std::collections::HashMap::new(),
    };
    let spool_failed = |source| Error::io(std::env::temp_dir())(source);
    let mut spool = Spool::new().map_err(spool_failed)?;
    let mut files = Vec::new();
    let mut reader = Reader::new(Source::new(tar), LIMITS);
    while let Some(entry) = reader.next(|_| ()).map_err(Error::Archive)? {
        let mut contents = None;
        if let What::File(map) = &entry.what {
            let start = spool.take(map, &mut reader.source)?;
            if map.size > 0 {
                contents = Some(DataId(FROM_ARCHIVE + files.len() as u64));
                files.push((start, ranges(map)));
            }
        }
        changed.entry(&entry, contents)?;
    }
    let layer = changed.layer.finish();
    let spool = Arc::new(spool.file);
    let mut contents = ContentStore::in_memory();
    for (start, ranges) in files {
        let spool = Arc::clone(&spool);
        let length = ranges.iter().map(|range| range.end - range.start).sum();
        contents.add(ranges, move || {
            Ok(Box::new(Spooled {
                file: Arc::clone(&spool),
                at: start,
                left: length,
            }))
        });
    }
    let mut both = Both {
        disk: &mut view.contents,
        archive: &mut contents,
    };
    rebuild::write(disk, &layer, &mut both, out)
}

/// The first id of contents that come from the archive.
const FROM_ARCHIVE: u64 = 1 << 48;

/// The contents of the disk and of the archive.
struct Both<'a, 'd, 't> {
    disk: &'a mut ContentStore<'d>,
    archive: &'a mut ContentStore<'t>,
}

impl fsmerge::Contents for Both<'_, '_, '_> {
    fn open(&mut self, data: DataId) -> io::Result<fsmerge::StoredContent<'_>> {
        match data.0.checked_sub(FROM_ARCHIVE) {
            Some(id) => self.archive.open(DataId(id)),
            None => self.disk.open(data),
        }
    }
}

struct Changed<'a, 's> {
    layer: LayerBuilder,
    view: &'a View<'s>,
    target: &'a [u8],
    options: CopyOptions,
    /// Nodes that the archive added, by their name in it.
    added: std::collections::HashMap<Vec<u8>, BuilderNodeId>,
}

impl Changed<'_, '_> {
    fn entry(&mut self, entry: &Entry, data: Option<DataId>) -> Result<()> {
        let fail = |problem| Error::Entry {
            name: entry.path.clone().into(),
            problem,
        };
        let name = normalised(&entry.path).map_err(fail)?;
        let attributes = entry.attributes().map_err(|_| fail(Problem::Attributes))?;
        let metadata = self.metadata(attributes);
        let path = match (self.target, &name[..]) {
            (target, b"") => target.to_vec(),
            (b"", name) => name.to_vec(),
            (target, name) => [target, b"/", name].concat(),
        };
        let refused = |source| Error::layer("upper", source);
        if let What::Directory = entry.what {
            return self.directory(&path, metadata, fail);
        }
        if name.is_empty() {
            return Err(fail(Problem::OverDirectory));
        }
        self.parents(&path, fail)?;
        if self.is_directory(&path) {
            return Err(fail(Problem::OverDirectory));
        }
        let kind = match &entry.what {
            What::File(map) => Kind::File {
                size: map.size,
                data,
            },
            What::Symlink(target) => Kind::Symlink(target),
            What::CharDevice { major: 0, minor: 0 } => return Err(fail(Problem::Type)),
            &What::CharDevice { major, minor } => Kind::CharDevice(DeviceNumber { major, minor }),
            &What::BlockDevice { major, minor } => Kind::BlockDevice(DeviceNumber { major, minor }),
            What::Fifo => Kind::Fifo,
            What::HardLink(to) => {
                let to = normalised(to).map_err(fail)?;
                let node = self.added.get(&to).copied();
                let node = node.ok_or_else(|| fail(Problem::LinkTarget))?;
                if to == name {
                    return Ok(());
                }
                let (folder, base) = split(&path);
                if self.layer.lookup(&path).is_some() {
                    self.layer.remove(&path).map_err(refused)?;
                }
                let parent = self.layer.lookup(folder);
                let parent = parent.ok_or_else(|| fail(Problem::Parent))?;
                self.layer.link(parent, base, node).map_err(refused)?;
                self.added.insert(name, node);
                return Ok(());
            }
            What::Unknown { .. } | What::Directory => return Err(fail(Problem::Type)),
        };
        let node = self.layer.replace(&path, metadata, kind).map_err(refused)?;
        self.added.insert(name, node);
        Ok(())
    }

    fn metadata(&self, attributes: Attributes) -> Metadata {
        let (uid, gid) = match self.options.owners {
            true => (attributes.uid, attributes.gid),
            false => (0, 0),
        };
        let xattrs = attributes.xattrs.into_iter();
        let known = |name: &[u8]| {
            [&b"user."[..], b"security.", b"system.posix_acl_"]
                .iter()
                .any(|prefix| name.starts_with(prefix))
        };
        Metadata::new(attributes.mode)
            .owner(uid, gid)
            .mtime(Timestamp {
                secs: attributes.mtime.secs,
                nanos: attributes.mtime.nanos,
            })
            .xattrs(xattrs.filter(|(name, _)| known(name)))
    }

    /// Returns whether programs see a directory at `path` now.
    fn is_directory(&self, path: &[u8]) -> bool {
        match self
            .layer
            .lookup(path)
            .and_then(|node| self.layer.kind(node))
        {
            Some(kind) => kind.is_directory(),
            None => self
                .seen(path)
                .is_some_and(|node| self.view.merged.kind(node).is_directory()),
        }
    }

    /// Returns the node that programs saw at `path` before.
    fn seen(&self, path: &[u8]) -> Option<NodeId> {
        self.view.merged.lookup(path)
    }

    fn directory(
        &mut self,
        path: &[u8],
        metadata: Metadata,
        fail: impl Fn(Problem) -> Error + Copy,
    ) -> Result<()> {
        let refused = |source| Error::layer("upper", source);
        if path.is_empty() {
            let root = self.layer.root();
            return self.layer.set_metadata(root, metadata).map_err(refused);
        }
        self.parents(path, fail)?;
        let node = self.layer.lookup(path);
        match node.and_then(|node| Some((node, self.layer.kind(node)?))) {
            Some((node, Kind::Directory { .. })) => {
                self.layer.set_metadata(node, metadata).map_err(refused)
            }
            Some((_, Kind::Whiteout)) => {
                // The image's entry of that name stays hidden.
                let (opaque, implied) = (true, false);
                let kind = Kind::Directory { opaque, implied };
                let replaced = self.layer.replace(path, metadata, kind);
                replaced.map(drop).map_err(refused)
            }
            Some(_) => Err(fail(Problem::OverFile)),
            None if self.seen(path).is_some() && !self.is_directory(path) => {
                Err(fail(Problem::OverFile))
            }
            None => {
                let added = self.layer.add_path(path, metadata, Kind::DIRECTORY);
                added.map(drop).map_err(refused)
            }
        }
    }

    /// Adds the directories above `path` to the disk, with the attributes that programs saw.
    fn parents(&mut self, path: &[u8], fail: impl Fn(Problem) -> Error + Copy) -> Result<()> {
        let refused = |source| Error::layer("upper", source);
        let ends = path.iter().enumerate().filter(|(_, byte)| **byte == b'/');
        for (end, _) in ends {
            let folder = path.get(..end).unwrap_or_default();
            let node = self.layer.lookup(folder);
            match node.and_then(|node| self.layer.kind(node)) {
                Some(Kind::Directory { .. }) => continue,
                Some(Kind::Whiteout) => {
                    self.directory(folder, Metadata::implied_directory(), fail)?;
                    continue;
                }
                Some(_) => return Err(fail(Problem::Parent)),
                None => {}
            }
            let metadata = match self.seen(folder) {
                Some(node) if self.view.merged.kind(node).is_directory() => {
                    self.view.merged.metadata(node).clone()
                }
                Some(_) => return Err(fail(Problem::Parent)),
                None => Metadata::implied_directory(),
            };
            let added = self.layer.add_path(folder, metadata, Kind::DIRECTORY);
            added.map_err(refused)?;
        }
        Ok(())
    }
}

fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|&byte| byte == b'/') {
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (b"", path),
    }
}

/// Returns an entry's name without `.` and double slashes.
fn normalised(path: &[u8]) -> Result<Vec<u8>, Problem> {
    let names = path.split(|&byte| byte == b'/');
    let names: Vec<_> = names.filter(|name| !matches!(*name, b"" | b".")).collect();
    if path.contains(&0) || names.contains(&&b".."[..]) {
        return Err(Problem::Escape);
    }
    Ok(names.join(&b'/'))
}

fn ranges(map: &Map) -> Vec<Range<u64>> {
    let ranges = map.ranges.iter();
    ranges
        .map(|&(start, length)| start..start + length)
        .collect()
}

/// Contents of an archive's files, in a temporary file until the names are known.
struct Spool {
    file: File,
    end: u64,
}

impl Spool {
    fn new() -> io::Result<Self> {
        let file = tempfile::tempfile()?;
        Ok(Self { file, end: 0 })
    }

    /// Reads the body of a file, and returns its offset in the temporary file.
    fn take<R: BufRead>(&mut self, map: &Map, source: &mut Source<R>) -> Result<u64> {
        let start = self.end;
        let failed = |source| Error::io(std::env::temp_dir())(source);
        let mut left = map.stored();
        while left > 0 {
            let there = match source.fill_buf() {
                Ok(there) => there,
                Err(error) => {
                    let failure = source.take_failure().map(Error::Archive);
                    return Err(failure.unwrap_or(Error::Contents(error)));
                }
            };
            let count = usize::try_from(left).map_or(there.len(), |left| left.min(there.len()));
            let there = there.get(..count).unwrap_or_default();
            self.file.write_all(there).map_err(failed)?;
            source.consume(count);
            left -= count as u64;
            self.end += count as u64;
        }
        source.padding(map.stored()).map_err(Error::Archive)?;
        Ok(start)
    }
}

/// A file's part of the temporary file.
struct Spooled {
    file: Arc<File>,
    at: u64,
    left: u64,
}

impl Read for Spooled {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut file = &*self.file;
        file.seek(SeekFrom::Start(self.at))?;
        let read = file.take(self.left).read(buffer)?;
        self.at += read as u64;
        self.left -= read as u64;
        Ok(read)
    }
}
