//! Makes an image again with other options, such as block size, compression and times.

use std::collections::HashMap;
use std::fs::File;
use std::path::Path;

use erofs_reader::{FileType, Image, Inode, Nid, ReadAt};
use erofs_writer::{DeviceNumber, FileData, Label, Metadata, Node, Summary, Timestamp};

use crate::error::{Error, Result};
use crate::layer::{BuildOptions, Contents, InPieces, Output, of_file};

/// Copies the image `from`, which is at `source`, to an image in `out`, which will be at `path`.
/// All contents are copied, wherever they are stored and however they are compressed, equal ones
/// once; so the new image needs no devices.
///
/// Names and attributes are copied unchanged, including overlayfs's whiteouts and marks: the copy
/// of a layer image is a layer image, if `options` allow it. The volume's name is copied, unless
/// `options` set one.
///
/// # Errors
///
/// [`Error::Read`] if `from` is damaged; [`Error::Write`].
pub fn write<R: ReadAt>(
    from: &Image<R>,
    source: &Path,
    out: &File,
    options: impl Into<BuildOptions>,
    path: &Path,
) -> Result<Summary> {
    let failed = |source| Error::Write {
        path: path.to_owned(),
        source,
    };
    let damaged = |error| Error::Read {
        path: source.to_owned(),
        source: error,
    };
    let mut options = options.into();
    if options.image.label == Label::default() {
        options.image.label = Label::new(&from.superblock().label).map_err(failed)?;
    }
    let mut copy = Copy {
        contents: Contents::new(out, &options).map_err(failed)?,
        from,
        source,
        path,
    };
    // Inodes that may have further names.
    let mut links = HashMap::<Nid, erofs_writer::NodeId>::new();
    for found in from.walk() {
        let (name, inode) = found.map_err(damaged)?;
        if let Some(&node) = links.get(&inode.nid()) {
            let image = &mut copy.contents.image;
            image.link_path(&name, node).map_err(failed)?;
            continue;
        }
        let (secs, nanos) = inode.mtime().into();
        let metadata = Metadata::new(inode.mode())
            .owner(inode.uid(), inode.gid())
            .mtime(options.times.apply(Timestamp { secs, nanos }))
            .xattrs(from.xattrs(&inode).map_err(damaged)?);
        let node = copy.node(&inode)?;
        let image = &mut copy.contents.image;
        let node = image.add_path(&name, metadata, node).map_err(failed)?;
        if !inode.is_dir() && inode.nlink() > 1 {
            links.insert(inode.nid(), node);
        }
    }
    let (_, summary) = copy.contents.image.finish().map_err(failed)?;
    Ok(summary)
}

struct Copy<'a, R> {
    contents: Contents<Output<'a>>,
    from: &'a Image<R>,
    source: &'a Path,
    path: &'a Path,
}

impl<R: ReadAt> Copy<'_, R> {
    fn node(&mut self, inode: &Inode) -> Result<Node> {
        let (major, minor) = inode.rdev().into();
        Ok(match inode.file_type() {
            FileType::Directory => Node::Directory,
            FileType::Regular => Node::File(copy_file(
                self.from,
                inode,
                &mut self.contents,
                self.source,
                self.path,
            )?),
            FileType::Symlink => {
                Node::Symlink(self.from.read_link(inode).map_err(|source| Error::Read {
                    path: self.source.to_owned(),
                    source,
                })?)
            }
            FileType::CharDevice => Node::CharDevice(DeviceNumber { major, minor }),
            FileType::BlockDevice => Node::BlockDevice(DeviceNumber { major, minor }),
            FileType::Fifo => Node::Fifo,
            FileType::Socket => Node::Socket,
        })
    }
}

/// Copies the contents of a file of `from`, which is at `source`, into the image that will be at
/// `path`. Holes stay holes.
pub(crate) fn copy_file<R: ReadAt>(
    from: &Image<R>,
    inode: &Inode,
    contents: &mut Contents<Output<'_>>,
    source: &Path,
    path: &Path,
) -> Result<FileData> {
    if inode.size() == 0 {
        return Ok(FileData::EMPTY);
    }
    let damaged = |error| Error::Read {
        path: source.to_owned(),
        source: error,
    };
    let pieces = of_file(&from.extents(inode).map_err(damaged)?);
    let file = from.file(inode).map_err(damaged)?;
    let mut file = InPieces::new(file, inode.size(), &pieces);
    let stored = contents.store(&mut file);
    match file.failure {
        Some(failure) => Err(Error::io(source)(failure)),
        None => stored.map_err(|source| Error::Write {
            path: path.to_owned(),
            source,
        }),
    }
}
