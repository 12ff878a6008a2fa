//! Stacks of layer images: their merged metadata, and the disk that combines both.

use std::fs;
use std::io::{self, Seek, Write};
use std::path::{Path, PathBuf};

use blockbox_store::{Checksum, atomic};
use erofs_writer::{Addresses, Builder, DeviceSlot, FileData, Options};
use fsmerge::{DataId, LayerTree, Limits, Merge, Merged};

use crate::error::{Error, Result};
use crate::layer::{self, Form, Output, Part, Times};

/// A layer image of a stack.
#[derive(Clone, Debug)]
pub struct Input {
    /// The path of the image. If the image is an index, its tar may follow it in the same file;
    /// otherwise the tar is a device of its own, after the index.
    pub path: PathBuf,
    /// The layer's tag in the device table: its diff ID in hex, or its file name. It is truncated
    /// to 64 bytes.
    pub tag: String,
}

/// Writes the merged metadata of `layers`, lowest first, to `path`. The merged tree records the
/// layer of each node.
pub fn write(layers: &[Input], path: &Path) -> Result<(Merged, erofs_writer::Summary)> {
    write_with(layers, path, Addresses::default())
}

/// As [`write`](write()), with 48-bit block addresses if `addresses` says so. That image is
/// smaller, because most inodes are compact, and the stack may have more than 2 TiB, but it needs
/// Linux 6.15.
pub fn write_with(
    layers: &[Input],
    path: &Path,
    addresses: Addresses,
) -> Result<(Merged, erofs_writer::Summary)> {
    atomic::write_output(path, |file| {
        let (_, merged, summary) = write_to(layers, file, path, addresses)?;
        Ok((merged, summary))
    })
}

/// As [`write`](write()), to a read-only file of the store. Returns its checksum.
pub(crate) fn write_hashed(layers: &[Input], path: &Path) -> Result<Checksum> {
    atomic::write_read_only(path, |file| {
        let out = Output::hashed(file.as_file());
        let (out, ..) = write_to(layers, out, path, Addresses::default())?;
        out.checksum().map_err(Error::io(path))
    })
}

fn write_to<W: Write + Seek>(
    layers: &[Input],
    out: W,
    path: &Path,
    addresses: Addresses,
) -> Result<(W, Merged, erofs_writer::Summary)> {
    let failed = |source| Error::Write {
        path: path.to_owned(),
        source,
    };
    let options = Options::default().addresses(addresses);
    let mut image = Builder::new(out, options).map_err(failed)?;
    let (merged, files) = merge_into(layers, &mut image, path)?;
    let find = |DataId(id): DataId| files[id as usize];
    layer::emit(&merged, find, &mut image, Form::Merged, Times::Kept).map_err(failed)?;
    let (out, summary) = image.finish().map_err(failed)?;
    Ok((out, merged, summary))
}

/// Merges `layers`, lowest first, without writing an image.
pub fn merge(layers: &[Input]) -> Result<Merged> {
    let nowhere = Path::new("the merged image");
    let mut image =
        Builder::new(io::Cursor::new(Vec::new()), Options::default()).map_err(|source| {
            Error::Write {
                path: nowhere.to_owned(),
                source,
            }
        })?;
    Ok(merge_into(layers, &mut image, nowhere)?.0)
}

/// Reads the tree of one layer.
pub fn layer(input: &Input) -> Result<LayerTree> {
    let nowhere = Path::new("the merged image");
    let failed = |source| Error::Write {
        path: nowhere.to_owned(),
        source,
    };
    let mut image =
        Builder::new(io::Cursor::new(Vec::new()), Options::default()).map_err(failed)?;
    add_layer(input, &mut image, nowhere, &mut Vec::new())
}

/// Merges `layers`, and makes them devices of `image`, which will be at `path`. A file's
/// [`DataId`](fsmerge::DataId) is an index into the returned list of contents.
fn merge_into<W: Write + Seek>(
    layers: &[Input],
    image: &mut Builder<W>,
    path: &Path,
) -> Result<(Merged, Vec<FileData>)> {
    let mut files = Vec::new();
    let mut merge = Merge::new(&Limits::default());
    for layer in layers {
        let tree = add_layer(layer, image, path, &mut files)?;
        merge
            .push(&tree)
            .map_err(|source| Error::Merge(Box::new(source)))?;
    }
    Ok((merge.finish(), files))
}

/// Makes a layer a device of `image`, which will be at `path`, and reads its tree.
fn add_layer<W: Write + Seek>(
    layer: &Input,
    image: &mut Builder<W>,
    path: &Path,
    files: &mut Vec<FileData>,
) -> Result<LayerTree> {
    let block = u64::from(Options::default().block_size.bytes());
    let reader = layer::open(&layer.path)?;
    // The layer's blocks are a multiple of ours, so data that begins at one of them can be
    // addressed.
    let bytes = fs::metadata(&layer.path)
        .map_err(Error::io(&layer.path))?
        .len();
    if !bytes.is_multiple_of(block) {
        return Err(Error::Unaligned {
            path: layer.path.clone(),
            unit: block,
        });
    }
    let own = DeviceSlot::new(tag(&layer.tag), bytes / block);
    let slots = elsewhere(&reader, bytes).iter().map(|slot| {
        let tag = tag(&slot.tag);
        let blocks = slot.blocks;
        (
            slot.uniaddr.saturating_mul(block),
            DeviceSlot::new(tag, blocks),
        )
    });
    // Other devices have no addresses of their own.
    let slots = slots.filter(|(start, _)| *start >= bytes);
    let mut parts = Vec::new();
    for (start, device) in std::iter::once((0, own)).chain(slots) {
        let device = image.add_device(device).map_err(|source| Error::Write {
            path: path.to_owned(),
            source,
        })?;
        parts.push(Part { start, device });
    }
    layer::read(&reader, &layer.path, &parts, image, files)
}

/// Returns the devices of a layer image of `bytes` bytes that do not follow it in its file.
fn elsewhere(reader: &layer::Image, bytes: u64) -> &[erofs_reader::DeviceSlot] {
    let superblock = reader.superblock();
    let stitched = superblock.devices.last().is_some_and(|last| {
        let end = last.uniaddr.saturating_add(last.blocks);
        end.saturating_mul(superblock.block_size.bytes()) <= bytes
    });
    match stitched {
        true => &[],
        false => &superblock.devices,
    }
}

/// Writes the descriptor of a disk of `fsmeta` followed by `layers`. Its content ID is taken from
/// the UUID of `fsmeta`, which is derived from all metadata and the layers' tags, so it changes
/// with every byte of the disk.
///
/// # Errors
///
/// [`Error::Detached`] for an index whose tar does not follow it; errors of reading or writing a
/// file.
pub fn write_disk(path: &Path, fsmeta: &Path, layers: &[Input]) -> Result<()> {
    for Input { path, .. } in layers {
        let bytes = fs::metadata(path).map_err(Error::io(path))?.len();
        if !elsewhere(&layer::open(path)?, bytes).is_empty() {
            return Err(Error::Detached { path: path.clone() });
        }
    }
    let files: Vec<_> = std::iter::once(fsmeta)
        .chain(layers.iter().map(|layer| layer.path.as_path()))
        .collect();
    let [a, b, c, d, ..] = layer::open(fsmeta)?.superblock().uuid;
    // The largest number means "no parent".
    let cid = u32::from_be_bytes([a, b, c, d]).min(vmdk::NO_PARENT - 1);
    write_descriptor(path, &files, cid)
}

/// Writes the descriptor of a disk of `files` in order. They are named relative to the descriptor's
/// folder. `cid` must change with their contents.
pub fn write_descriptor(path: &Path, files: &[impl AsRef<Path>], cid: u32) -> Result<()> {
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let folder = folder.canonicalize().map_err(Error::io(folder))?;
    let mut extents = Vec::with_capacity(files.len());
    for file in files {
        let file = file.as_ref();
        let whole = file.canonicalize().map_err(Error::io(file))?;
        let bytes = fs::metadata(&whole).map_err(Error::io(file))?.len();
        let relative = pathdiff::diff_paths(&whole, &folder).unwrap_or(whole);
        extents.push((relative.to_string_lossy().into_owned(), bytes));
    }
    let descriptor = vmdk::Descriptor::flat(&extents).map_err(|source| Error::Vmdk {
        path: path.to_owned(),
        source,
    })?;
    let descriptor = descriptor.with_cid(cid);
    atomic::write_file(path, |file| {
        write!(file, "{descriptor}").map_err(Error::io(path))
    })
}

/// Returns a device's tag: the first 64 bytes of `name`.
pub(crate) fn tag(name: impl AsRef<[u8]>) -> [u8; 64] {
    let mut tag = [0; 64];
    for (to, from) in tag.iter_mut().zip(name.as_ref()) {
        *to = *from;
    }
    tag
}
