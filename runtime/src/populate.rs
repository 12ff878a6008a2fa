//! An ext4 image that holds a tree.

use std::convert::Infallible;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;

use ext4_writer::{Builder, Device};
use fsmerge::{Content, DataId, Kind, Limits, NodeId, ReadError, Segment, Sink, Tree};

use crate::error::{Error, Result};
use crate::folder;

/// A file's contents in the spool: where they begin there, how long they are, and the parts that are no holes.
struct Spooled {
    start: u64,
    size: u64,
    ranges: Vec<std::ops::Range<u64>>,
}

/// Puts the tar archive `tar`, which is called `name`, into the image that will be at `path`. Contents wait in a temporary
/// file until the names are known, since the last entry of a name is the one that counts.
pub fn from_tar<W: Read + Write + Seek>(
    tar: impl Read,
    name: &str,
    image: &mut Builder<W>,
    path: &Path,
) -> Result<()> {
    let spool = tempfile::tempfile().map_err(Error::io(std::env::temp_dir()))?;
    let mut spool = Spool {
        file: spool,
        end: 0,
        files: Vec::new(),
    };
    let (tree, _) =
        fsmerge::read_tar(tar, &mut spool, &Limits::default()).map_err(|error| match error {
            ReadError::Sink { source, .. } => Error::io(std::env::temp_dir())(source),
            ReadError::Layer(source) => Error::layer(name, source),
        })?;
    let Spool { file, files, .. } = &mut spool;
    fill(&tree, image, path, |image, parent, name, metadata, id| {
        let spooled = &files[id.0 as usize];
        file.seek(SeekFrom::Start(spooled.start))
            .map_err(Error::io(name_of(name)))?;
        image
            .add_sparse_file(
                parent,
                name,
                metadata,
                spooled.size,
                &spooled.ranges,
                &mut *file,
            )
            .map_err(|source| Error::Ext4 {
                path: path.to_owned(),
                source,
            })
    })
}

/// Puts what is in the folder `root` into the image that will be at `path`.
pub fn from_folder<W: Read + Write + Seek>(
    root: &Path,
    image: &mut Builder<W>,
    path: &Path,
) -> Result<()> {
    let mut paths = Paths(Vec::new());
    let (tree, _) = folder::read(root, &mut paths, |_, never| match never {})?;
    let files: Vec<_> = paths
        .0
        .iter()
        .map(|path| folder::host(root, path))
        .collect();
    fill(&tree, image, path, |image, parent, name, metadata, id| {
        let source = &files[id.0 as usize];
        let contents = File::open(source).map_err(Error::io(source))?;
        let size = contents.metadata().map_err(Error::io(source))?.len();
        image
            .add_file(parent, name, metadata, contents.take(size), Some(size))
            .map_err(|source| Error::Ext4 {
                path: path.to_owned(),
                source,
            })
    })
}

/// Notes which files have contents: they are read where they are, once the image has room for them.
struct Paths(Vec<Vec<u8>>);

impl Sink for Paths {
    type Error = Infallible;

    fn file(&mut self, path: &[u8], _: Content<'_>) -> Result<DataId, Infallible> {
        self.0.push(path.to_vec());
        Ok(DataId(self.0.len() as u64 - 1))
    }
}

struct Spool {
    file: File,
    end: u64,
    files: Vec<Spooled>,
}

impl Sink for Spool {
    type Error = io::Error;

    fn file(&mut self, _path: &[u8], mut content: Content<'_>) -> io::Result<DataId> {
        let (start, mut at, mut ranges) = (self.end, 0, Vec::new());
        while let Some(segment) = content.next_segment() {
            match segment {
                Segment::Hole(len) => at += len,
                Segment::Data(len) => {
                    ranges.push(at..at + len);
                    self.end += io::copy(&mut (&mut content).take(len), &mut self.file)?;
                    at += len;
                }
            }
        }
        self.files.push(Spooled {
            start,
            size: at,
            ranges,
        });
        Ok(DataId(self.files.len() as u64 - 1))
    }
}

/// Adds the nodes of `tree`; `add_file` adds a file that is not empty.
fn fill<W: Read + Write + Seek>(
    tree: &Tree,
    image: &mut Builder<W>,
    path: &Path,
    mut add_file: impl FnMut(
        &mut Builder<W>,
        ext4_writer::NodeId,
        &[u8],
        ext4_writer::Metadata,
        DataId,
    ) -> Result<ext4_writer::NodeId>,
) -> Result<()> {
    let failed = |source| Error::Ext4 {
        path: path.to_owned(),
        source,
    };
    let mut added: Vec<Option<ext4_writer::NodeId>> = vec![None; tree.len()];
    added[tree.root().index()] = Some(image.root());
    if !matches!(
        tree.kind(tree.root()),
        Kind::Directory { implied: true, .. }
    ) {
        image
            .set_metadata(image.root(), metadata(tree, tree.root()))
            .map_err(failed)?;
    }
    // A directory comes before what it holds.
    for directory in tree.nodes() {
        let Some(parent) = added[directory.index()] else {
            continue;
        };
        for (name, id) in tree.children(directory) {
            if let Some(node) = added[id.index()] {
                image.link(parent, name, node).map_err(failed)?;
                continue;
            }
            let metadata = metadata(tree, id);
            let node = match tree.kind(id) {
                Kind::Directory { .. } => image.add_dir(parent, name, metadata),
                Kind::File {
                    data: Some(data), ..
                } => Ok(add_file(image, parent, name, metadata, data)?),
                Kind::File { data: None, .. } => {
                    image.add_file(parent, name, metadata, io::empty(), Some(0))
                }
                Kind::Symlink(target) => image.add_symlink(parent, name, metadata, target),
                Kind::CharDevice { major, minor } => {
                    image.add_device(parent, name, metadata, Device::Char { major, minor })
                }
                Kind::BlockDevice { major, minor } => {
                    image.add_device(parent, name, metadata, Device::Block { major, minor })
                }
                Kind::Fifo => image.add_fifo(parent, name, metadata),
                Kind::Socket => image.add_socket(parent, name, metadata),
                // A single archive has nothing below it.
                Kind::Whiteout => continue,
                Kind::LowerLink(target) => {
                    return Err(Error::NoLinkTarget {
                        name: name_of(name),
                        target: name_of(target),
                    });
                }
            };
            added[id.index()] = Some(node.map_err(failed)?);
        }
    }
    Ok(())
}

fn metadata(tree: &Tree, id: NodeId) -> ext4_writer::Metadata {
    let attributes = tree.attributes(id);
    let mtime = attributes.mtime;
    ext4_writer::Metadata {
        mode: attributes.mode,
        uid: attributes.uid,
        gid: attributes.gid,
        mtime: ext4_writer::Timestamp {
            secs: mtime.secs,
            nanos: mtime.nanos,
        },
        xattrs: attributes.xattrs.to_vec(),
    }
}

fn name_of(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string()
}
