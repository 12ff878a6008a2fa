//! A layer: from a tar stream to an EROFS image, and from that image back to a tree.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::path::Path;

use erofs_reader::{Buffered, FileType, Inode, Nid, Source};
use erofs_writer::{DeviceId, FileData, ImageBuilder};
use fsmerge::{
    Attributes, Content, DataId, Kind, Layer, LayerBuilder, Limits, NodeId, ReadError, Segment,
    Sink, Tree, WarningKind, overlay,
};

use crate::error::{Error, Result};
use crate::folder;

/// What came of converting a layer.
#[derive(Debug)]
pub struct Summary {
    /// What the image holds.
    pub image: erofs_writer::Summary,
    /// What the layer has that was not taken over.
    pub warnings: Vec<String>,
}

/// Converts the tar stream of the layer called `name` to an EROFS image in `out`, which will be at `path`: one pass, in
/// memory that grows with the number of entries only. `tar` is read to its end, so that its digests are verified.
pub fn write<W: Read + Write + Seek>(
    mut tar: impl Read,
    name: &str,
    out: W,
    path: &Path,
) -> Result<Summary> {
    let failed = |source| Error::Write {
        path: path.to_owned(),
        source,
    };
    let image = ImageBuilder::with_dedupe(out, erofs_writer::Options::default()).map_err(failed)?;
    let mut contents = Contents {
        image,
        files: Vec::new(),
        buffer: vec![0; PIECE],
    };
    let (layer, stats) = fsmerge::read_tar(&mut tar, &mut contents, &Limits::default()).map_err(
        |error| match error {
            ReadError::Sink { source, .. } => failed(source),
            ReadError::Layer(source) => Error::layer(name, source),
        },
    )?;
    io::copy(&mut tar, &mut io::sink()).map_err(|source| Error::LayerStream {
        layer: name.to_owned(),
        source,
    })?;
    let Contents {
        mut image, files, ..
    } = contents;
    emit(&layer, &files, &mut image, true).map_err(failed)?;
    let (_, summary) = image.finish().map_err(failed)?;
    Ok(Summary {
        image: summary,
        warnings: warnings(&stats),
    })
}

/// Makes an image of the folder `root` in `out`, which will be at `path`.
pub fn write_folder<W: Read + Write + Seek>(root: &Path, out: W, path: &Path) -> Result<Summary> {
    let failed = |source| Error::Write {
        path: path.to_owned(),
        source,
    };
    let mut image =
        ImageBuilder::with_dedupe(out, erofs_writer::Options::default()).map_err(failed)?;
    let mut files = Vec::new();
    let tree = folder::read(root, |source, contents, size| {
        let mut data = image.data();
        io::copy(&mut contents.take(size), &mut data).map_err(Error::io(source))?;
        let data = data.finish().map_err(failed)?;
        // Whoever wrote to the file meanwhile must not get it truncated in silence.
        if data.size() != size {
            return Err(Error::Changed {
                path: source.to_owned(),
            });
        }
        files.push(data);
        Ok(DataId(files.len() as u64 - 1))
    })?;
    emit(&tree, &files, &mut image, true).map_err(failed)?;
    let (_, summary) = image.finish().map_err(failed)?;
    Ok(Summary {
        image: summary,
        warnings: Vec::new(),
    })
}

fn warnings(stats: &fsmerge::Stats) -> Vec<String> {
    let tell = |warning: &fsmerge::Warning| match &warning.kind {
        WarningKind::UnknownXattr { name } => {
            format!(
                "{}: dropped xattr {}",
                warning.path.escape_ascii(),
                name.escape_ascii()
            )
        }
        kind => format!("{}: passed over: {kind:?}", warning.path.escape_ascii()),
    };
    let mut warnings: Vec<_> = stats.warnings.iter().map(tell).collect();
    let untold = stats.warning_count.saturating_sub(warnings.len() as u64);
    if untold > 0 {
        warnings.push(format!("{untold} more"));
    }
    warnings
}

/// How much of a file is in memory at a time, in bytes.
const PIECE: usize = 256 << 10;

/// Takes files' contents as they arrive.
struct Contents<W: Write + Seek> {
    image: ImageBuilder<W>,
    files: Vec<FileData>,
    buffer: Vec<u8>,
}

impl<W: Write + Seek> Sink for Contents<W> {
    type Error = erofs_writer::Error;

    fn file(&mut self, _path: &[u8], mut content: Content<'_>) -> Result<DataId, Self::Error> {
        let mut data = self.image.data();
        while let Some(segment) = content.next_segment() {
            match segment {
                Segment::Hole(len) => data.hole(len)?,
                Segment::Data(len) => {
                    let mut left = len;
                    while left > 0 {
                        let piece = usize::try_from(left).map_or(PIECE, |left| left.min(PIECE));
                        let n = content.read(&mut self.buffer[..piece])?;
                        if n == 0 {
                            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
                        }
                        data.write_all(&self.buffer[..n])?;
                        left -= n as u64;
                    }
                }
            }
        }
        let id = DataId(self.files.len() as u64);
        self.files.push(data.finish()?);
        Ok(id)
    }
}

/// Adds every node of `tree` to `image`; a [`DataId`] is an index into `files`. `marks` says whether the image is a
/// layer's, which holds whiteouts and marks in overlayfs's language.
pub(crate) fn emit<W: Write + Seek>(
    tree: &Tree,
    files: &[FileData],
    image: &mut ImageBuilder<W>,
    marks: bool,
) -> Result<(), erofs_writer::Error> {
    let encode = |id| {
        let (attributes, kind) = (tree.attributes(id), tree.kind(id));
        if marks {
            overlay::encode(attributes, kind)
        } else {
            (attributes.clone(), kind)
        }
    };
    let mut added: Vec<Option<erofs_writer::NodeId>> = vec![None; tree.len()];
    added[tree.root().index()] = Some(image.root());
    image.set_metadata(image.root(), metadata(&encode(tree.root()).0))?;
    // A directory comes before what it holds.
    for directory in tree.nodes() {
        let Some(parent) = added[directory.index()] else {
            continue;
        };
        for (name, id) in tree.children(directory) {
            if let Some(node) = added[id.index()] {
                image.link(parent, name, node)?;
                continue;
            }
            let (attributes, kind) = encode(id);
            let node = image.add(parent, name, metadata(&attributes), node(kind, files))?;
            added[id.index()] = Some(node);
        }
    }
    Ok(())
}

fn metadata(attributes: &Attributes) -> erofs_writer::Metadata {
    let mtime = attributes.mtime;
    erofs_writer::Metadata {
        mode: attributes.mode,
        uid: attributes.uid,
        gid: attributes.gid,
        mtime: erofs_writer::Timestamp {
            secs: mtime.secs,
            nanos: mtime.nanos,
        },
        xattrs: attributes.xattrs.to_vec(),
    }
}

fn node(kind: Kind<'_>, files: &[FileData]) -> erofs_writer::Node {
    use erofs_writer::Node;
    match kind {
        Kind::Directory { .. } => Node::Directory,
        Kind::File {
            data: Some(DataId(id)),
            ..
        } => Node::File(files[id as usize].clone()),
        // Encoded layers and merged trees have neither whiteouts nor lower links.
        Kind::File { data: None, .. } | Kind::LowerLink(_) => Node::File(FileData::EMPTY),
        Kind::Symlink(target) => Node::Symlink(target.to_vec()),
        Kind::Whiteout => Node::CharDevice { major: 0, minor: 0 },
        Kind::CharDevice { major, minor } => Node::CharDevice { major, minor },
        Kind::BlockDevice { major, minor } => Node::BlockDevice { major, minor },
        Kind::Fifo => Node::Fifo,
        Kind::Socket => Node::Socket,
    }
}

type Image = erofs_reader::Image<Buffered<File>>;

/// Opens the layer image at `path`.
pub(crate) fn open(path: &Path) -> Result<Image> {
    let file = File::open(path).map_err(Error::io(path))?;
    Image::open(Buffered::new(file)).map_err(|source| Error::Read {
        path: path.to_owned(),
        source,
    })
}

/// Reads back the tree of a layer image that is device `device` of the image to make. Where a file's contents lie is added to
/// `files`, of which each file's [`DataId`] is an index.
pub(crate) fn read(
    image: &Image,
    path: &Path,
    device: DeviceId,
    files: &mut Vec<FileData>,
) -> Result<Layer> {
    let failed = |source| Error::Read {
        path: path.to_owned(),
        source,
    };
    let mut reading = Reading {
        image,
        path,
        device,
        files,
        links: HashMap::new(),
    };
    let mut layer = LayerBuilder::new(&Limits::default());
    let root = image.root().map_err(failed)?;
    let attributes = reading.attributes(&root)?;
    let plain = Kind::Directory {
        opaque: false,
        implied: false,
    };
    if let (attributes, Kind::Directory { opaque, implied }) =
        overlay::decode(&attributes, plain).map_err(|problem| reading.not_a_layer(b"/", problem))?
    {
        layer.set_root(attributes, opaque, implied);
    }
    let mut pending = vec![(root, layer.root())];
    while let Some((directory, parent)) = pending.pop() {
        for entry in image.read_dir(&directory).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            if let Some(&node) = reading.links.get(&entry.nid) {
                layer
                    .link(parent, &entry.name, node)
                    .map_err(|e| reading.merge_error(e))?;
                continue;
            }
            let inode = image.inode(entry.nid).map_err(failed)?;
            let node = reading.add(&mut layer, parent, &entry.name, &inode)?;
            if inode.is_dir() {
                pending.push((inode, node));
            } else if inode.nlink() > 1 {
                reading.links.insert(entry.nid, node);
            }
        }
    }
    Ok(layer.finish())
}

struct Reading<'a> {
    image: &'a Image,
    path: &'a Path,
    device: DeviceId,
    files: &'a mut Vec<FileData>,
    /// Nodes that may have further names.
    links: HashMap<Nid, NodeId>,
}

impl Reading<'_> {
    fn add(
        &mut self,
        layer: &mut LayerBuilder,
        parent: NodeId,
        name: &[u8],
        inode: &Inode,
    ) -> Result<NodeId> {
        let attributes = self.attributes(inode)?;
        let (major, minor) = inode.rdev();
        let target;
        let kind = match inode.file_type() {
            FileType::Directory => Kind::Directory {
                opaque: false,
                implied: false,
            },
            FileType::Regular => Kind::File {
                size: inode.size(),
                data: self.data(name, inode)?,
            },
            FileType::Symlink => {
                target = self
                    .image
                    .read_link(inode)
                    .map_err(|source| self.failed(source))?;
                Kind::Symlink(&target)
            }
            FileType::CharDevice => Kind::CharDevice { major, minor },
            FileType::BlockDevice => Kind::BlockDevice { major, minor },
            FileType::Fifo => Kind::Fifo,
            FileType::Socket => Kind::Socket,
        };
        let (attributes, kind) = overlay::decode(&attributes, kind)
            .map_err(|problem| self.not_a_layer(name, problem))?;
        layer
            .add(parent, name, attributes, kind)
            .map_err(|e| self.merge_error(e))
    }

    fn attributes(&self, inode: &Inode) -> Result<Attributes> {
        let (secs, nanos) = inode.mtime();
        let xattrs = self
            .image
            .xattrs(inode)
            .map_err(|source| self.failed(source))?;
        Ok(Attributes {
            mode: inode.mode(),
            uid: inode.uid(),
            gid: inode.gid(),
            mtime: fsmerge::Timestamp { secs, nanos },
            xattrs: xattrs.into_iter().collect(),
        })
    }

    fn data(&mut self, name: &[u8], inode: &Inode) -> Result<Option<DataId>> {
        if inode.size() == 0 {
            return Ok(None);
        }
        let extents = self
            .image
            .extents(inode)
            .map_err(|source| self.failed(source))?;
        let block = u64::from(self.image.superblock().block_size.bytes());
        let data = match extents[..] {
            [
                erofs_reader::Extent {
                    source: Source::Data { device: 0, offset },
                    length,
                    ..
                },
            ] if length == inode.size() && offset.is_multiple_of(block) => {
                FileData::on_device(self.device, offset / block, length)
            }
            _ => {
                return Err(Error::NotAddressable {
                    path: self.path.to_owned(),
                    name: name.escape_ascii().to_string(),
                });
            }
        };
        let id = DataId(self.files.len() as u64);
        self.files.push(data);
        Ok(Some(id))
    }

    fn failed(&self, source: erofs_reader::Error) -> Error {
        Error::Read {
            path: self.path.to_owned(),
            source,
        }
    }

    fn merge_error(&self, source: fsmerge::Error) -> Error {
        Error::layer(&self.path.display().to_string(), source)
    }

    fn not_a_layer(&self, name: &[u8], problem: fsmerge::Problem) -> Error {
        Error::NotALayer {
            path: self.path.to_owned(),
            name: name.escape_ascii().to_string(),
            problem,
        }
    }
}
