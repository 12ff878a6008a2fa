//! An ext4 image that holds a tree.

use std::fs::File;
use std::io::{self, BufRead, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::Path;

use erofs_reader::Nid;
use ext4_writer::{Builder, Contents, Ranges, Stored};
use fsmerge::{Content, DataId, Limits, Merge, Merged, ReadError, Segment, Sink};

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
    tar: impl BufRead,
    name: &str,
    image: &mut Builder<W>,
    path: &Path,
) -> Result<()> {
    let mut files = Files::new()?;
    let mut merge = Merge::new(&Limits::default());
    let tree = files.read_tar(tar, name)?;
    merge
        .push(&tree)
        .map_err(|source| Error::layer(name, source))?;
    files.fill(&merge.finish(), image, path)
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
    files.fill(&merge.finish(), image, path)
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
    Spool { start: u64, ranges: Vec<Range<u64>> },
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

    fn read_tar(&mut self, tar: impl BufRead, name: &str) -> Result<fsmerge::Layer> {
        let read = fsmerge::read_tar(tar, self, &Limits::default());
        let (tree, _) = read.map_err(|error| match error {
            ReadError::Sink { source, .. } => spool_failed(source),
            ReadError::Layer(source) => Error::layer(name, source),
        })?;
        Ok(tree)
    }

    /// Puts `tree` into the image that will be at `path`.
    fn fill<W: Read + Write + Seek>(
        &mut self,
        tree: &Merged,
        image: &mut Builder<W>,
        path: &Path,
    ) -> Result<()> {
        image.add_tree(tree, self).map_err(|error| match error {
            Failed::Image(source) => failed(path, source),
            Failed::Source(error) => error,
        })
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
        Ok(self.note(Place::Spool { start, ranges }))
    }
}

/// Why an image could not be filled.
enum Failed {
    Image(ext4_writer::Error),
    Source(Error),
}

impl From<ext4_writer::Error> for Failed {
    fn from(source: ext4_writer::Error) -> Self {
        Self::Image(source)
    }
}

impl Contents for Files<'_> {
    type Error = Failed;

    fn open(&mut self, data: DataId) -> Result<Stored<'_>, Failed> {
        match &self.places[data.0 as usize] {
            Place::Spool { start, ranges } => {
                self.spool
                    .seek(SeekFrom::Start(*start))
                    .map_err(|source| Failed::Source(spool_failed(source)))?;
                Ok(Stored {
                    ranges: ranges.clone(),
                    data: Box::new(&self.spool),
                })
            }
            &Place::Image { path, image, nid } => {
                let damaged = |source| {
                    let path = path.to_owned();
                    Failed::Source(Error::Read { path, source })
                };
                let inode = image.inode(nid).map_err(damaged)?;
                let pieces = layer::of_file(&image.extents(&inode).map_err(damaged)?);
                let ranges: Vec<_> = pieces
                    .iter()
                    .filter(|piece| piece.start.is_some())
                    .map(|piece| piece.logical..piece.logical + piece.length)
                    .collect();
                let file = image.file(&inode).map_err(damaged)?;
                Ok(Stored {
                    data: Box::new(Ranges::new(file, ranges.clone())),
                    ranges,
                })
            }
        }
    }
}
