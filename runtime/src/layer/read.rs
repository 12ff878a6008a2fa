//! Reading back the tree of a layer image.

use std::fs::File;
use std::io::{Seek, Write};
use std::path::Path;

use erofs_reader::{Buffered, Extent, Inode, Source};
use erofs_writer::{BlockSize, Chunk, ChunkSize, DeviceId, FileData, ImageBuilder};
use fsmerge::{DataId, Layer, Limits, ReadError};

use crate::error::{Error, Result};

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
pub(crate) fn read<W: Write + Seek>(
    image: &Image,
    path: &Path,
    device: DeviceId,
    merged: &mut ImageBuilder<W>,
    files: &mut Vec<FileData>,
) -> Result<Layer> {
    let mut reading = Reading {
        image,
        path,
        device,
        merged,
        files,
    };
    let limits = Limits::default();
    fsmerge::read_erofs(
        image,
        |name, inode, extents| reading.data(name, inode, &extents),
        &limits,
    )
    .map_err(|error| match error {
        ReadError::Sink { source, .. } => source,
        ReadError::Layer(fsmerge::Error::Image { source, .. }) => Error::Read {
            path: path.to_owned(),
            source,
        },
        ReadError::Layer(fsmerge::Error::Node { name, problem }) => Error::NotALayer {
            path: path.to_owned(),
            name: format!("/{}", name.escape_ascii()),
            problem,
        },
        ReadError::Layer(source) => Error::layer(&path.display().to_string(), source),
    })
}

struct Reading<'a, W: Write + Seek> {
    image: &'a Image,
    path: &'a Path,
    device: DeviceId,
    merged: &'a mut ImageBuilder<W>,
    files: &'a mut Vec<FileData>,
}

impl<W: Write + Seek> Reading<'_, W> {
    fn data(&mut self, name: &[u8], inode: &Inode, extents: &[Extent]) -> Result<Option<DataId>> {
        let data = self
            .address(inode.size(), extents)?
            .ok_or_else(|| Error::NotAddressable {
                path: self.path.to_owned(),
                name: name.escape_ascii().to_string(),
            })?;
        self.files.push(data);
        Ok(Some(DataId(self.files.len() as u64 - 1)))
    }

    /// How the merged image points at contents that lie in these pieces of this layer: `None` where it cannot, because a
    /// piece is inline, compressed, on another device, or begins inside a block.
    fn address(&mut self, size: u64, extents: &[Extent]) -> Result<Option<FileData>> {
        let block = self.image.superblock().block_size.bytes();
        let mut pieces = Vec::with_capacity(extents.len());
        for extent in extents {
            let start = match extent.source {
                Source::Hole => None,
                Source::Data { device: 0, offset } if offset.is_multiple_of(block) => {
                    Some(offset / block)
                }
                _ => return Ok(None),
            };
            pieces.push((extent.logical, extent.length, start));
        }
        if let [(0, length, Some(start))] = pieces[..]
            && length == size
        {
            return Ok(Some(FileData::on_device(self.device, start, size)));
        }
        // The largest chunks at whose borders all pieces begin.
        let Some(chunk_size) = self.chunk_size(size, &pieces, block) else {
            return Ok(None);
        };
        let chunk_blocks = 1 << chunk_size.block_bits();
        let device = self.device;
        let chunks = pieces.iter().flat_map(|&(_, length, start)| {
            (0..length.div_ceil(chunk_blocks * block)).map(move |i| match start {
                Some(start) => Chunk::OnDevice {
                    device,
                    block: start + i * chunk_blocks,
                },
                None => Chunk::Hole,
            })
        });
        let data = self.merged.chunks_on_devices(chunk_size, size, chunks);
        data.map(Some).map_err(|source| Error::Write {
            path: self.path.to_owned(),
            source,
        })
    }

    fn chunk_size(
        &self,
        size: u64,
        pieces: &[(u64, u64, Option<u64>)],
        block: u64,
    ) -> Option<ChunkSize> {
        let borders = pieces.iter().fold(0, |all, &(logical, ..)| all | logical);
        if !borders.is_multiple_of(block) {
            return None;
        }
        if borders == 0 {
            let block_size = u32::try_from(block).ok()?;
            return Some(ChunkSize::for_length(
                size,
                BlockSize::new(block_size).ok()?,
            ));
        }
        let bits = (borders / block).trailing_zeros().min(31);
        ChunkSize::from_block_bits(bits as u8).ok()
    }
}
