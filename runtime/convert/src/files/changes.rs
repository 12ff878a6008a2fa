//! What a sandbox changed of its image.

use fsmerge::{Kind, Metadata, NodeId, Tree};

use super::View;

/// What init makes in a container's root for mounts to lie on, where the image lacks it. Nothing is
/// written there.
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

/// A path that is not as in the image.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Change {
    /// The path from the root, without a leading slash.
    pub path: Vec<u8>,
    /// What happened to it.
    pub kind: ChangeKind,
}

/// What happened to a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ChangeKind {
    /// The image does not have it.
    Added,
    /// It, its attributes, or something in it is not as in the image.
    Changed,
    /// Only the image has it.
    Deleted,
}

impl ChangeKind {
    /// The letter that docker gives it.
    pub fn letter(self) -> char {
        match self {
            Self::Added => 'A',
            Self::Changed => 'C',
            Self::Deleted => 'D',
        }
    }
}

/// Lists what a sandbox changed of its image, in the order of the paths. As with docker, a file
/// that was opened for writing counts as changed, and so do the directories above every change.
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

/// Whether a new node is only there for something to be mounted on it.
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
    /// Adds what changed in the directory `upper`, over `lower`. Returns whether anything did.
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

/// Whether a directory that was copied up has the attributes that it had. Its time changes with
/// what is in it.
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
