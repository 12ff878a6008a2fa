//! A layer: from a tar stream to an EROFS image, and from that image back to a tree.

mod read;

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::path::Path;

use erofs_writer::{BlockSize, ChunkSize, FileData, ImageBuilder, Options};
use fsmerge::{Attributes, Content, DataId, Kind, Limits, ReadError, Segment, Sink, Tree, overlay};

use crate::error::{Error, Result};
use crate::folder;

pub(crate) use read::{open, read};

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
///
/// Only an image with default `options` can be merged with others.
pub fn write(
    mut tar: impl Read,
    name: &str,
    out: &File,
    options: Options,
    path: &Path,
) -> Result<Summary> {
    let failed = |source| Error::Write {
        path: path.to_owned(),
        source,
    };
    let mut contents = Contents::new(out, options).map_err(failed)?;
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
pub fn write_folder(root: &Path, out: &File, options: Options, path: &Path) -> Result<Summary> {
    let failed = |source| Error::Write {
        path: path.to_owned(),
        source,
    };
    let mut contents = Contents::new(out, options).map_err(failed)?;
    let (tree, stats) = folder::read(root, &mut contents, |_, source| failed(source))?;
    let Contents {
        mut image, files, ..
    } = contents;
    emit(&tree, &files, &mut image, true).map_err(failed)?;
    let (_, summary) = image.finish().map_err(failed)?;
    Ok(Summary {
        image: summary,
        warnings: warnings(&stats),
    })
}

fn warnings(stats: &fsmerge::Stats) -> Vec<String> {
    let mut warnings: Vec<_> = stats.warnings.iter().map(ToString::to_string).collect();
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
    block_size: BlockSize,
    files: Vec<FileData>,
    buffer: Vec<u8>,
}

impl<'a> Contents<&'a File> {
    /// Of an image to be made in `out`.
    fn new(out: &'a File, options: Options) -> Result<Self, erofs_writer::Error> {
        let block_size = options.block_size;
        let image = ImageBuilder::with_dedupe(out, options)?;
        Ok(Self {
            image: image.truncate_with(|out, length| out.set_len(length)),
            block_size,
            files: Vec::new(),
            buffer: vec![0; PIECE],
        })
    }
}

impl<W: Write + Seek> Sink for Contents<W> {
    type Error = erofs_writer::Error;

    fn file(&mut self, _path: &[u8], mut content: Content<'_>) -> Result<DataId, Self::Error> {
        let size = content.size();
        let data = if content.ranges() == [(0, size)] {
            let mut data = self.image.data();
            copy(&mut content, &mut data, &mut self.buffer, size)?;
            data.finish()?
        } else {
            let chunk_size = ChunkSize::for_length(size, self.block_size);
            let mut data = self.image.data_in_chunks(chunk_size);
            while let Some(segment) = content.next_segment() {
                match segment {
                    Segment::Hole(len) => data.hole(len)?,
                    Segment::Data(len) => copy(&mut content, &mut data, &mut self.buffer, len)?,
                }
            }
            data.finish()?
        };
        self.files.push(data);
        Ok(DataId(self.files.len() as u64 - 1))
    }
}

/// Copies `len` bytes in large pieces.
fn copy(
    from: &mut impl Read,
    to: &mut impl Write,
    buffer: &mut [u8],
    mut len: u64,
) -> io::Result<()> {
    while len > 0 {
        let piece = usize::try_from(len).map_or(buffer.len(), |len| len.min(buffer.len()));
        let n = from.read(&mut buffer[..piece])?;
        if n == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        to.write_all(&buffer[..n])?;
        len -= n as u64;
    }
    Ok(())
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
        } => Node::File(files[id as usize]),
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
