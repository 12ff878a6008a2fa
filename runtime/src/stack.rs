//! A stack of layer images: their merged metadata, and the disk that stitches both.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use erofs_writer::{Device, FileData, ImageBuilder};
use fsmerge::{Limits, Merge};

use crate::error::{Error, Result};
use crate::layer;
use crate::store::atomic;

/// A layer image of a stack.
#[derive(Clone, Debug)]
pub struct Input {
    /// The image.
    pub path: PathBuf,
    /// What names it in the device table: its diff ID in hex, or its file name. Up to 64 bytes count.
    pub tag: String,
}

/// Writes the merged metadata of `layers`, lowest first, to `path`.
pub fn write(layers: &[Input], path: &Path) -> Result<erofs_writer::Summary> {
    let failed = |source| Error::Write {
        path: path.to_owned(),
        source,
    };
    atomic::write_file(path, |file| {
        let options = erofs_writer::Options::default();
        let block = u64::from(options.block_size.bytes());
        let mut image = ImageBuilder::new(file, options).map_err(failed)?;
        let mut files: Vec<FileData> = Vec::new();
        let mut merge = Merge::new(&Limits::default());
        for layer in layers {
            let reader = layer::open(&layer.path)?;
            if u64::from(reader.superblock().block_size.bytes()) != block {
                return Err(Error::BlockSize {
                    path: layer.path.clone(),
                    expected: block,
                });
            }
            let bytes = fs::metadata(&layer.path)
                .map_err(Error::io(&layer.path))?
                .len();
            if !bytes.is_multiple_of(block) {
                return Err(Error::Unaligned {
                    path: layer.path.clone(),
                    unit: block,
                });
            }
            let device = Device {
                tag: tag(&layer.tag),
                blocks: bytes / block,
            };
            let device = image.add_device(device).map_err(failed)?;
            let tree = layer::read(&reader, &layer.path, device, &mut image, &mut files)?;
            merge
                .push(&tree)
                .map_err(|source| Error::Merge(Box::new(source)))?;
        }
        let merged = merge.finish();
        layer::emit(&merged, &files, &mut image, false).map_err(failed)?;
        let (_, summary) = image.finish().map_err(failed)?;
        Ok(summary)
    })
}

/// Writes the disk that is `fsmeta` and, behind it, `layers`.
pub fn write_disk(path: &Path, fsmeta: &Path, layers: &[Input]) -> Result<()> {
    let files: Vec<_> = std::iter::once(fsmeta)
        .chain(layers.iter().map(|layer| layer.path.as_path()))
        .collect();
    write_descriptor(path, &files)
}

/// Writes the descriptor of the disk that is `files`, one after the other. They are named relative to the descriptor's
/// folder.
pub fn write_descriptor(path: &Path, files: &[impl AsRef<Path>]) -> Result<()> {
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
    atomic::write_file(path, |file| {
        write!(file, "{descriptor}").map_err(Error::io(path))
    })
}

fn tag(name: &str) -> [u8; 64] {
    let mut tag = [0; 64];
    for (to, from) in tag.iter_mut().zip(name.bytes()) {
        *to = from;
    }
    tag
}
