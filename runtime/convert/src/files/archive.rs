//! Trees as tar archives.

use std::collections::HashMap;
use std::io::{self, Write};

use blockbox_tar::{Body, Head, Timestamp, Writer};
use fsmerge::{ContentStore, Contents, Kind, NodeId, StoredContent, Tree, overlay};

use super::View;
use super::changes::is_mount_point;
use crate::error::{Error, Result};

/// Writes the tree that programs see at `node` to `out`, as an archive whose root entry is `name`;
/// if that is empty, the directory's contents are under `./`. Sockets are left out, because an
/// archive cannot hold them.
///
/// # Errors
///
/// If a disk is damaged; [`Error::Output`].
pub fn write_tree(view: &mut View<'_>, node: NodeId, name: &[u8], out: impl Write) -> Result<()> {
    let mut archive = Archive::new(&view.merged, &mut view.contents, out);
    let name = if name.is_empty() { b"." } else { name };
    archive.tree(node, name)?;
    archive.finish()
}

/// Writes the changes of a sandbox since its image to `out`, as the tar of an OCI layer. The same
/// changes give the same bytes.
///
/// # Errors
///
/// Those of [`write_tree`].
pub fn write_layer(view: &mut View<'_>, out: impl Write) -> Result<()> {
    write_oci(&view.upper, &view.lower, &mut view.contents, out)
}

/// Writes a layer's tree to `out` as the tar of an OCI layer. Nodes that `lower` lacks and that
/// exist only as mount points are left out.
fn write_oci(
    layer: &Tree,
    lower: &Tree,
    contents: &mut ContentStore<'_>,
    out: impl Write,
) -> Result<()> {
    let mut archive = Archive::new(layer, contents, out);
    archive.lower = Some(lower);
    archive.layer()?;
    archive.finish()
}

/// Writes a layer's tree to `out` as the tar of an OCI layer.
pub(crate) fn write_oci_layer(
    layer: &Tree,
    contents: &mut ContentStore<'_>,
    out: impl Write,
) -> Result<()> {
    let mut archive = Archive::new(layer, contents, out);
    archive.layer()?;
    archive.finish()
}

struct Archive<'t, 'c, 's, W> {
    tree: &'t Tree,
    contents: &'c mut ContentStore<'s>,
    out: Writer<W>,
    /// The first name of each node with several names.
    written: HashMap<NodeId, Vec<u8>>,
    /// The tree that this layer changes, to recognise mount points.
    lower: Option<&'t Tree>,
}

impl<'t, 'c, 's, W: Write> Archive<'t, 'c, 's, W> {
    fn new(tree: &'t Tree, contents: &'c mut ContentStore<'s>, out: W) -> Self {
        Self {
            tree,
            contents,
            out: Writer::new(out),
            written: HashMap::new(),
            lower: None,
        }
    }

    fn finish(self) -> Result<()> {
        self.out.finish().map(drop).map_err(Error::Output)
    }

    fn tree(&mut self, top: NodeId, name: &[u8]) -> Result<()> {
        let mut pending = vec![(name.to_vec(), top)];
        while let Some((path, node)) = pending.pop() {
            self.node(&path, node)?;
            // The children are pushed in reverse, so that the first is popped next.
            for (name, child) in self.tree.children(node).rev() {
                pending.push(([&path[..], b"/", name].concat(), child));
            }
        }
        Ok(())
    }

    fn layer(&mut self) -> Result<()> {
        let root = self.tree.root();
        if !matches!(self.tree.kind(root), Kind::Directory { implied: true, .. }) {
            self.node(b".", root)?;
        }
        self.opaque_mark(root, b"")?;
        for (path, node) in self.tree.walk() {
            if path.is_empty() {
                continue;
            }
            let base = path.rsplit(|&byte| byte == b'/').next().unwrap_or_default();
            if base.starts_with(b".wh.") {
                let error =
                    format!("{path}: in a layer, names that begin with .wh. mark removed files");
                let error = io::Error::new(io::ErrorKind::InvalidData, error);
                return Err(Error::Output(error));
            }
            match self.tree.kind(node) {
                Kind::Whiteout => {
                    let folder = path.strip_suffix(base).unwrap_or_default();
                    self.mark(&[folder, b".wh.", base].concat())?;
                }
                Kind::Directory { implied: true, .. } => self.opaque_mark(node, &path)?,
                Kind::Directory { .. } => {
                    if !self.is_mount_point(&path, node) {
                        self.node(&path, node)?;
                        self.opaque_mark(node, &path)?;
                    }
                }
                _ if self.is_mount_point(&path, node) => {}
                _ => self.node(&path, node)?,
            }
        }
        Ok(())
    }

    fn is_mount_point(&self, path: &[u8], node: NodeId) -> bool {
        self.lower.is_some_and(|lower| {
            lower.lookup(path).is_none() && is_mount_point(self.tree, path, node)
        })
    }

    fn opaque_mark(&mut self, node: NodeId, path: &[u8]) -> Result<()> {
        if !matches!(self.tree.kind(node), Kind::Directory { opaque: true, .. }) {
            return Ok(());
        }
        let separator: &[u8] = if path.is_empty() { b"" } else { b"/" };
        self.mark(&[path, separator, b".wh..wh..opq"].concat())
    }

    /// Writes an empty file as a whiteout or an opaque marker.
    fn mark(&mut self, path: &[u8]) -> Result<()> {
        let head = Head {
            path,
            mode: 0,
            uid: 0,
            gid: 0,
            mtime: Timestamp { secs: 0, nanos: 0 },
            xattrs: Vec::new(),
        };
        let written = self.out.file(&head, 0, &[], io::empty());
        written.map_err(Error::Output)
    }

    fn node(&mut self, path: &[u8], node: NodeId) -> Result<()> {
        let metadata = self.tree.metadata(node);
        let xattrs = metadata.xattrs.iter();
        let head = Head {
            path,
            mode: metadata.mode,
            uid: metadata.uid,
            gid: metadata.gid,
            mtime: Timestamp {
                secs: metadata.mtime.secs,
                nanos: metadata.mtime.nanos,
            },
            xattrs: xattrs
                .map(|(name, value)| (overlay::shown(name), value.clone()))
                .collect(),
        };
        let kind = self.tree.kind(node);
        if matches!(kind, Kind::Socket) {
            // An archive cannot hold sockets, so no hard link refers to one.
            return Ok(());
        }
        let is_shared = !kind.is_directory() && self.tree.nlink(node) > 1;
        if let Some(first) = self.written.get(&node).filter(|_| is_shared) {
            let written = self.out.entry(&head, Body::HardLink(first));
            return written.map_err(Error::Output);
        }
        if is_shared {
            self.written.insert(node, path.to_vec());
        }
        let mut put = |body| self.out.entry(&head, body).map_err(Error::Output);
        match kind {
            Kind::Directory { .. } => put(Body::Directory),
            Kind::Symlink(target) => put(Body::Symlink(target)),
            Kind::CharDevice(number) => put(Body::CharDevice(number.major, number.minor)),
            Kind::BlockDevice(number) => put(Body::BlockDevice(number.major, number.minor)),
            Kind::Fifo => put(Body::Fifo),
            Kind::LowerLink(target) => put(Body::HardLink(target)),
            Kind::Socket | Kind::Whiteout => Ok(()),
            Kind::File { data: None, .. } => {
                let written = self.out.file(&head, 0, &[], io::empty());
                written.map_err(Error::Output)
            }
            Kind::File {
                size,
                data: Some(data),
            } => {
                let opened = self.contents.open(data).map_err(unreadable)?;
                let StoredContent { ranges, data, .. } = opened;
                let mut source = Source {
                    data,
                    failure: None,
                };
                let written = self.out.file(&head, size, &ranges, &mut source);
                match source.failure {
                    Some(error) => Err(unreadable(error)),
                    None => written.map_err(Error::Output),
                }
            }
        }
    }
}

/// Unwraps this crate's error from an I/O error of a content store.
fn unreadable(error: io::Error) -> Error {
    match error.downcast::<Error>() {
        Ok(error) => error,
        Err(error) => Error::Contents(error),
    }
}

/// Contents that keep the error of reading them, because the archive's writer cannot distinguish it
/// from an error of its output.
struct Source<'a> {
    data: Box<dyn io::Read + 'a>,
    failure: Option<io::Error>,
}

impl io::Read for Source<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.data.read(buffer).map_err(|error| {
            let kind = error.kind();
            self.failure = Some(error);
            kind.into()
        })
    }
}
