//! An ext4 image that holds a tree.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::Path;

use erofs_reader::Nid;
use ext4_writer::{Builder, Device};
use fsmerge::{Content, DataId, Kind, Limits, Merge, NodeId, ReadError, Segment, Sink, Tree};

use crate::error::{Error, Result};
use crate::reader::Reader;
use crate::squash::Layer;
use crate::{folder, layer};

/// Puts the tar archive `tar`, which is called `name`, into the image that will be at `path`. Contents wait in a temporary
/// file until the names are known, since the last entry of a name is the one that counts.
///
/// # Errors
///
/// Where the archive is damaged or hostile, or its tree does not fit in the image.
pub fn from_tar<W: Read + Write + Seek>(
    tar: impl Read,
    name: &str,
    image: &mut Builder<W>,
    path: &Path,
) -> Result<()> {
    let mut files = Files::new()?;
    let tree = files.read_tar(tar, name)?;
    let mut fill = Fill { image, path, files };
    fill.add(&tree)
}

/// Puts what a container would see of a stack of layers, lowest first, into the image that will be at `path`: a whole image on
/// one disk. A merged image, as the VMDK of its disk for instance, is a layer too.
///
/// # Errors
///
/// Where a layer cannot be read or does not fit on those below it, or the tree does not fit in the image.
pub fn from_layers<W: Read + Write + Seek>(
    layers: &[Layer],
    image: &mut Builder<W>,
    path: &Path,
) -> Result<()> {
    let mut files = Files::new()?;
    let mut merge = Merge::new(&Limits::default());
    for layer in layers {
        let name = layer.path().display().to_string();
        let tree = match layer {
            Layer::Tar(path) => {
                let mut tar = ocipull::decompress(File::open(path).map_err(Error::io(path))?)?;
                let tree = files.read_tar(&mut tar, &name)?;
                tar.finish()?;
                tree
            }
            Layer::Folder(root) => folder::read(root, &mut files, |_, e| spool_failed(e))?.0,
            Layer::Image { path, image } => layer::tree(image, path, |_, inode, _| {
                let nid = inode.nid();
                Ok(Some(files.note(Place::Image { path, image, nid })))
            })?,
        };
        merge
            .push(&tree)
            .map_err(|source| Error::layer(&name, source))?;
    }
    let mut fill = Fill { image, path, files };
    fill.add(&merge.finish())
}

/// Puts what is in the folder `root` into the image that will be at `path`, as it is: overlayfs's marks are no marks here.
///
/// # Errors
///
/// Where something in the folder cannot be read, or its tree does not fit in the image.
pub fn from_folder<W: Read + Write + Seek>(
    root: &Path,
    image: &mut Builder<W>,
    path: &Path,
) -> Result<()> {
    image.add_dir_all(root).map_err(|source| match source {
        ext4_writer::Error::Host { path, source } => Error::io(path)(source),
        source => failed(path, source),
    })
}

fn failed(path: &Path, source: ext4_writer::Error) -> Error {
    Error::Ext4 {
        path: path.to_owned(),
        source,
    }
}

fn spool_failed(source: io::Error) -> Error {
    Error::io(std::env::temp_dir())(source)
}

/// Where a file's contents are.
enum Place<'a> {
    /// In the spool, from `start` on; `ranges` are the parts of the file that are no holes.
    Spool {
        start: u64,
        size: u64,
        ranges: Vec<Range<u64>>,
    },
    /// In the image at `path`.
    Image {
        path: &'a Path,
        image: &'a Reader,
        nid: Nid,
    },
}

/// The contents of all files, by their ids.
struct Files<'a> {
    /// Contents that come only once.
    spool: File,
    end: u64,
    places: Vec<Place<'a>>,
}

impl<'a> Files<'a> {
    fn new() -> Result<Self> {
        Ok(Self {
            spool: tempfile::tempfile().map_err(spool_failed)?,
            end: 0,
            places: Vec::new(),
        })
    }

    fn note(&mut self, place: Place<'a>) -> DataId {
        self.places.push(place);
        DataId(self.places.len() as u64 - 1)
    }

    fn read_tar(&mut self, tar: impl Read, name: &str) -> Result<fsmerge::Layer> {
        let read = fsmerge::read_tar(tar, self, &Limits::default());
        let (tree, _) = read.map_err(|error| match error {
            ReadError::Sink { source, .. } => spool_failed(source),
            ReadError::Layer(source) => Error::layer(name, source),
        })?;
        Ok(tree)
    }
}

impl Sink for Files<'_> {
    type Error = io::Error;

    fn file(&mut self, _path: &[u8], mut content: Content<'_>) -> io::Result<DataId> {
        let (start, mut at, mut ranges) = (self.end, 0, Vec::new());
        while let Some(segment) = content.next_segment() {
            match segment {
                Segment::Hole(len) => at += len,
                Segment::Data(len) => {
                    ranges.push(at..at + len);
                    self.end += io::copy(&mut (&mut content).take(len), &mut self.spool)?;
                    at += len;
                }
            }
        }
        Ok(self.note(Place::Spool {
            start,
            size: at,
            ranges,
        }))
    }
}

/// Parts of a file, one behind the other.
struct Parts<R> {
    file: R,
    ranges: std::vec::IntoIter<Range<u64>>,
    /// Of the part that is being read.
    left: u64,
}

impl<R: Read + Seek> Read for Parts<R> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        while self.left == 0 {
            let Some(range) = self.ranges.next() else {
                return Ok(0);
            };
            self.file.seek(SeekFrom::Start(range.start))?;
            self.left = range.end - range.start;
        }
        let read = (&mut self.file).take(self.left).read(bytes)?;
        self.left -= read as u64;
        Ok(read)
    }
}

/// Fills the image that will be at `path`.
struct Fill<'a, W> {
    image: &'a mut Builder<W>,
    path: &'a Path,
    files: Files<'a>,
}

impl<W: Read + Write + Seek> Fill<'_, W> {
    /// Adds the nodes of `tree`.
    fn add(&mut self, tree: &Tree) -> Result<()> {
        let mut added: Vec<Option<ext4_writer::NodeId>> = vec![None; tree.len()];
        let root = self.image.root();
        added[tree.root().index()] = Some(root);
        let implied = matches!(
            tree.kind(tree.root()),
            Kind::Directory { implied: true, .. }
        );
        if !implied {
            self.image
                .set_metadata(root, metadata(tree, tree.root()))
                .map_err(|source| failed(self.path, source))?;
        }
        // A directory comes before what it holds.
        for directory in tree.nodes() {
            let Some(parent) = added[directory.index()] else {
                continue;
            };
            for (name, id) in tree.children(directory) {
                if let Some(node) = added[id.index()] {
                    match self.image.link(parent, name, node) {
                        // The next names are of a copy.
                        Err(ext4_writer::Error::TooManyLinks { .. }) => (),
                        linked => {
                            linked.map_err(|source| failed(self.path, source))?;
                            continue;
                        }
                    }
                }
                added[id.index()] = self.node(tree, parent, name, id)?;
            }
        }
        Ok(())
    }

    /// Adds a node, if it is one of the tree in the end.
    fn node(
        &mut self,
        tree: &Tree,
        parent: ext4_writer::NodeId,
        name: &[u8],
        id: NodeId,
    ) -> Result<Option<ext4_writer::NodeId>> {
        let metadata = metadata(tree, id);
        let image = &mut *self.image;
        let node = match tree.kind(id) {
            Kind::Directory { .. } => image.add_dir(parent, name, metadata),
            Kind::File {
                data: Some(data), ..
            } => return Ok(Some(self.file(parent, name, metadata, data)?)),
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
            Kind::Whiteout => return Ok(None),
            Kind::LowerLink(target) => {
                return Err(Error::NoLinkTarget {
                    name: name_of(name),
                    target: name_of(target),
                });
            }
        };
        node.map(Some).map_err(|source| failed(self.path, source))
    }

    /// Adds a file that is not empty.
    fn file(
        &mut self,
        parent: ext4_writer::NodeId,
        name: &[u8],
        metadata: ext4_writer::Metadata,
        data: DataId,
    ) -> Result<ext4_writer::NodeId> {
        let image = &mut *self.image;
        let added = match &self.files.places[data.0 as usize] {
            Place::Spool {
                start,
                size,
                ranges,
            } => {
                let spool = &mut self.files.spool;
                spool.seek(SeekFrom::Start(*start)).map_err(spool_failed)?;
                image.add_sparse_file(parent, name, metadata, *size, ranges, spool)
            }
            &Place::Image {
                path,
                image: source,
                nid,
            } => {
                let damaged = |error| Error::Read {
                    path: path.to_owned(),
                    source: error,
                };
                let inode = source.inode(nid).map_err(damaged)?;
                let pieces = layer::of_file(&source.extents(&inode).map_err(damaged)?);
                let ranges: Vec<_> = pieces
                    .iter()
                    .filter(|piece| piece.start.is_some())
                    .map(|piece| piece.logical..piece.logical + piece.length)
                    .collect();
                let parts = Parts {
                    file: source.file(&inode).map_err(damaged)?,
                    ranges: ranges.clone().into_iter(),
                    left: 0,
                };
                image.add_sparse_file(parent, name, metadata, inode.size(), &ranges, parts)
            }
        };
        added.map_err(|source| failed(self.path, source))
    }
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
