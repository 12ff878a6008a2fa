//! A finished tree: compact, immutable, canonical.

use crate::metadata::{DeviceNumber, Metadata};
use blockbox_path::{BytePath, Follow, names, walk};
use std::convert::Infallible;
use std::ops::Range;

/// Names a node of one tree. Ids are dense, begin with the root's 0, and a directory's id is
/// smaller than those of what it holds. Equal trees number their nodes equally, whatever the order
/// in which they were built.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub(crate) u32);

impl NodeId {
    /// The root of every tree.
    pub const ROOT: Self = Self(0);

    /// The id as an index, for tables kept beside a tree.
    pub fn index(self) -> usize {
        // A usize has at least 32 bits wherever std::fs exists.
        self.0 as usize
    }
}

/// What a sink returned for a file's contents. It means nothing to this crate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DataId(pub u64);

/// What a node is.
///
/// Exhaustive, so that programs handle every kind: POSIX has seven, layers of the OCI specification
/// have whiteouts and hard links beside them, and no more will come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind<'a> {
    /// A directory.
    Directory {
        /// Children of lower layers are hidden. Never set in a merged tree.
        opaque: bool,
        /// Only paths through it are in the layer, no entry of its own: lower attributes stay. In a
        /// merged tree: no layer at all describes it.
        implied: bool,
    },
    /// A regular file.
    File {
        /// Its length in bytes, holes included.
        size: u64,
        /// Where its contents are. None for an empty file.
        data: Option<DataId>,
    },
    /// A symbolic link and its target.
    Symlink(&'a [u8]),
    /// A character device.
    CharDevice(DeviceNumber),
    /// A block device.
    BlockDevice(DeviceNumber),
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
    /// Hides what lower layers have under this name. Never in a merged tree.
    Whiteout,
    /// A hard link to a file that only a lower layer has: its path there, without a leading `/`.
    /// Never in a merged tree.
    LowerLink(&'a [u8]),
}

impl Kind<'_> {
    /// A directory without marks.
    pub const DIRECTORY: Self = Self::Directory {
        opaque: false,
        implied: false,
    };

    /// Whether it is a directory.
    pub fn is_directory(self) -> bool {
        matches!(self, Kind::Directory { .. })
    }
}

/// Bytes in a tree's arena.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Span {
    pub(crate) start: u32,
    pub(crate) len: u32,
}

impl Span {
    pub(crate) fn of(self, arena: &[u8]) -> &[u8] {
        let start = self.start as usize;
        &arena[start..start + self.len as usize]
    }
}

/// [`Kind`] as it is stored: bytes as spans of the arena.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Body {
    Directory { opaque: bool, implied: bool },
    File { size: u64, data: Option<DataId> },
    Symlink(Span),
    CharDevice(DeviceNumber),
    BlockDevice(DeviceNumber),
    Fifo,
    Socket,
    Whiteout,
    LowerLink(Span),
}

impl Body {
    pub(crate) fn kind(self, arena: &[u8]) -> Kind<'_> {
        match self {
            Self::Directory { opaque, implied } => Kind::Directory { opaque, implied },
            Self::File { size, data } => Kind::File { size, data },
            Self::Symlink(target) => Kind::Symlink(target.of(arena)),
            Self::CharDevice(number) => Kind::CharDevice(number),
            Self::BlockDevice(number) => Kind::BlockDevice(number),
            Self::Fifo => Kind::Fifo,
            Self::Socket => Kind::Socket,
            Self::Whiteout => Kind::Whiteout,
            Self::LowerLink(target) => Kind::LowerLink(target.of(arena)),
        }
    }

    pub(crate) fn is_directory(self) -> bool {
        matches!(self, Self::Directory { .. })
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) metadata: Metadata,
    pub(crate) body: Body,
}

/// What a finished tree stores for a node beside the node itself.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Links {
    /// As `st_nlink`.
    pub(crate) nlink: u32,
    /// Of a directory: where its entries begin, and how many there are.
    pub(crate) first: u32,
    pub(crate) count: u32,
}

/// One name in a directory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Name {
    pub(crate) name: Span,
    pub(crate) node: NodeId,
}

/// A read-only tree of nodes with names. [`LayerTree`](crate::LayerTree) and
/// [`Merged`](crate::Merged) dereference to it.
#[derive(Clone, Debug)]
pub struct Tree {
    /// In breadth-first order of their first names.
    pub(crate) nodes: Vec<Node>,
    /// One for each node.
    pub(crate) links: Vec<Links>,
    /// Each directory's entries in byte order, directory after directory.
    pub(crate) entries: Vec<Name>,
    /// Names and targets.
    pub(crate) arena: Vec<u8>,
}

impl Tree {
    /// Returns the root directory.
    pub fn root(&self) -> NodeId {
        NodeId::ROOT
    }

    /// Returns the number of nodes. IDs are smaller than it.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Returns whether the root is the only node.
    pub fn is_empty(&self) -> bool {
        self.nodes.len() == 1
    }

    /// The number of names, the root not counted: more than nodes where there are hard links.
    pub fn names(&self) -> usize {
        self.entries.len()
    }

    /// Every node, a directory before what it holds.
    ///
    /// ```
    /// use fsmerge::{Kind, LayerBuilder, Limits, Metadata};
    ///
    /// let mut builder = LayerBuilder::new(&Limits::default());
    /// builder.add_path(b"etc/fifo", Metadata::new(0o600), Kind::Fifo)?;
    /// let tree = builder.finish();
    /// let pipes = tree.nodes().filter(|&node| tree.kind(node) == Kind::Fifo);
    /// assert_eq!(pipes.count(), 1);
    /// # Ok::<(), fsmerge::Error>(())
    /// ```
    pub fn nodes(&self) -> impl ExactSizeIterator<Item = NodeId> + DoubleEndedIterator + use<> {
        // The builder counts nodes in a u32.
        (0..self.nodes.len() as u32).map(NodeId)
    }

    /// Returns the type of the node.
    ///
    /// # Panics
    ///
    /// Panics if `id` belongs to another tree with more nodes. So does every method that has an ID
    /// as parameter.
    pub fn kind(&self, id: NodeId) -> Kind<'_> {
        self.nodes[id.index()].body.kind(&self.arena)
    }

    /// Returns the mode, owner, time and extended attributes of the node.
    pub fn metadata(&self, id: NodeId) -> &Metadata {
        &self.nodes[id.index()].metadata
    }

    /// The node's link count as `stat` shows it: names of a non-directory; 2 and one for each
    /// subdirectory of a directory.
    pub fn nlink(&self, id: NodeId) -> u32 {
        self.links[id.index()].nlink
    }

    pub(crate) fn entries_of(&self, id: NodeId) -> Range<usize> {
        let links = self.links[id.index()];
        let first = links.first as usize;
        first..first + links.count as usize
    }

    /// A directory's entries in byte order of their names. Empty for what is not a directory.
    ///
    /// ```
    /// use fsmerge::{Kind, LayerBuilder, Limits, Metadata};
    ///
    /// let mut builder = LayerBuilder::new(&Limits::default());
    /// builder.add_path(b"etc/fifo", Metadata::new(0o600), Kind::Fifo)?;
    /// let tree = builder.finish();
    /// let names: Vec<&[u8]> = tree.children(tree.root()).map(|(name, _)| name).collect();
    /// assert_eq!(names, [b"etc"]);
    /// # Ok::<(), fsmerge::Error>(())
    /// ```
    pub fn children(
        &self,
        id: NodeId,
    ) -> impl ExactSizeIterator<Item = (&[u8], NodeId)> + DoubleEndedIterator {
        self.entries[self.entries_of(id)]
            .iter()
            .map(|entry| (entry.name.of(&self.arena), entry.node))
    }

    /// The node called `name` in the directory `directory`.
    ///
    /// ```
    /// use fsmerge::{Kind, LayerBuilder, Limits, Metadata};
    ///
    /// let mut builder = LayerBuilder::new(&Limits::default());
    /// builder.add_path(b"etc/fifo", Metadata::new(0o600), Kind::Fifo)?;
    /// let tree = builder.finish();
    /// let etc = tree.child(tree.root(), b"etc").expect("it was added");
    /// assert_eq!(tree.child(etc, b"fifo"), tree.lookup(b"etc/fifo"));
    /// # Ok::<(), fsmerge::Error>(())
    /// ```
    pub fn child(&self, directory: NodeId, name: &[u8]) -> Option<NodeId> {
        let entries = &self.entries[self.entries_of(directory)];
        let at = entries
            .binary_search_by(|entry| entry.name.of(&self.arena).cmp(name))
            .ok()?;
        Some(entries[at].node)
    }

    /// The node at `path`, whose components are looked up literally: no symlink is followed, `..`
    /// is a name. Empty components and `.` are skipped.
    ///
    /// ```
    /// use fsmerge::{Kind, LayerBuilder, Limits, Metadata};
    ///
    /// let mut builder = LayerBuilder::new(&Limits::default());
    /// builder.add_path(b"etc/fifo", Metadata::new(0o600), Kind::Fifo)?;
    /// let tree = builder.finish();
    /// let node = tree.lookup(b"/etc/fifo").expect("it was added");
    /// assert_eq!(tree.metadata(node).mode, 0o600);
    /// # Ok::<(), fsmerge::Error>(())
    /// ```
    pub fn lookup(&self, path: &[u8]) -> Option<NodeId> {
        names(path).try_fold(NodeId::ROOT, |at, name| self.child(at, name))
    }

    /// Returns the node that a path leads to, or `None`. All symbolic links are followed inside the
    /// root, that of the last component too.
    ///
    /// ```
    /// use fsmerge::{Kind, LayerBuilder, Limits, Metadata};
    ///
    /// let mut builder = LayerBuilder::new(&Limits::default());
    /// builder.add_path(b"usr/bin", Metadata::new(0o755), Kind::DIRECTORY)?;
    /// builder.add_path(b"bin", Metadata::new(0o777), Kind::Symlink(b"usr/bin"))?;
    /// let tree = builder.finish();
    /// assert_eq!(tree.resolve(b"/bin"), tree.lookup(b"usr/bin"));
    /// # Ok::<(), fsmerge::Error>(())
    /// ```
    pub fn resolve(&self, path: &[u8]) -> Option<NodeId> {
        walk(&Nodes(self), path, Follow::All).ok()
    }

    /// Every name with its full path (the root's is empty, no path begins with `/`), in preorder,
    /// siblings in byte order. A node with several names comes once for each.
    ///
    /// ```
    /// use fsmerge::{Kind, LayerBuilder, Limits, Metadata};
    ///
    /// let mut builder = LayerBuilder::new(&Limits::default());
    /// builder.add_path(b"etc/fifo", Metadata::new(0o600), Kind::Fifo)?;
    /// let tree = builder.finish();
    /// let paths: Vec<_> = tree.walk().map(|(path, _)| path).collect();
    /// assert_eq!(paths, ["", "etc", "etc/fifo"]);
    /// # Ok::<(), fsmerge::Error>(())
    /// ```
    pub fn walk(&self) -> Walk<'_> {
        Walk {
            tree: self,
            levels: Vec::new(),
            path: Vec::new(),
            started: false,
        }
    }

    /// A path of `wanted`, the first in breadth-first order. Linear in the tree, so for messages
    /// only.
    pub(crate) fn path_of(&self, wanted: NodeId) -> BytePath {
        let mut names = Vec::new();
        let mut at = wanted;
        while at != NodeId::ROOT {
            let Some(index) = self.entries.iter().position(|entry| entry.node == at) else {
                break;
            };
            names.push(self.entries[index].name.of(&self.arena));
            let parent = self
                .nodes()
                .find(|&id| self.entries_of(id).contains(&index));
            at = parent.unwrap_or(NodeId::ROOT);
        }
        names.reverse();
        names.join(&b'/').into()
    }
}

/// Iterator of [`Tree::walk`].
#[derive(Clone, Debug)]
pub struct Walk<'a> {
    tree: &'a Tree,
    /// What is left of each open directory's entries, and the length of the directory's path.
    levels: Vec<(Range<usize>, usize)>,
    path: Vec<u8>,
    started: bool,
}

impl Iterator for Walk<'_> {
    type Item = (BytePath, NodeId);

    fn next(&mut self) -> Option<Self::Item> {
        if !self.started {
            self.started = true;
            self.levels.push((self.tree.entries_of(NodeId::ROOT), 0));
            return Some((BytePath::default(), NodeId::ROOT));
        }
        loop {
            let (left, parent_len) = self.levels.last_mut()?;
            self.path.truncate(*parent_len);
            let Some(index) = left.next() else {
                self.levels.pop();
                continue;
            };
            let entry = self.tree.entries[index];
            if !self.path.is_empty() {
                self.path.push(b'/');
            }
            self.path.extend_from_slice(entry.name.of(&self.tree.arena));
            let below = self.tree.entries_of(entry.node);
            if !below.is_empty() {
                self.levels.push((below, self.path.len()));
            }
            return Some((self.path.as_slice().into(), entry.node));
        }
    }
}

/// The nodes of a tree, for walks along paths.
struct Nodes<'a>(&'a Tree);

impl blockbox_path::Tree for Nodes<'_> {
    type Node = NodeId;
    type Error = Infallible;

    fn root(&self) -> Result<NodeId, Infallible> {
        Ok(NodeId::ROOT)
    }

    fn is_directory(&self, node: &NodeId) -> bool {
        self.0.kind(*node).is_directory()
    }

    fn child(&self, directory: &NodeId, name: &[u8]) -> Result<Option<NodeId>, Infallible> {
        Ok(self.0.child(*directory, name))
    }

    fn target(&self, node: &NodeId) -> Result<Option<Vec<u8>>, Infallible> {
        Ok(match self.0.kind(*node) {
            Kind::Symlink(target) => Some(target.to_vec()),
            _ => None,
        })
    }
}
