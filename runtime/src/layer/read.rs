//! Reading back the tree of a layer image.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Seek, Write};
use std::path::Path;

use erofs_reader::{Buffered, Extent, FileType, Inode, Nid, Source};
use erofs_writer::{BlockSize, Chunk, ChunkSize, DeviceId, FileData, ImageBuilder};
use fsmerge::{Attributes, DataId, Kind, Layer, LayerBuilder, Limits, NodeId, overlay};

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
    let failed = |source| Error::Read {
        path: path.to_owned(),
        source,
    };
    let mut reading = Reading {
        image,
        path,
        device,
        merged,
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

struct Reading<'a, W: Write + Seek> {
    image: &'a Image,
    path: &'a Path,
    device: DeviceId,
    merged: &'a mut ImageBuilder<W>,
    files: &'a mut Vec<FileData>,
    /// Nodes that may have further names.
    links: HashMap<Nid, NodeId>,
}

impl<W: Write + Seek> Reading<'_, W> {
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
        let data = self
            .address(inode.size(), &extents)?
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
