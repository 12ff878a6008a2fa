//! A tree under construction. Names are looked up in one hash table and removed in constant time.

use crate::error::Problem;
use crate::limits::Limits;
use crate::metadata::Metadata;
use crate::tree::{Body, Kind, Links, Name, Node, NodeId, Span, Tree};
use hashbrown::HashTable;
use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};

/// The longest name of a directory entry (`NAME_MAX`).
const NAME_MAX: usize = 255;
/// The node of a removed entry.
const GONE: NodeId = NodeId(u32::MAX);

#[derive(Clone, Copy, Debug)]
struct Entry {
    parent: NodeId,
    name: Span,
    node: NodeId,
    /// The hash of parent and name, so that a growing table need not read the names again.
    hash: u32,
}

/// The place of a name that exists or can be added. Valid until names are set or removed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    parent: NodeId,
    hash: u32,
    entry: Option<u32>,
}

/// The growing tree. Nodes and entries are only added; what is removed stays in memory,
/// unreachable, until [`freeze`](Self::freeze), which copies what the root reaches.
#[derive(Debug)]
pub(crate) struct Arena {
    nodes: Vec<Node>,
    entries: Vec<Entry>,
    bytes: Vec<u8>,
    /// The live entries by parent and name. Never iterated over: its order is random.
    index: HashTable<u32>,
    hasher: RandomState,
    /// The directories that were removed.
    cleared: HashSet<NodeId>,
    limits: Limits,
    root: NodeId,
}

impl Arena {
    /// A root directory alone, implied.
    pub(crate) fn new(limits: &Limits) -> Self {
        let root = Node {
            metadata: Metadata::implied_directory(),
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
            cleared: HashSet::new(),
            limits: *limits,
            root: NodeId(0),
        }
    }

    /// Reopens the finished tree `tree` for changes. Every id stays the same.
    pub(crate) fn thaw(tree: &Tree, limits: &Limits) -> Result<Self, Problem> {
        let mut arena = Self::new(limits);
        arena.bytes.clone_from(&tree.arena);
        arena.nodes.clone_from(&tree.nodes);
        for parent in tree.nodes() {
            for entry in &tree.entries[tree.entries_of(parent)] {
                arena.insert(Entry {
                    parent,
                    name: entry.name,
                    node: entry.node,
                    hash: arena.hash(parent, entry.name.of(&arena.bytes)),
                })?;
            }
        }
        Ok(arena)
    }

    pub(crate) fn root(&self) -> NodeId {
        self.root
    }

    /// Replaces the root by another directory.
    pub(crate) fn set_root(&mut self, root: NodeId) {
        self.root = root;
    }

    pub(crate) fn body(&self, id: NodeId) -> Body {
        self.nodes[id.index()].body
    }

    pub(crate) fn set_body(&mut self, id: NodeId, body: Body) {
        self.nodes[id.index()].body = body;
    }

    pub(crate) fn metadata(&self, id: NodeId) -> &Metadata {
        &self.nodes[id.index()].metadata
    }

    pub(crate) fn set_metadata(&mut self, id: NodeId, metadata: Metadata) {
        self.nodes[id.index()].metadata = metadata;
    }

    pub(crate) fn bytes(&self, span: Span) -> &[u8] {
        span.of(&self.bytes)
    }

    pub(crate) fn is_directory(&self, id: NodeId) -> bool {
        self.body(id).is_directory()
    }

    /// The number of nodes that were ever added.
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
    pub(crate) fn node(&mut self, metadata: Metadata, kind: Kind<'_>) -> Result<NodeId, Problem> {
        // Nodes come from entries, but for the root.
        if self.nodes.len() > self.limits.entries as usize || self.nodes.len() >= GONE.index() {
            return Err(entries_limit(&self.limits));
        }
        let body = match kind {
            Kind::Directory { opaque, implied } => Body::Directory { opaque, implied },
            Kind::File { size, data } => Body::File { size, data },
            Kind::Symlink(target) => Body::Symlink(self.keep(target)?),
            Kind::CharDevice(number) => Body::CharDevice(number),
            Kind::BlockDevice(number) => Body::BlockDevice(number),
            Kind::Fifo => Body::Fifo,
            Kind::Socket => Body::Socket,
            Kind::Whiteout => Body::Whiteout,
            Kind::LowerLink(target) => Body::LowerLink(self.keep(target)?),
        };
        let id = NodeId(self.nodes.len() as u32);
        self.nodes.push(Node { metadata, body });
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

    fn hash(&self, parent: NodeId, name: &[u8]) -> u32 {
        self.hasher.hash_one((parent, name)) as u32
    }

    /// Returns the place of `name` in `parent`.
    pub(crate) fn place(&self, parent: NodeId, name: &[u8]) -> Place {
        let hash = self.hash(parent, name);
        let named = |&at: &u32| {
            let entry = self.entries[at as usize];
            (entry.hash, entry.parent) == (hash, parent) && entry.name.of(&self.bytes) == name
        };
        Place {
            parent,
            hash,
            entry: self.index.find(spread(hash), named).copied(),
        }
    }

    /// The node at a place.
    pub(crate) fn node_at(&self, place: Place) -> Option<NodeId> {
        Some(self.entries[place.entry? as usize].node)
    }

    /// The node called `name` in `parent`.
    pub(crate) fn lookup(&self, parent: NodeId, name: &[u8]) -> Option<NodeId> {
        self.node_at(self.place(parent, name))
    }

    /// Sets the entry `name` of `parent` to `node`, and replaces an existing one. The name must
    /// have passed [`check_name`].
    pub(crate) fn set(&mut self, parent: NodeId, name: &[u8], node: NodeId) -> Result<(), Problem> {
        self.fill(self.place(parent, name), name, node)
    }

    /// As [`set`](Self::set), at a known place.
    pub(crate) fn fill(&mut self, place: Place, name: &[u8], node: NodeId) -> Result<(), Problem> {
        if let Some(at) = place.entry {
            self.entries[at as usize].node = node;
            return Ok(());
        }
        let name = self.keep(name)?;
        self.insert(Entry {
            parent: place.parent,
            name,
            node,
            hash: place.hash,
        })
    }

    fn insert(&mut self, entry: Entry) -> Result<(), Problem> {
        if self.entries.len() >= self.limits.entries as usize {
            return Err(entries_limit(&self.limits));
        }
        let at = self.entries.len() as u32;
        self.entries.push(entry);
        let Self { index, entries, .. } = self;
        index.insert_unique(spread(entry.hash), at, |&at| {
            spread(entries[at as usize].hash)
        });
        Ok(())
    }

    /// Removes `name` from `parent`, with everything that was reachable only through it.
    pub(crate) fn remove(&mut self, parent: NodeId, name: &[u8]) -> Option<NodeId> {
        let place = self.place(parent, name);
        let at = place.entry?;
        let occupied = self
            .index
            .find_entry(spread(place.hash), |&known| known == at);
        occupied.ok()?.remove();
        Some(std::mem::replace(&mut self.entries[at as usize].node, GONE))
    }

    /// Removes everything in a directory that was removed itself, and records the removed
    /// directories.
    pub(crate) fn clear(&mut self, directory: NodeId) {
        self.cleared.insert(directory);
        // Entries of a directory come after the directory's own entry.
        for at in 0..self.entries.len() {
            let Entry {
                parent, node, hash, ..
            } = self.entries[at];
            if node == GONE || !self.cleared.contains(&parent) {
                continue;
            }
            let known = |&known: &u32| known as usize == at;
            if let Ok(entry) = self.index.find_entry(spread(hash), known) {
                entry.remove();
            }
            self.entries[at].node = GONE;
            if self.is_directory(node) {
                self.cleared.insert(node);
            }
        }
    }

    /// Whether a directory was [cleared](Self::clear).
    pub(crate) fn is_cleared(&self, id: NodeId) -> bool {
        self.cleared.contains(&id)
    }

    /// Returns what the node is.
    pub(crate) fn kind(&self, id: NodeId) -> Kind<'_> {
        self.body(id).kind(&self.bytes)
    }

    /// Returns a path of a node. Linear in the entries, so for messages only.
    pub(crate) fn path_of(&self, id: NodeId) -> Vec<u8> {
        let mut names = Vec::new();
        let mut at = id;
        while at != self.root {
            let Some(entry) = self.entries.iter().find(|entry| entry.node == at) else {
                break;
            };
            names.push(entry.name.of(&self.bytes));
            at = entry.parent;
        }
        names.reverse();
        names.join(&b'/')
    }

    /// Replaces the node of every entry by the result of `replace`.
    pub(crate) fn redirect(&mut self, mut replace: impl FnMut(NodeId) -> NodeId) {
        for entry in self.entries.iter_mut().filter(|entry| entry.node != GONE) {
            entry.node = replace(entry.node);
        }
    }

    /// The live entries in the order of their parents, each parent's in the order in which they
    /// were added; and where each parent's begin.
    fn by_parent(&mut self) -> (Vec<u32>, Vec<Name>) {
        let mut entries = std::mem::take(&mut self.entries);
        entries.retain(|entry| entry.node != GONE);
        let mut next = vec![0_u32; self.nodes.len() + 1];
        for entry in &entries {
            next[entry.parent.index() + 1] += 1;
        }
        for at in 1..next.len() {
            next[at] += next[at - 1];
        }
        let firsts = next.clone();
        let nothing = Name {
            name: Span { start: 0, len: 0 },
            node: GONE,
        };
        let mut sorted = vec![nothing; entries.len()];
        for entry in &entries {
            let at = &mut next[entry.parent.index()];
            sorted[*at as usize] = Name {
                name: entry.name,
                node: entry.node,
            };
            *at += 1;
        }
        (firsts, sorted)
    }

    /// Returns everything that the root reaches, with canonical ids, and for each node its id in
    /// this arena.
    pub(crate) fn freeze(mut self) -> (Tree, Vec<NodeId>) {
        drop(std::mem::take(&mut self.index));
        let (firsts, mut sorted) = self.by_parent();
        let Self {
            mut nodes,
            bytes,
            root,
            ..
        } = self;

        let mut old_ids = vec![root];
        let mut new_ids = vec![GONE; nodes.len()];
        new_ids[root.index()] = NodeId::ROOT;
        let mut names: Vec<Name> = Vec::with_capacity(sorted.len());
        let mut links = vec![Links::of(true)];
        let mut at = 0;
        while let Some(&old) = old_ids.get(at) {
            let range = firsts[old.index()] as usize..firsts[old.index() + 1] as usize;
            links[at].first = names.len() as u32;
            links[at].count = range.len() as u32;
            let children = &mut sorted[range];
            // Entries of a layer image are sorted already, which is quick to see.
            children.sort_unstable_by(|a, b| a.name.of(&bytes).cmp(b.name.of(&bytes)));
            for entry in children {
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
        drop((sorted, firsts));
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

/// Moves each node to its new id, in place: a second array of them would be most of a build's
/// memory. Nodes that have none are dropped.
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

/// A hash of 64 bits for a table that uses the lowest and the highest bits.
fn spread(hash: u32) -> u64 {
    u64::from(hash) << 32 | u64::from(hash)
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
