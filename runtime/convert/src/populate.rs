//! Puts a tree into an ext4 image.

use std::fs::File;
use std::io::{self, BufRead, Read, Seek, Write};
use std::ops::Range;
use std::path::Path;

use erofs_reader::Inode;
use ext4_writer::{Builder, NodeId, Ranges};
use fsmerge::{ContentStore, LayerTree, Limits, Merge, Merged, ReadError};

use crate::error::{Error, Result};
use crate::reader::Reader;
use crate::squash::Layer;
use crate::{folder, layer};

/// Puts the tar archive `tar`, called `name`, into the image that will be at `path`. Contents are
/// first copied to a temporary file, because the last entry of a name wins.
///
/// # Errors
///
/// If the archive is damaged or hostile, or its tree does not fit in the image.
pub fn from_tar<W: Read + Write + Seek>(
    tar: impl BufRead,
    name: &str,
    image: &mut Builder<W>,
    path: &Path,
) -> Result<()> {
    let mut contents = new_store()?;
    let mut merge = Merge::new(&Limits::default());
    let tree = read_tar(&mut contents, tar, name)?;
    merge
        .push(&tree)
        .map_err(|source| Error::layer(name, source))?;
    let root = image.root();
    fill(&merge.finish(), &mut contents, image, root, path)
}

/// As [`from_tar`], into the directory `target` of the image; the archive may be compressed with
/// gzip or zstd.
///
/// # Errors
///
/// Those of [`from_tar`].
pub fn tar_into<W: Read + Write + Seek>(
    tar: impl Read + Send + 'static,
    name: &str,
    image: &mut Builder<W>,
    target: NodeId,
    path: &Path,
) -> Result<()> {
    let mut contents = new_store()?;
    let mut merge = Merge::new(&Limits::default());
    let mut tar = ocipull::decompress(tar)?;
    let tree = read_tar(&mut contents, &mut tar, name)?;
    tar.finish()?;
    merge
        .push(&tree)
        .map_err(|source| Error::layer(name, source))?;
    fill(&merge.finish(), &mut contents, image, target, path)
}

/// Puts the tree that a container sees of a stack of layers, lowest first, into the image that will
/// be at `path`. A layer may also be a merged image, for instance through the VMDK of its disk.
///
/// # Errors
///
/// If a layer cannot be read or merged with those below it, or the tree does not fit in the image.
pub fn from_layers<W: Read + Write + Seek>(
    layers: &[Layer],
    image: &mut Builder<W>,
    path: &Path,
) -> Result<()> {
    let mut contents = new_store()?;
    let mut merge = Merge::new(&Limits::default());
    for layer in layers {
        let name = layer.path().display().to_string();
        let tree = match layer {
            Layer::Tar(path) => {
                let mut tar = ocipull::decompress(File::open(path).map_err(Error::io(path))?)?;
                let tree = read_tar(&mut contents, &mut tar, &name)?;
                tar.finish()?;
                tree
            }
            Layer::Folder(root) => folder::read(root, &mut contents, |_, e| spool_failed(e))?.0,
            Layer::Image { path, image } => read_image(&mut contents, image, path)?,
        };
        merge
            .push(&tree)
            .map_err(|source| Error::layer(&name, source))?;
    }
    let root = image.root();
    fill(&merge.finish(), &mut contents, image, root, path)
}

/// Reads the tree of the image at `path`, and adds its files' contents to `contents`.
pub(crate) fn read_image<'a>(
    contents: &mut ContentStore<'a>,
    image: &'a Reader,
    path: &'a Path,
) -> Result<LayerTree> {
    layer::tree(image, path, |_, inode, _| {
        let data = |error| Error::Read {
            path: path.to_owned(),
            source: error,
        };
        let ranges = ranges(image, inode).map_err(data)?;
        let (nid, whole) = (inode.nid(), ranges.clone());
        Ok(Some(contents.add(ranges, move || {
            let open = |nid| image.file(&image.inode(nid)?);
            let file = open(nid).map_err(|error| io::Error::other(data(error)))?;
            Ok(Box::new(Ranges::new(file, whole.clone())))
        })))
    })
}

/// Puts the contents of the folder `root` into the image that will be at `path`, unchanged:
/// overlayfs's marks have no meaning here.
///
/// # Errors
///
/// If a file in the folder cannot be read, or its tree does not fit in the image.
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

/// Returns a store that copies contents to a temporary file, if they can be read only once.
pub(crate) fn new_store<'a>() -> Result<ContentStore<'a>> {
    tempfile::tempfile()
        .and_then(ContentStore::in_file)
        .map_err(spool_failed)
}

pub(crate) fn read_tar(
    contents: &mut ContentStore<'_>,
    tar: impl BufRead,
    name: &str,
) -> Result<LayerTree> {
    let read = contents.read_tar(tar, &Limits::default());
    let (tree, _) = read.map_err(|error| match error {
        ReadError::Sink { source, .. } => spool_failed(source),
        ReadError::Layer(source) => Error::layer(name, source),
    })?;
    Ok(tree)
}

/// Puts `tree` into the directory `target` of the image that will be at `path`.
fn fill<W: Read + Write + Seek>(
    tree: &Merged,
    contents: &mut ContentStore<'_>,
    image: &mut Builder<W>,
    target: NodeId,
    path: &Path,
) -> Result<()> {
    let added = image.add_tree_to(target, tree, contents);
    added.map_err(|error| match error {
        ext4_writer::Error::Contents { name, source } => match source.downcast::<Error>() {
            Ok(error) => error,
            Err(source) => failed(path, ext4_writer::Error::Contents { name, source }),
        },
        source => failed(path, source),
    })
}

/// Returns the ranges of a file of `image` that hold data.
pub(crate) fn ranges(
    image: &Reader,
    inode: &Inode,
) -> std::result::Result<Vec<Range<u64>>, erofs_reader::Error> {
    let pieces = layer::of_file(&image.extents(inode)?);
    let data = pieces.iter().filter(|piece| piece.start.is_some());
    Ok(data
        .map(|piece| piece.logical..piece.logical + piece.length)
        .collect())
}
