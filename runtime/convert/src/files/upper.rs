//! Reads the upperdir on a writable disk, as a layer.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use ext4_writer::{Inode, Kind as Ext4Kind, Ranges, Reader};
use fsmerge::{
    BuilderNodeId, ContentStore, DeviceNumber, Kind, LayerBuilder, Limits, Metadata, Timestamp,
    overlay,
};

use crate::error::{Error, Result};

/// The upperdir's name in the root of the disk.
pub(super) const UPPER: &[u8] = b"upper";

/// A sandbox's writable disk.
pub(super) struct Upper {
    pub(super) disk: Reader<File>,
    pub(super) path: PathBuf,
}

impl Upper {
    pub(super) fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(Error::io(path))?;
        let failed = |source| Error::Ext4 {
            path: path.to_owned(),
            source,
        };
        Ok(Self {
            disk: Reader::open(file).map_err(failed)?,
            path: path.to_owned(),
        })
    }
}

/// Reads the upperdir of a disk, and adds its files' contents to `contents`.
pub(super) fn read<'a>(upper: &'a Upper, contents: &mut ContentStore<'a>) -> Result<LayerBuilder> {
    let Upper { disk, path } = upper;
    let failed = |source| Error::Ext4 {
        path: path.to_owned(),
        source,
    };
    let refused = |source| Error::layer(&path.display().to_string(), source);
    let node = |name: &[u8], problem| {
        refused(fsmerge::Error::Node {
            path: name.into(),
            problem,
        })
    };
    let mut layer = LayerBuilder::new(&Limits::default());
    let top = disk.lookup(UPPER).map_err(failed)?;
    let top = top.ok_or_else(|| node(UPPER, fsmerge::Problem::NotFound))?;
    let attributes = metadata(disk, &top).map_err(failed)?;
    let (attributes, _) =
        overlay::decode(&attributes, Kind::DIRECTORY).map_err(|problem| node(UPPER, problem))?;
    layer.set_root(attributes, false, false);
    let mut links: HashMap<u32, BuilderNodeId> = HashMap::new();
    // A directory with two names could contain itself.
    let mut seen = HashSet::from([top.number()]);
    let mut pending = vec![(top, Vec::new(), layer.root())];
    while let Some((directory, folder, parent)) = pending.pop() {
        for (name, number) in disk.read_dir(&directory).map_err(failed)? {
            let separator: &[u8] = if folder.is_empty() { b"" } else { b"/" };
            let full = [&folder, separator, &name].concat();
            if let Some(&known) = links.get(&number) {
                layer.link(parent, &name, known).map_err(refused)?;
                continue;
            }
            let inode = disk.inode(number).map_err(failed)?;
            let attributes = metadata(disk, &inode).map_err(failed)?;
            let target;
            let kind = match inode.kind() {
                Ext4Kind::Directory => Kind::DIRECTORY,
                Ext4Kind::File => file(disk, &inode, path, contents).map_err(failed)?,
                Ext4Kind::Symlink => {
                    target = disk.read_link(&inode).map_err(failed)?;
                    Kind::Symlink(&target)
                }
                Ext4Kind::CharDevice => Kind::CharDevice(device(&inode)),
                Ext4Kind::BlockDevice => Kind::BlockDevice(device(&inode)),
                Ext4Kind::Fifo => Kind::Fifo,
                Ext4Kind::Socket => Kind::Socket,
            };
            let (attributes, kind) =
                overlay::decode(&attributes, kind).map_err(|problem| node(&full, problem))?;
            let is_whiteout = kind == Kind::Whiteout;
            let added = layer
                .add(parent, &name, attributes, kind)
                .map_err(refused)?;
            if inode.kind() == Ext4Kind::Directory {
                if !seen.insert(number) {
                    return Err(node(&full, fsmerge::Problem::AlreadyExists));
                }
                pending.push((inode, full, added));
            } else if inode.nlink() > 1 && !is_whiteout {
                // Overlayfs uses one inode for all whiteouts.
                links.insert(number, added);
            }
        }
    }
    Ok(layer)
}

fn file<'a>(
    disk: &'a Reader<File>,
    inode: &Inode,
    path: &Path,
    contents: &mut ContentStore<'a>,
) -> Result<Kind<'static>, ext4_writer::Error> {
    if inode.size() == 0 {
        let (size, data) = (0, None);
        return Ok(Kind::File { size, data });
    }
    let ranges = disk.ranges(inode)?;
    let (number, whole, path) = (inode.number(), ranges.clone(), path.to_owned());
    let data = contents.add(ranges, move || {
        let file = disk.inode(number).and_then(|inode| disk.file(&inode));
        let file = file.map_err(|source| {
            io::Error::other(Error::Ext4 {
                path: path.clone(),
                source,
            })
        })?;
        Ok(Box::new(Ranges::new(file, whole.clone())))
    });
    Ok(Kind::File {
        size: inode.size(),
        data: Some(data),
    })
}

fn device(inode: &Inode) -> DeviceNumber {
    let ext4_writer::DeviceNumber { major, minor } = inode.device();
    DeviceNumber { major, minor }
}

/// Returns the attributes of an inode, without marks of overlayfs that do not affect what programs
/// see.
fn metadata(disk: &Reader<File>, inode: &Inode) -> Result<Metadata, ext4_writer::Error> {
    /// Marks that are kept: one that hides something, and two that this view cannot follow.
    const MEANT: [&[u8]; 3] = [overlay::OPAQUE, overlay::METACOPY, overlay::REDIRECT];
    let found = disk.attributes(inode)?;
    let xattrs = found.xattrs.into_iter().filter(|(name, _)| {
        !name.starts_with(overlay::PREFIX)
            || name.starts_with(overlay::ESCAPED_PREFIX)
            || MEANT.contains(&&name[..])
    });
    let ext4_writer::Timestamp { secs, nanos } = found.mtime;
    Ok(Metadata::new(found.mode)
        .owner(found.uid, found.gid)
        .mtime(Timestamp { secs, nanos })
        .xattrs(xattrs))
}
