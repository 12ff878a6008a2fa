//! Writes the names and attributes of a tree to an image.

use std::io::{Seek, Write};

use erofs_writer::{Builder, DeviceNumber, FileData, Node, Timestamp};
use fsmerge::{DataId, Kind, Metadata, Tree, overlay};

use super::Times;

/// The purpose of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// A layer, with overlayfs's whiteouts and marks.
    Layer,
    /// The merged tree of a stack, without whiteouts and marks.
    Merged,
}

/// Adds every node of `tree` to `image`; `files` returns the contents of a file.
pub(crate) fn emit<W: Write + Seek>(
    tree: &Tree,
    files: impl Fn(DataId) -> FileData,
    image: &mut Builder<W>,
    form: Form,
    times: Times,
) -> Result<(), erofs_writer::Error> {
    let encode = |id| {
        let (attributes, kind) = (tree.metadata(id), tree.kind(id));
        match form {
            Form::Layer => overlay::encode(attributes, kind),
            Form::Merged => (attributes.clone(), kind),
        }
    };
    let mut added: Vec<Option<erofs_writer::NodeId>> = vec![None; tree.len()];
    added[tree.root().index()] = Some(image.root());
    image.set_metadata(image.root(), metadata(&encode(tree.root()).0, times))?;
    // Directories come before their contents.
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
            let metadata = metadata(&attributes, times);
            let node = image.add(parent, name, metadata, node(kind, &files))?;
            added[id.index()] = Some(node);
        }
    }
    Ok(())
}

fn metadata(metadata: &Metadata, times: Times) -> erofs_writer::Metadata {
    let fsmerge::Timestamp { secs, nanos } = metadata.mtime;
    erofs_writer::Metadata::new(metadata.mode)
        .owner(metadata.uid, metadata.gid)
        .mtime(times.apply(Timestamp { secs, nanos }))
        .xattrs(metadata.xattrs.to_vec())
}

fn device(number: fsmerge::DeviceNumber) -> DeviceNumber {
    let fsmerge::DeviceNumber { major, minor } = number;
    DeviceNumber { major, minor }
}

fn node(kind: Kind<'_>, files: impl Fn(DataId) -> FileData) -> Node {
    match kind {
        Kind::Directory { .. } => Node::Directory,
        Kind::File {
            data: Some(data), ..
        } => Node::File(files(data)),
        // Encoded layers and merged trees have neither whiteouts nor lower links.
        Kind::File { data: None, .. } | Kind::LowerLink(_) => Node::File(FileData::EMPTY),
        Kind::Symlink(target) => Node::Symlink(target.to_vec()),
        Kind::Whiteout => Node::CharDevice(DeviceNumber { major: 0, minor: 0 }),
        Kind::CharDevice(number) => Node::CharDevice(device(number)),
        Kind::BlockDevice(number) => Node::BlockDevice(device(number)),
        Kind::Fifo => Node::Fifo,
        Kind::Socket => Node::Socket,
    }
}
