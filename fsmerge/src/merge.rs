//! Merging layers into the tree that a container sees.

use blockbox_path::BytePath;

use crate::arena::Arena;
use crate::error::{Error, Problem};
use crate::follow::followed;
use crate::layer::LayerTree;
use crate::limits::Limits;
use crate::path;
use crate::progress::{Meter, Progress};
use crate::resolve::{Resolved, resolve};
use crate::tree::{Body, Kind, NodeId, Tree};
use std::collections::HashMap;
use std::ops::Deref;

/// A merged tree: what a container sees. No whiteouts, no opaque marks, no links to lower layers.
#[derive(Clone, Debug)]
pub struct Merged {
    tree: Tree,
    origins: Vec<Option<u16>>,
}

impl Deref for Merged {
    type Target = Tree;

    fn deref(&self) -> &Tree {
        &self.tree
    }
}

impl Merged {
    /// The layer that the node comes from, with its attributes: counted from 0, the lowest. None
    /// for a directory that layers only imply.
    ///
    /// ```
    /// use fsmerge::{Kind, LayerBuilder, Limits, Merge, Metadata};
    ///
    /// let limits = Limits::default();
    /// let mut merge = Merge::new(&limits);
    /// for name in [b"a", b"b"] {
    ///     let mut layer = LayerBuilder::new(&limits);
    ///     layer.add_path(name, Metadata::new(0o600), Kind::Fifo)?;
    ///     merge.push(&layer.finish())?;
    /// }
    /// let merged = merge.finish();
    /// let node = merged.lookup(b"b").expect("it was added");
    /// assert_eq!(merged.layer(node), Some(1));
    /// # Ok::<(), fsmerge::Error>(())
    /// ```
    pub fn layer(&self, id: NodeId) -> Option<u16> {
        self.origins[id.index()]
    }

    /// The layer that holds the file's contents, whose [`DataId`](crate::DataId) the node has. None
    /// for what has no contents.
    pub fn data_layer(&self, id: NodeId) -> Option<u16> {
        match self.tree.kind(id) {
            Kind::File { data: Some(_), .. } => self.layer(id),
            _ => None,
        }
    }
}

/// Merges layers, lowest first, in time linear in their entries.
///
/// ```
/// use fsmerge::{Limits, Merge, read_tar};
///
/// # fn layer(tar: &[u8]) -> fsmerge::LayerTree { read_tar(tar, &mut (), &Limits::default()).unwrap().0 }
/// # let (lower, upper) = (layer(b""), layer(b""));
/// let mut merge = Merge::new(&Limits::default());
/// merge.push(&lower)?;
/// merge.push(&upper)?;
/// for (path, id) in merge.finish().walk() {
///     println!("{path}");
/// }
/// # Ok::<(), fsmerge::Error>(())
/// ```
#[derive(Debug)]
pub struct Merge {
    pub(crate) arena: Arena,
    pub(crate) limits: Limits,
    /// By the arena's ids.
    origins: Vec<Option<u16>>,
    pub(crate) layers: usize,
    progress: Option<Progress>,
}

impl Merge {
    /// Returns a merge without layers. Its root is implied.
    pub fn new(limits: &Limits) -> Self {
        Self {
            arena: Arena::new(limits),
            limits: *limits,
            origins: vec![None],
            layers: 0,
            progress: None,
        }
    }

    /// Sets the callback that receives the progress of the merge: the names of all layers so far.
    ///
    /// ```
    /// use fsmerge::{Limits, Merge, Progress};
    ///
    /// let progress = Progress::new(|done| eprint!("\r{} names", done.entries));
    /// let merge = Merge::new(&Limits::default()).progress(progress);
    /// ```
    #[must_use]
    pub fn progress(mut self, progress: impl Into<Option<Progress>>) -> Self {
        self.progress = progress.into();
        self
    }

    /// Adds `layer` on top of the others.
    ///
    /// ```
    /// use fsmerge::{ContentStore, Limits, Merge};
    ///
    /// let limits = Limits::default();
    /// let mut merge = Merge::new(&limits);
    /// // An archive without entries.
    /// let (layer, _) = ContentStore::in_memory().read_tar(&[0; 1024][..], &limits)?;
    /// merge.push(&layer)?;
    /// let merged = merge.finish();
    /// assert_eq!(merged.walk().count(), 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Merge`] where a hard link's target is missing below or is a directory, or a limit
    /// is passed. The merge is of no use afterwards.
    pub fn push(&mut self, layer: &LayerTree) -> Result<(), Error> {
        let number = self.layers;
        let wrap = |path: BytePath, problem| Error::Merge {
            layer: number,
            path,
            problem,
        };
        let origin = u16::try_from(number).map_err(|_| {
            wrap(
                BytePath::default(),
                Problem::Limit {
                    name: "layers",
                    limit: u16::MAX.into(),
                },
            )
        })?;
        let rearranged = followed(&self.arena, layer, &self.limits)
            .map_err(|(path, problem)| wrap(path, problem))?;
        let mut push = Push {
            layer: rearranged.as_ref().unwrap_or(layer),
            origin,
            merge: self,
            nodes: HashMap::new(),
        };
        push.links()
            .and_then(|()| push.apply())
            .map_err(|(node, problem)| wrap(push.layer.path_of(node), problem))?;
        self.layers += 1;
        Ok(())
    }

    /// Returns the merged tree.
    ///
    /// ```
    /// use fsmerge::{Limits, Merge};
    ///
    /// // Without layers there is an implied root alone.
    /// assert!(Merge::new(&Limits::default()).finish().is_empty());
    /// ```
    pub fn finish(self) -> Merged {
        let (tree, old_ids) = self.arena.freeze();
        let origins = old_ids
            .iter()
            .map(|old| self.origins[old.index()])
            .collect();
        Merged { tree, origins }
    }
}

/// One layer being put on top.
struct Push<'a> {
    layer: &'a LayerTree,
    origin: u16,
    merge: &'a mut Merge,
    /// The merged nodes of the layer's nodes with several names and of its links to lower layers.
    nodes: HashMap<NodeId, NodeId>,
}

/// A node of the layer and its problem.
type Bad = (NodeId, Problem);

impl Push<'_> {
    /// Finds the targets of links to lower layers before anything changes, because the layer's
    /// whiteouts do not affect them.
    fn links(&mut self) -> Result<(), Bad> {
        for id in self.layer.nodes() {
            if let Kind::LowerLink(target) = self.layer.kind(id) {
                let found = self.link(target).map_err(|problem| (id, problem))?;
                self.nodes.insert(id, found);
            }
        }
        Ok(())
    }

    fn link(&mut self, target: &[u8]) -> Result<NodeId, Problem> {
        let Merge { arena, limits, .. } = &*self.merge;
        let names = path::components(target, limits)?;
        let resolved = resolve(arena, &names, false, limits)?;
        let (Resolved::Node(_, path) | Resolved::Missing(path)) = &resolved;
        // The layer itself may have the target, under a path that a lower symlink leads to.
        let new = self.layer.lookup(path).filter(|&id| {
            let kind = self.layer.kind(id);
            !kind.is_directory() && !matches!(kind, Kind::Whiteout | Kind::LowerLink(_))
        });
        match (new, resolved) {
            (Some(id), _) => {
                let node = self.node(id)?;
                self.nodes.insert(id, node);
                Ok(node)
            }
            (None, Resolved::Node(node, _)) if arena.is_directory(node) => {
                Err(Problem::LinkToDirectory {
                    target: target.into(),
                })
            }
            (None, Resolved::Node(node, _)) => Ok(node),
            (None, Resolved::Missing(_)) => Err(Problem::LinkTargetMissing {
                target: target.into(),
            }),
        }
    }

    fn apply(&mut self) -> Result<(), Bad> {
        let substantial = substantial(self.layer);
        let layer = self.layer;
        let root = self.root().map_err(|problem| (NodeId::ROOT, problem))?;
        let mut meter = Meter::default();
        let progress = self.merge.progress.clone();
        let report = |new| {
            if let Some(progress) = &progress {
                progress.add(new);
            }
        };
        let mut pending = vec![(NodeId::ROOT, root)];
        while let Some((from, to)) = pending.pop() {
            for (name, id) in layer.children(from) {
                meter.entry(0).map(report);
                let directory = self
                    .child(to, name, id, substantial[id.index()])
                    .map_err(|problem| (id, problem))?;
                if let Some(directory) = directory {
                    pending.push((id, directory));
                }
            }
        }
        report(meter.rest());
        Ok(())
    }

    /// Returns the merged root, with the layer's attributes and marks of the root.
    fn root(&mut self) -> Result<NodeId, Problem> {
        let below = self.merge.arena.root();
        let root = self.directory(NodeId::ROOT, Some(below))?;
        self.merge.arena.set_root(root);
        Ok(root)
    }

    /// Merges one entry. If it is a directory, its entries are merged next, into the returned
    /// directory.
    fn child(
        &mut self,
        to: NodeId,
        name: &[u8],
        id: NodeId,
        substantial: bool,
    ) -> Result<Option<NodeId>, Problem> {
        let place = self.merge.arena.place(to, name);
        let below = self.merge.arena.node_at(place);
        let kind = self.layer.kind(id);
        if kind == Kind::Whiteout {
            self.merge.arena.remove(to, name);
            return Ok(None);
        }
        if !kind.is_directory() {
            let node = self.node(id)?;
            self.merge.arena.fill(place, name, node)?;
            return Ok(None);
        }
        let below = below.filter(|&below| self.merge.arena.is_directory(below));
        if below.is_none() && !substantial {
            return Ok(None);
        }
        let directory = self.directory(id, below)?;
        self.merge.arena.fill(place, name, directory)?;
        Ok(Some(directory))
    }

    /// The merged directory for the layer's `id` where `below` is the lower one.
    fn directory(&mut self, id: NodeId, below: Option<NodeId>) -> Result<NodeId, Problem> {
        let Kind::Directory { opaque, implied } = self.layer.kind(id) else {
            return Err(Problem::RootNotDirectory);
        };
        let Merge { arena, origins, .. } = &mut *self.merge;
        let (attributes, origin, implied) = match below {
            Some(below) if implied => (
                arena.metadata(below).clone(),
                origins[below.index()],
                matches!(arena.body(below), Body::Directory { implied: true, .. }),
            ),
            None if implied => (self.layer.metadata(id).clone(), None, true),
            _ => (self.layer.metadata(id).clone(), Some(self.origin), false),
        };
        if let Some(below) = below.filter(|_| !opaque) {
            let opaque = false;
            arena.set_metadata(below, attributes);
            arena.set_body(below, Body::Directory { opaque, implied });
            origins[below.index()] = origin;
            return Ok(below);
        }
        let opaque = false;
        let node = arena.node(attributes, Kind::Directory { opaque, implied })?;
        origins.push(origin);
        Ok(node)
    }

    /// The merged node for the layer's non-directory `id`.
    fn node(&mut self, id: NodeId) -> Result<NodeId, Problem> {
        if let Some(&known) = self.nodes.get(&id) {
            return Ok(known);
        }
        let (attributes, kind) = (self.layer.metadata(id), self.layer.kind(id));
        let node = self.merge.arena.node(attributes.clone(), kind)?;
        self.merge.origins.push(Some(self.origin));
        if self.layer.nlink(id) > 1 {
            self.nodes.insert(id, node);
        }
        Ok(node)
    }
}

/// Which nodes appear in the result. An implied directory that holds only whiteouts does not.
pub(crate) fn substantial(layer: &LayerTree) -> Vec<bool> {
    let mut substantial: Vec<bool> = layer
        .nodes()
        .map(|id| {
            !matches!(
                layer.kind(id),
                Kind::Whiteout | Kind::Directory { implied: true, .. }
            )
        })
        .collect();
    // Children have larger ids than their directory.
    for id in layer.nodes().rev() {
        let any = layer
            .children(id)
            .any(|(_, child)| substantial[child.index()]);
        substantial[id.index()] |= any;
    }
    substantial
}
