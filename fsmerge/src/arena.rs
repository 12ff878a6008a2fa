//! A tree while it grows: names are looked up through one hash table, and taken away in constant time.

use crate::attributes::Attributes;
use crate::error::Problem;
use crate::limits::Limits;
use crate::tree::{Body, Kind, Links, Name, Node, NodeId, Span, Tree};
use hashbrown::HashTable;
use std::hash::{BuildHasher, RandomState};

/// The longest name of a directory entry (`NAME_MAX`).
const NAME_MAX: usize = 255;
/// Stands in an entry that was taken away.
const GONE: NodeId = NodeId(u32::MAX);

#[derive(Clone, Copy, Debug)]
struct Entry {
    parent: NodeId,
    name: Span,
    node: NodeId,
}

/// The growing tree. Nodes and entries are only added; what is taken away stays behind unreachable until
/// [`freeze`](Self::freeze), which copies what the root reaches.
#[derive(Debug)]
pub(crate) struct Arena {
    nodes: Vec<Node>,
    entries: Vec<Entry>,
    bytes: Vec<u8>,
    /// The live entries by parent and name. Never iterated over: its order is random.
    index: HashTable<u32>,
    hasher: RandomState,
    limits: Limits,
    root: NodeId,
}

impl Arena {
    /// A root directory alone, implied.
    pub(crate) fn new(limits: &Limits) -> Self {
        let root = Node {
            attributes: Attributes::implied_directory(),
            body: Body::Directory {
                opaque: false,
                implied: true,
            },
        };
        Self {
            nodes: vec![root],
            entries: Vec::new(),
            bytes: Vec::new(),
            index: HashTable::new(),
            hasher: RandomState::new(),
            limits: *limits,
            root: NodeId(0),
        }
    }

    /// The finished tree `tree`, growing again: every id stays as it is.
    pub(crate) fn thaw(tree: &Tree, limits: &Limits) -> Result<Self, Problem> {
        let mut arena = Self::new(limits);
        arena.bytes.clone_from(&tree.arena);
        arena.nodes.clone_from(&tree.nodes);
        for parent in tree.nodes() {
            for entry in &tree.entries[tree.entries_of(parent)] {
                arena.insert_span(parent, entry.name, entry.node)?;
            }
        }
        Ok(arena)
    }

    pub(crate) fn root(&self) -> NodeId {
        self.root
    }

    /// Puts another directory in the place of the root.
    pub(crate) fn set_root(&mut self, root: NodeId) {
        self.root = root;
    }

    pub(crate) fn body(&self, id: NodeId) -> Body {
        self.nodes[id.index()].body
    }

    pub(crate) fn set_body(&mut self, id: NodeId, body: Body) {
        self.nodes[id.index()].body = body;
    }

    pub(crate) fn attributes(&self, id: NodeId) -> &Attributes {
        &self.nodes[id.index()].attributes
    }

    pub(crate) fn set_attributes(&mut self, id: NodeId, attributes: Attributes) {
        self.nodes[id.index()].attributes = attributes;
    }

    pub(crate) fn bytes(&self, span: Span) -> &[u8] {
        span.of(&self.bytes)
    }

    pub(crate) fn is_directory(&self, id: NodeId) -> bool {
        self.body(id).is_directory()
    }

    /// The number of nodes there ever were.
    pub(crate) fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Every entry as its parent and its node, those of the parent with the highest id first.
    pub(crate) fn entries_youngest_parent_first(&self) -> Vec<(NodeId, NodeId)> {
        let mut all: Vec<_> = self
            .entries
            .iter()
            .filter(|entry| entry.node != GONE)
            .map(|entry| (entry.parent, entry.node))
            .collect();
        all.sort_unstable_by(|a, b| b.cmp(a));
        all
    }

    /// A node without a name.
    pub(crate) fn node(
        &mut self,
        attributes: Attributes,
        kind: Kind<'_>,
    ) -> Result<NodeId, Problem> {
        // Nodes come from entries, but for the root.
        if self.nodes.len() > self.limits.entries as usize || self.nodes.len() >= GONE.index() {
            return Err(entries_limit(&self.limits));
        }
        let body = match kind {
            Kind::Directory { opaque, implied } => Body::Directory { opaque, implied },
            Kind::File { size, data } => Body::File { size, data },
            Kind::Symlink(target) => Body::Symlink(self.keep(target)?),
            Kind::CharDevice { major, minor } => Body::CharDevice { major, minor },
            Kind::BlockDevice { major, minor } => Body::BlockDevice { major, minor },
            Kind::Fifo => Body::Fifo,
            Kind::Socket => Body::Socket,
            Kind::Whiteout => Body::Whiteout,
            Kind::LowerLink(target) => Body::LowerLink(self.keep(target)?),
        };
        let id = NodeId(self.nodes.len() as u32);
        self.nodes.push(Node { attributes, body });
        Ok(id)
    }

    /// Copies `bytes` into the arena.
    fn keep(&mut self, bytes: &[u8]) -> Result<Span, Problem> {
        let limit = self.limits.name_bytes;
        let end = self.bytes.len().saturating_add(bytes.len());
        match (u32::try_from(self.bytes.len()), u32::try_from(end)) {
            (Ok(start), Ok(end)) if end <= limit => {
                self.bytes.extend_from_slice(bytes);
                Ok(Span {
                    start,
                    len: end - start,
                })
            }
            _ => Err(Problem::Limit {
                name: "name_bytes",
                limit: limit.into(),
            }),
        }
    }

    fn hash(&self, parent: NodeId, name: &[u8]) -> u64 {
        self.hasher.hash_one((parent, name))
    }

    /// The node called `name` in `parent`.
    pub(crate) fn lookup(&self, parent: NodeId, name: &[u8]) -> Option<NodeId> {
        let at = *self.index.find(self.hash(parent, name), |&at| {
            let entry = self.entries[at as usize];
            entry.parent == parent && entry.name.of(&self.bytes) == name
        })?;
        Some(self.entries[at as usize].node)
    }

    /// Lets `name` in `parent` mean `node`, whatever it meant before. The name must have passed [`check_name`].
    pub(crate) fn set(&mut self, parent: NodeId, name: &[u8], node: NodeId) -> Result<(), Problem> {
        let hash = self.hash(parent, name);
        let Self {
            index,
            entries,
            bytes,
            ..
        } = self;
        let known = index.find(hash, |&at| {
            let entry = entries[at as usize];
            entry.parent == parent && entry.name.of(bytes) == name
        });
        if let Some(&at) = known {
            entries[at as usize].node = node;
            return Ok(());
        }
        let span = self.keep(name)?;
        self.insert_span(parent, span, node)
    }

    fn insert_span(&mut self, parent: NodeId, name: Span, node: NodeId) -> Result<(), Problem> {
        if self.entries.len() >= self.limits.entries as usize {
            return Err(entries_limit(&self.limits));
        }
        let hash = self.hash(parent, name.of(&self.bytes));
        let at = self.entries.len() as u32;
        self.entries.push(Entry { parent, name, node });
        let Self {
            index,
            entries,
            bytes,
            hasher,
            ..
        } = self;
        index.insert_unique(hash, at, |&at| {
            let entry = entries[at as usize];
            hasher.hash_one((entry.parent, entry.name.of(bytes)))
        });
        Ok(())
    }

    /// Takes `name` out of `parent`, with all that was reachable through it alone.
    pub(crate) fn remove(&mut self, parent: NodeId, name: &[u8]) -> Option<NodeId> {
        let hash = self.hash(parent, name);
        let Self {
            index,
            entries,
            bytes,
            ..
        } = self;
        let occupied = index
            .find_entry(hash, |&at| {
                let entry = entries[at as usize];
                entry.parent == parent && entry.name.of(bytes) == name
            })
            .ok()?;
        let (at, _) = occupied.remove();
        Some(std::mem::replace(&mut entries[at as usize].node, GONE))
    }

    /// Lets every entry mean what `replace` makes of its node.
    pub(crate) fn redirect(&mut self, mut replace: impl FnMut(NodeId) -> NodeId) {
        for entry in self.entries.iter_mut().filter(|entry| entry.node != GONE) {
            entry.node = replace(entry.node);
        }
    }

    /// What the root reaches, numbered canonically; and for each of its nodes the id it had here.
    pub(crate) fn freeze(mut self) -> (Tree, Vec<NodeId>) {
        drop(std::mem::take(&mut self.index));
        self.entries.retain(|entry| entry.node != GONE);
        let Self {
            mut nodes,
            mut entries,
            bytes,
            root,
            ..
        } = self;
        entries.sort_unstable_by(|a, b| {
            a.parent
                .cmp(&b.parent)
                .then_with(|| a.name.of(&bytes).cmp(b.name.of(&bytes)))
        });
        // Where each old node's entries begin.
        let mut firsts = vec![0_u32; nodes.len() + 1];
        for entry in &entries {
            firsts[entry.parent.index() + 1] += 1;
        }
        for at in 1..firsts.len() {
            firsts[at] += firsts[at - 1];
        }

        let mut old_ids = vec![root];
        let mut new_ids = vec![GONE; nodes.len()];
        new_ids[root.index()] = NodeId::ROOT;
        let mut names: Vec<Name> = Vec::with_capacity(entries.len());
        let mut links = vec![Links::of(true)];
        let mut at = 0;
        while let Some(&old) = old_ids.get(at) {
            let range = firsts[old.index()] as usize..firsts[old.index() + 1] as usize;
            links[at].first = names.len() as u32;
            links[at].count = range.len() as u32;
            for entry in &entries[range] {
                let directory = nodes[entry.node.index()].body.is_directory();
                let mut new = new_ids[entry.node.index()];
                if new == GONE {
                    new = NodeId(old_ids.len() as u32);
                    new_ids[entry.node.index()] = new;
                    old_ids.push(entry.node);
                    links.push(Links::of(directory));
                }
                links[if directory { at } else { new.index() }].nlink += 1;
                names.push(Name {
                    name: entry.name,
                    node: new,
                });
            }
            at += 1;
        }
        drop((entries, firsts));
        reorder(&mut nodes, new_ids, old_ids.len());
        let tree = Tree {
            nodes,
            links,
            entries: names,
            arena: bytes,
        };
        (tree, old_ids)
    }
}

impl Links {
    fn of(directory: bool) -> Self {
        Self {
            nlink: if directory { 2 } else { 0 },
            first: 0,
            count: 0,
        }
    }
}

/// Moves each node to its new id, in place: a second array of them would be most of a build's memory. Nodes that have
/// none are dropped.
fn reorder(nodes: &mut Vec<Node>, mut new_ids: Vec<NodeId>, live: usize) {
    let dropped = new_ids.iter_mut().filter(|id| **id == GONE);
    for (id, spare) in dropped.zip(live as u32..) {
        *id = NodeId(spare);
    }
    for at in 0..nodes.len() {
        // Each swap brings one node to its place for good.
        while new_ids[at].index() != at {
            let to = new_ids[at].index();
            nodes.swap(at, to);
            new_ids.swap(at, to);
        }
    }
    nodes.truncate(live);
    nodes.shrink_to_fit();
}

fn entries_limit(limits: &Limits) -> Problem {
    Problem::Limit {
        name: "entries",
        limit: limits.entries.into(),
    }
}

/// Whether a directory entry can be called `name`.
pub(crate) fn check_name(name: &[u8]) -> Result<(), Problem> {
    if name.len() > NAME_MAX {
        Err(Problem::NameTooLong { bytes: name.len() })
    } else if name.contains(&0) {
        Err(Problem::Nul)
    } else if matches!(name, b"" | b"." | b"..") || name.contains(&b'/') {
        Err(Problem::InvalidName)
    } else {
        Ok(())
    }
}

/// Whether a symlink can point to `target`.
pub(crate) fn check_target(target: &[u8], limits: &Limits) -> Result<(), Problem> {
    if target.is_empty() {
        Err(Problem::EmptyTarget)
    } else if target.contains(&0) {
        Err(Problem::Nul)
    } else if target.len() > limits.symlink_bytes {
        Err(Problem::Limit {
            name: "symlink_bytes",
            limit: limits.symlink_bytes as u64,
        })
    } else {
        Ok(())
    }
}
