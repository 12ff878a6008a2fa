//! Changes of a sandbox since its image.

use fsmerge::{Kind, Metadata, NodeId, Tree};

use super::View;

/// Mount points that init creates in every root if the image lacks them. Docker's own layer under a
/// container has them, too. Nothing is written there. Those of a sandbox's own mounts are changes,
/// as with docker.
const MOUNT_POINTS: [&[u8]; 9] = [
    b"dev",
    b"proc",
    b"run",
    b"sys",
    b"tmp",
    b"etc/hostname",
    b"etc/hosts",
    b"etc/machine-id",
    b"etc/resolv.conf",
];

/// A path that differs from the image.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Change {
    /// The path from the root, without a leading slash.
    pub path: Vec<u8>,
    /// The kind of change.
    pub kind: ChangeKind,
}

/// The kind of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ChangeKind {
    /// The path is not in the image.
    Added,
    /// The file, its attributes or its contents differ from the image.
    Changed,
    /// The path is only in the image.
    Deleted,
}

impl ChangeKind {
    /// Returns the letter that docker uses.
    pub fn letter(self) -> char {
        match self {
            Self::Added => 'A',
            Self::Changed => 'C',
            Self::Deleted => 'D',
        }
    }
}

/// Lists the changes of a sandbox since its image, in the order of the paths. As with docker, a
/// file that was opened for writing counts as changed, and so do the directories above every
/// change.
pub fn changes(view: &View<'_>) -> Vec<Change> {
    let mut found = Vec::new();
    let walk = Walk {
        lower: &view.lower,
        upper: &view.upper,
    };
    walk.directory(
        NodeId::ROOT,
        Some(NodeId::ROOT),
        &mut Vec::new(),
        &mut found,
    );
    found.sort();
    found
}

/// Returns whether a new node exists only as a mount point.
pub(super) fn is_mount_point(tree: &Tree, path: &[u8], node: NodeId) -> bool {
    let empty = match tree.kind(node) {
        Kind::Directory { .. } => tree.children(node).len() == 0,
        Kind::File { size, .. } => size == 0,
        _ => false,
    };
    empty && MOUNT_POINTS.contains(&path)
}

struct Walk<'a> {
    lower: &'a Tree,
    upper: &'a Tree,
}

impl Walk<'_> {
    /// Adds the changes of the directory `upper` over `lower`. Returns whether there are any.
    fn directory(
        &self,
        upper: NodeId,
        lower: Option<NodeId>,
        path: &mut Vec<u8>,
        found: &mut Vec<Change>,
    ) -> bool {
        let before = found.len();
        let opaque = matches!(self.upper.kind(upper), Kind::Directory { opaque: true, .. });
        if let Some(lower) = lower.filter(|_| opaque) {
            for (name, _) in self.lower.children(lower) {
                if self.upper.child(upper, name).is_none() {
                    found.push(change(path, name, ChangeKind::Deleted));
                }
            }
        }
        for (name, node) in self.upper.children(upper) {
            let below = lower.and_then(|lower| self.lower.child(lower, name));
            let length = path.len();
            match (self.upper.kind(node), below) {
                (Kind::Whiteout, Some(_)) => found.push(change(path, name, ChangeKind::Deleted)),
                (Kind::Whiteout, None) => {}
                (Kind::Directory { .. }, Some(old)) if self.lower.kind(old).is_directory() => {
                    push(path, name);
                    let inside = self.directory(node, below, path, found);
                    path.truncate(length);
                    if inside || !same(self.upper.metadata(node), self.lower.metadata(old)) {
                        found.push(change(path, name, ChangeKind::Changed));
                    }
                }
                (kind, old) => {
                    push(path, name);
                    let skip = old.is_none() && is_mount_point(self.upper, path, node);
                    if !skip {
                        if kind.is_directory() {
                            self.directory(node, None, path, found);
                        }
                        let kind = match old {
                            Some(_) => ChangeKind::Changed,
                            None => ChangeKind::Added,
                        };
                        found.push(change(path, b"", kind));
                    }
                    path.truncate(length);
                }
            }
        }
        found.len() > before
    }
}

/// Returns whether a copied-up directory has its original attributes. Its time changes with its
/// contents.
fn same(upper: &Metadata, lower: &Metadata) -> bool {
    (upper.mode, upper.uid, upper.gid) == (lower.mode, lower.uid, lower.gid)
        && upper.xattrs == lower.xattrs
}

fn change(folder: &[u8], name: &[u8], kind: ChangeKind) -> Change {
    let mut path = folder.to_vec();
    if !name.is_empty() {
        push(&mut path, name);
    }
    Change { path, kind }
}

fn push(path: &mut Vec<u8>, name: &[u8]) {
    if !path.is_empty() {
        path.push(b'/');
    }
    path.extend_from_slice(name);
}
