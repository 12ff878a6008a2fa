//! Reads the tree of a layer image.

use std::fs::File;
use std::io::{Seek, Write};
use std::path::Path;

use erofs_reader::{Buffered, Extent, Inode, ReadAt, Source};
use erofs_writer::{Builder, DeviceId, FileData};
use fsmerge::{BytePath, DataId, LayerTree, Limits, ReadError};

use super::pieces::{self, Piece};
use crate::error::{Error, Result};

/// A layer image.
pub(crate) type Image = erofs_reader::Image<Buffered<File>>;

/// Opens the layer image at `path`.
pub(crate) fn open(path: &Path) -> Result<Image> {
    let file = blockbox_files::open_disk(path).map_err(Error::io(path))?;
    Image::open(Buffered::new(file)).map_err(|source| Error::Read {
        path: path.to_owned(),
        source,
    })
}

/// Reads the tree of the layer image at `path`. `file` returns the contents of each file that is
/// not empty.
pub(crate) fn tree<R: ReadAt>(
    image: &erofs_reader::Image<R>,
    path: &Path,
    file: impl FnMut(&[u8], &Inode, Vec<Extent>) -> Result<Option<DataId>>,
) -> Result<LayerTree> {
    fsmerge::read_erofs(image, file, &Limits::default()).map_err(|error| match error {
        ReadError::Sink { source, .. } => source,
        ReadError::Layer(fsmerge::Error::Image { source, .. }) => Error::Read {
            path: path.to_owned(),
            source,
        },
        ReadError::Layer(fsmerge::Error::Node {
            path: name,
            problem,
        }) => Error::NotALayer {
            path: path.to_owned(),
            name: format!("/{name}"),
            problem,
        },
        ReadError::Layer(source) => Error::layer(&path.display().to_string(), source),
    })
}

/// The part of a layer's addresses from offset `start` on, as a device of the new image.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Part {
    pub(crate) start: u64,
    pub(crate) device: DeviceId,
}

/// Reads the tree of a layer image. Its bytes, followed by those of its devices, are `parts` of the
/// new image. The address of each file's contents is added to `files`, of which the file's
/// [`DataId`] is an index.
pub(crate) fn read<W: Write + Seek>(
    image: &Image,
    path: &Path,
    parts: &[Part],
    merged: &mut Builder<W>,
    files: &mut Vec<FileData>,
) -> Result<LayerTree> {
    let mut reading = Reading {
        path,
        parts,
        merged,
        files,
    };
    tree(image, path, |name, inode, extents| {
        reading.data(name, inode, &extents)
    })
}

struct Reading<'a, W: Write + Seek> {
    path: &'a Path,
    parts: &'a [Part],
    merged: &'a mut Builder<W>,
    files: &'a mut Vec<FileData>,
}

impl<W: Write + Seek> Reading<'_, W> {
    fn data(&mut self, name: &[u8], inode: &Inode, extents: &[Extent]) -> Result<Option<DataId>> {
        let data = self
            .address(inode.size(), extents)?
            .ok_or_else(|| Error::NotAddressable {
                path: self.path.to_owned(),
                name: BytePath::from(name).to_string(),
            })?;
        self.files.push(data);
        Ok(Some(DataId(self.files.len() as u64 - 1)))
    }

    /// Returns how the merged image addresses contents in these extents of this layer; `None` if it
    /// cannot, because an extent is inline, compressed, on another device than the others, or not
    /// aligned to a block.
    fn address(&mut self, size: u64, extents: &[Extent]) -> Result<Option<FileData>> {
        let failed = |source| Error::Write {
            path: self.path.to_owned(),
            source,
        };
        // Addresses are in blocks of the merged image, not of the layer.
        let block_size = self.merged.options().block_size;
        let mut all = Vec::with_capacity(extents.len());
        let mut found: Option<Part> = None;
        for extent in extents {
            all.push(Piece {
                logical: extent.logical,
                length: extent.length,
                start: match extent.source {
                    Source::Hole => None,
                    Source::Data { device: 0, offset } => {
                        let part = self.part(offset);
                        if part != *found.get_or_insert(part) {
                            return Ok(None);
                        }
                        match offset.checked_sub(part.start) {
                            None => return Ok(None),
                            start => start,
                        }
                    }
                    _ => return Ok(None),
                },
            });
        }
        let device = found.unwrap_or(self.part(0)).device;
        pieces::address(self.merged, device, size, &all, block_size).map_err(failed)
    }

    /// Returns the part that contains `offset`; the parts are sorted by their start.
    fn part(&self, offset: u64) -> Part {
        let behind = self.parts.partition_point(|part| part.start <= offset);
        self.parts[behind.saturating_sub(1)]
    }
}
