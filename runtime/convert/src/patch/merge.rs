//! Copies a tree of the host or of an archive into a directory.

use ext4_writer::{DeviceNumber, Kind as Ext4Kind, Metadata, Timestamp};
use fsmerge::{Kind, Merged, NodeId};

use super::tree::{Body, Directory, File, Id, Node, Outcome, ROOT, Tree};

/// The source of a tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Copied {
    /// A folder of the host, whose owners have no meaning in an image: root owns the copy.
    Host,
    /// An archive, whose owners are kept.
    Archive,
}

impl Copied {
    /// Returns the attributes of the tree's root.
    pub(super) fn root(self, tree: &Merged) -> Metadata {
        match tree.kind(tree.root()) {
            Kind::Directory { implied: true, .. } => Metadata::new(0o755),
            _ => self.metadata(tree, tree.root()),
        }
    }

    fn metadata(self, tree: &Merged, id: NodeId) -> Metadata {
        let of = tree.metadata(id);
        let mut mtime = Timestamp::default();
        (mtime.secs, mtime.nanos) = (of.mtime.secs, of.mtime.nanos);
        let mut xattrs = of.xattrs.to_vec();
        let metadata = Metadata::new(of.mode).mtime(mtime);
        match self {
            Copied::Archive => metadata.owner(of.uid, of.gid).xattrs(xattrs),
            Copied::Host => {
                // The labels of the host's security modules do not apply in the guest.
                xattrs.retain(|(name, _)| {
                    name.starts_with(b"user.") || name == b"security.capability"
                });
                metadata.xattrs(xattrs)
            }
        }
    }
}

/// Copies the contents of the root of `source` into the last of `target`, a chain of directories
/// from the root. Existing directories keep their attributes, and links to directories stay; other
/// entries are replaced.
pub(super) fn merge(
    tree: &mut Tree<'_>,
    target: Vec<Id>,
    source: &Merged,
    copied: Copied,
    owner: Option<(u32, u32)>,
) -> Outcome<()> {
    let mut added: Vec<Option<Id>> = vec![None; source.len()];
    // Pairs of a source directory and its target, with the target's parents.
    let mut pending = vec![(source.root(), target)];
    while let Some((directory, above)) = pending.pop() {
        let parent = above.last().copied().unwrap_or(ROOT);
        let children = source.children(directory);
        let children: Vec<_> = children.map(|(name, id)| (name.to_vec(), id)).collect();
        for (name, id) in children {
            if let Some(node) = added[id.index()] {
                tree.link(parent, &name, node);
                continue;
            }
            let mut metadata = copied.metadata(source, id);
            if let Some((uid, gid)) = owner {
                metadata = metadata.owner(uid, gid);
            }
            let kind = source.kind(id);
            if let Kind::Directory { implied, .. } = kind {
                let entry = tree.entry(parent, &name)?;
                let there = tree.as_directory(&above, &name, &entry)?;
                let chain = match there {
                    Some(there) => there,
                    None => {
                        if implied {
                            metadata.mode = 0o755;
                        }
                        let body = Body::Directory(Directory::default());
                        let mut chain = above.clone();
                        chain.push(tree.insert(parent, &name, Node { metadata, body })?);
                        chain
                    }
                };
                pending.push((id, chain));
                continue;
            }
            let Some(body) = body(kind) else { continue };
            let node = tree.insert(parent, &name, Node { metadata, body })?;
            added[id.index()] = Some(node);
        }
    }
    Ok(())
}

/// Returns the body of a node that is not a directory; a merged tree has no marks.
fn body(kind: Kind<'_>) -> Option<Body> {
    let special = |kind, number: Option<fsmerge::DeviceNumber>| {
        let number = number.unwrap_or(fsmerge::DeviceNumber { major: 0, minor: 0 });
        let number = DeviceNumber {
            major: number.major,
            minor: number.minor,
        };
        Some(Body::Special(kind, number))
    };
    match kind {
        Kind::File { size, data } => Some(Body::File(File {
            stored: data.map(|data| (data, size)),
            tail: Vec::new(),
        })),
        Kind::Symlink(target) => Some(Body::Symlink(target.to_vec())),
        Kind::CharDevice(number) => special(Ext4Kind::CharDevice, Some(number)),
        Kind::BlockDevice(number) => special(Ext4Kind::BlockDevice, Some(number)),
        Kind::Fifo => special(Ext4Kind::Fifo, None),
        Kind::Socket => special(Ext4Kind::Socket, None),
        Kind::Directory { .. } | Kind::Whiteout | Kind::LowerLink(_) => None,
    }
}
