//! Building the tree of a layer from entries.

use super::place::{Place, Role, is_bookkeeping};
use crate::arena::{Arena, check_target};
use crate::error::{Error, Problem};
use crate::layer::LayerTree;
use crate::limits::Limits;
use crate::metadata::{DeviceNumber, Metadata};
use crate::path;
use crate::resolve::{Left, Resolved, resolve};
use crate::tree::{Body, DataId, Kind, NodeId};
use blockbox_path::BytePath;
use blockbox_tar::What;
use std::collections::{BTreeSet, HashMap};

/// A hard link whose target has not been seen.
struct Pending {
    node: NodeId,
    /// Names from the root.
    target: Vec<u8>,
    path: Vec<u8>,
    offset: u64,
}

pub(super) struct Ingest {
    arena: Arena,
    limits: Limits,
    pending: Vec<Pending>,
    /// The directories of AUFS. Links may point into them, so they are kept until the end.
    bookkeeping: Vec<(NodeId, Vec<u8>)>,
    /// Whited-out directories that have no entry of their own. If only whiteouts follow in them,
    /// only the whiteout remains.
    hollow: BTreeSet<NodeId>,
}

impl Ingest {
    pub(super) fn new(limits: &Limits) -> Self {
        Self {
            arena: Arena::new(limits),
            limits: *limits,
            pending: Vec::new(),
            bookkeeping: Vec::new(),
            hollow: BTreeSet::new(),
        }
    }

    pub(super) fn add(
        &mut self,
        place: &Place<'_>,
        attributes: Metadata,
        what: &What,
        data: Option<DataId>,
        offset: u64,
    ) -> Result<(), Problem> {
        let name = match place.role {
            Role::Root => return self.root(attributes, what),
            Role::Bookkeeping => return Ok(()),
            Role::Opaque => {
                let directory = self.enter(&place.parents)?;
                self.make_opaque(directory);
                return Ok(());
            }
            Role::Whiteout(hidden) => {
                let directory = self.enter(&place.parents)?;
                return self.whiteout(directory, hidden);
            }
            Role::Entry(name) => name,
        };
        let parent = self.enter(&place.parents)?;
        match what {
            What::Directory => self.directory(parent, name, attributes),
            What::HardLink(target) => {
                self.hard_link(parent, name, attributes, target, |target, node| Pending {
                    node,
                    target,
                    path: place.path(),
                    offset,
                })
            }
            What::File(map) => {
                let size = map.size;
                self.replace(parent, name, attributes, Kind::File { size, data })
            }
            What::Symlink(target) => {
                check_target(target, &self.limits)?;
                // Linux gives every symlink this mode, whatever the header says: what unpackers'
                // users see.
                let attributes = Metadata {
                    mode: 0o777,
                    ..attributes
                };
                self.replace(parent, name, attributes, Kind::Symlink(target))
            }
            What::CharDevice { major: 0, minor: 0 } => Err(Problem::WhiteoutDevice),
            &What::CharDevice { major, minor } => self.replace(
                parent,
                name,
                attributes,
                Kind::CharDevice(DeviceNumber { major, minor }),
            ),
            &What::BlockDevice { major, minor } => self.replace(
                parent,
                name,
                attributes,
                Kind::BlockDevice(DeviceNumber { major, minor }),
            ),
            &What::Unknown { kind, .. } => Err(Problem::UnknownType { kind }),
            What::Fifo => self.replace(parent, name, attributes, Kind::Fifo),
        }
    }

    fn root(&mut self, attributes: Metadata, what: &What) -> Result<(), Problem> {
        if !matches!(what, What::Directory) {
            return Err(Problem::RootNotDirectory);
        }
        self.describe(self.arena.root(), attributes);
        Ok(())
    }

    /// Gives a directory the attributes of its entry.
    fn describe(&mut self, directory: NodeId, attributes: Metadata) {
        if let Body::Directory { opaque, .. } = self.arena.body(directory) {
            self.hollow.remove(&directory);
            self.arena.set_metadata(directory, attributes);
            let implied = false;
            self.arena
                .set_body(directory, Body::Directory { opaque, implied });
        }
    }

    fn make_opaque(&mut self, directory: NodeId) {
        if let Body::Directory { implied, .. } = self.arena.body(directory) {
            let opaque = true;
            self.arena
                .set_body(directory, Body::Directory { opaque, implied });
        }
    }

    fn whiteout(&mut self, parent: NodeId, name: &[u8]) -> Result<(), Problem> {
        match self.arena.lookup(parent, name) {
            None => {
                let node = self.arena.node(Metadata::new(0), Kind::Whiteout)?;
                self.arena.set(parent, name, node)
            }
            // The lower directory is hidden, with its children and attributes.
            Some(node) if self.arena.is_directory(node) => {
                if let Body::Directory { implied: true, .. } = self.arena.body(node) {
                    self.hollow.insert(node);
                }
                let (opaque, implied) = (true, false);
                self.arena
                    .set_body(node, Body::Directory { opaque, implied });
                Ok(())
            }
            // Any other new entry replaces the lower one.
            Some(_) => Ok(()),
        }
    }

    /// A directory entry: over a directory of this layer only its attributes are new.
    fn directory(
        &mut self,
        parent: NodeId,
        name: &[u8],
        attributes: Metadata,
    ) -> Result<(), Problem> {
        match self.arena.lookup(parent, name) {
            Some(node) if self.arena.is_directory(node) => {
                self.describe(node, attributes);
                Ok(())
            }
            known => {
                // If this layer has another entry or a whiteout of this name, the lower directory
                // is hidden.
                let opaque = known.is_some();
                let implied = false;
                self.replace(
                    parent,
                    name,
                    attributes,
                    Kind::Directory { opaque, implied },
                )
            }
        }
    }

    fn replace(
        &mut self,
        parent: NodeId,
        name: &[u8],
        attributes: Metadata,
        kind: Kind<'_>,
    ) -> Result<(), Problem> {
        let node = self.arena.node(attributes, kind)?;
        self.arena.set(parent, name, node)
    }

    /// The directory at the end of `names`, made where it is missing. Symlinks of this layer are
    /// followed inside the root, as runtimes do when they unpack one entry after the other; those
    /// of lower layers are the merge's to follow.
    fn enter(&mut self, names: &[&[u8]]) -> Result<NodeId, Problem> {
        let mut way = vec![self.arena.root()];
        let mut names = names.iter();
        let mut left = Left::default();
        loop {
            let owned = left.pop();
            let name: &[u8] = match (&owned, names.as_slice()) {
                (Some(name), _) => name,
                (None, [name, ..]) => {
                    names.next();
                    name
                }
                (None, []) => break,
            };
            if name == b".." {
                // Above the root is the root, as in a chroot.
                if way.len() > 1 {
                    way.pop();
                }
                continue;
            }
            let here = way[way.len() - 1];
            let known = self.arena.lookup(here, name);
            match known.map(|node| (node, self.arena.body(node))) {
                Some((node, Body::Directory { .. })) => way.push(node),
                Some((_, Body::Symlink(target))) => {
                    let target = self.arena.bytes(target);
                    if target.starts_with(b"/") {
                        way.truncate(1);
                    }
                    left.follow(target, &self.limits)?;
                }
                known => {
                    // Over another entry or a whiteout of this layer, the lower directory is
                    // hidden, so nothing is implied.
                    let fresh = known.is_some();
                    let kind = Kind::Directory {
                        opaque: fresh,
                        implied: !fresh,
                    };
                    let node = self.arena.node(Metadata::implied_directory(), kind)?;
                    self.arena.set(here, name, node)?;
                    if let Some((_, Body::Whiteout)) = known {
                        self.hollow.insert(node);
                    }
                    if is_bookkeeping(name) {
                        self.bookkeeping.push((here, name.to_vec()));
                    }
                    way.push(node);
                }
            }
            path::check_depth(way.len() - 1, &self.limits)?;
        }
        Ok(way[way.len() - 1])
    }

    fn hard_link(
        &mut self,
        parent: NodeId,
        name: &[u8],
        attributes: Metadata,
        target: &[u8],
        pending: impl FnOnce(Vec<u8>, NodeId) -> Pending,
    ) -> Result<(), Problem> {
        match self.find(target)? {
            Resolved::Node(node, _) if self.arena.is_directory(node) => {
                Err(Problem::LinkToDirectory {
                    target: target.into(),
                })
            }
            Resolved::Node(node, _) => self.arena.set(parent, name, node),
            Resolved::Missing(path) => {
                let node = self.arena.node(attributes, Kind::LowerLink(&path))?;
                self.arena.set(parent, name, node)?;
                self.pending.push(pending(path, node));
                Ok(())
            }
        }
    }

    /// What a hard link's target is. Its parents' symlinks are followed, it itself is not: a
    /// symlink can have hard links.
    fn find(&self, target: &[u8]) -> Result<Resolved, Problem> {
        let names = path::components(target, &self.limits)?;
        resolve(&self.arena, &names, false, &self.limits)
    }

    /// The finished layer.
    pub(super) fn finish(mut self) -> Result<LayerTree, Error> {
        self.settle_links()?;
        for (parent, name) in std::mem::take(&mut self.bookkeeping) {
            if self
                .arena
                .lookup(parent, &name)
                .is_some_and(|node| self.arena.is_directory(node))
            {
                self.arena.remove(parent, &name);
            }
        }
        self.drop_hollow()?;
        Ok(LayerTree(self.arena.freeze().0))
    }

    fn drop_hollow(&mut self) -> Result<(), Error> {
        if self.hollow.is_empty() {
            return Ok(());
        }
        let arena = &mut self.arena;
        let mut substantial: Vec<bool> = (0..arena.len())
            .map(|id| {
                let id = NodeId(id as u32);
                let traceless = matches!(
                    arena.body(id),
                    Body::Whiteout | Body::Directory { implied: true, .. }
                );
                !traceless && !self.hollow.contains(&id)
            })
            .collect();
        // A directory of a layer being read is younger than its parent.
        for (parent, node) in arena.entries_youngest_parent_first() {
            substantial[parent.index()] |= substantial[node.index()];
        }
        let mut whiteouts = HashMap::new();
        for &node in self.hollow.iter().filter(|node| !substantial[node.index()]) {
            let whiteout = arena
                .node(Metadata::new(0), Kind::Whiteout)
                .map_err(|problem| Error::Node {
                    path: BytePath::default(),
                    problem,
                })?;
            whiteouts.insert(node, whiteout);
        }
        arena.redirect(|node| whiteouts.get(&node).copied().unwrap_or(node));
        Ok(())
    }

    /// Links whose targets came after them get their target's node; the others stay links to a
    /// lower layer.
    fn settle_links(&mut self) -> Result<(), Error> {
        if self.pending.is_empty() {
            return Ok(());
        }
        let pending = std::mem::take(&mut self.pending);
        let mut targets: HashMap<NodeId, NodeId> = HashMap::new();
        for link in &pending {
            let at = |problem| Error::Entry {
                path: link.path.clone().into(),
                offset: link.offset,
                problem,
            };
            match self.find(&link.target).map_err(at)? {
                Resolved::Node(node, _) if self.arena.is_directory(node) => {
                    return Err(at(Problem::LinkToDirectory {
                        target: link.target.clone().into(),
                    }));
                }
                Resolved::Node(node, _) if node != link.node => {
                    targets.insert(link.node, node);
                }
                _ => {}
            }
        }
        // A link's target may be another link. Each chain is followed once, and links in a circle
        // remain links to a lower layer.
        let mut settled: HashMap<NodeId, NodeId> = HashMap::new();
        for link in &pending {
            let mut chain = Vec::new();
            let mut end = link.node;
            loop {
                if let Some(&known) = settled.get(&end) {
                    end = known;
                    break;
                }
                let Some(&next) = targets.get(&end) else {
                    break;
                };
                settled.insert(end, end);
                chain.push(end);
                end = next;
            }
            for node in chain {
                settled.insert(node, end);
            }
        }
        self.arena
            .redirect(|node| settled.get(&node).copied().unwrap_or(node));
        Ok(())
    }
}
