//! Writes a sandbox's disk again with another upperdir.

use std::fs::File;
use std::io;

use ext4_writer::{BlockSize, Builder, DeviceNumber, Metadata, NodeId, Options, Timestamp};
use fsmerge::{Contents, Kind, LayerTree, StoredContent, overlay};

use super::upper::{UPPER, Upper};
use crate::error::{Error, Result};

/// Writes to `out`, an empty file, a disk like `old` with `upper` as its upperdir, and with the
/// same size, name and UUID.
pub(super) fn write(
    old: &Upper,
    upper: &LayerTree,
    contents: &mut impl Contents,
    out: File,
) -> Result<()> {
    let path = &old.path;
    let failed = |source| match source {
        ext4_writer::Error::Contents { name, source } => match source.downcast::<Error>() {
            Ok(error) => error,
            Err(source) => Error::Ext4 {
                path: path.clone(),
                source: ext4_writer::Error::Contents { name, source },
            },
        },
        source => Error::Ext4 {
            path: path.clone(),
            source,
        },
    };
    let info = old.disk.info();
    let size = std::fs::metadata(path).map_err(Error::io(path))?.len();
    out.set_len(size).map_err(Error::io(path))?;
    let options = Options::new(size)
        .block_size(match info.block_size {
            1024 => BlockSize::B1024,
            2048 => BlockSize::B2048,
            _ => BlockSize::B4096,
        })
        .uuid(info.uuid)
        .label(info.label.clone())
        .inode_count(info.inodes)
        .created(info.created);
    let mut disk = Builder::new(out, options).map_err(failed)?;
    // The work directory of an unmounted disk holds nothing of value.
    let without = [UPPER, b"work/work"];
    disk.add_filesystem(&old.disk, &without).map_err(failed)?;
    let root = disk.root();
    let mut added: Vec<Option<NodeId>> = vec![None; upper.len()];
    let (attributes, _) = overlay::encode(upper.metadata(upper.root()), Kind::DIRECTORY);
    let top = disk
        .add_dir(root, UPPER, metadata(&attributes))
        .map_err(failed)?;
    added[upper.root().index()] = Some(top);
    // Directories come before their contents.
    for directory in upper.nodes() {
        let Some(parent) = added[directory.index()] else {
            continue;
        };
        for (name, id) in upper.children(directory) {
            if let Some(node) = added[id.index()] {
                disk.link(parent, name, node).map_err(failed)?;
                continue;
            }
            let (attributes, kind) = overlay::encode(upper.metadata(id), upper.kind(id));
            let metadata = metadata(&attributes);
            let node = match kind {
                Kind::Directory { .. } => disk.add_dir(parent, name, metadata),
                Kind::File { data: None, .. } => {
                    disk.add_file(parent, name, metadata, io::empty(), Some(0))
                }
                Kind::File {
                    size,
                    data: Some(data),
                } => {
                    let opened = contents.open(data).map_err(|source| {
                        failed(ext4_writer::Error::Contents {
                            name: name.into(),
                            source,
                        })
                    })?;
                    let StoredContent { ranges, data, .. } = opened;
                    disk.add_sparse_file(parent, name, metadata, size, &ranges, data)
                }
                Kind::Symlink(target) => disk.add_symlink(parent, name, metadata, target),
                Kind::CharDevice(number) => {
                    disk.add_char_device(parent, name, metadata, device(number))
                }
                Kind::BlockDevice(number) => {
                    disk.add_block_device(parent, name, metadata, device(number))
                }
                Kind::Fifo => disk.add_fifo(parent, name, metadata),
                Kind::Socket => disk.add_socket(parent, name, metadata),
                // `encode` returns neither kind.
                Kind::Whiteout | Kind::LowerLink(_) => continue,
            };
            added[id.index()] = Some(node.map_err(failed)?);
        }
    }
    disk.finish().map_err(failed)?;
    Ok(())
}

fn metadata(attributes: &fsmerge::Metadata) -> Metadata {
    let fsmerge::Timestamp { secs, nanos } = attributes.mtime;
    Metadata::new(attributes.mode)
        .owner(attributes.uid, attributes.gid)
        .mtime(Timestamp { secs, nanos })
        .xattrs(attributes.xattrs.to_vec())
}

fn device(number: fsmerge::DeviceNumber) -> DeviceNumber {
    DeviceNumber {
        major: number.major,
        minor: number.minor,
    }
}
