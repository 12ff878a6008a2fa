//! One layer's tree, and building one by hand.

use crate::arena::{Arena, Place, check_name, check_target};
use crate::error::{Error, Problem};
use crate::limits::Limits;
use crate::metadata::{DeviceNumber, Metadata};
use crate::path;
use crate::resolve::{Left, Resolved, resolve};
use crate::tree::{Body, Kind, NodeId, Tree};
use std::ops::Deref;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The content of one layer: its entries, whiteouts, opaque marks, and links to what lies below it.
#[derive(Clone, Debug)]
pub struct LayerTree(pub(crate) Tree);

impl Deref for LayerTree {
    type Target = Tree;

    fn deref(&self) -> &Tree {
        &self.0
    }
}

/// Builds a [`LayerTree`] node by node.
///
/// ```
/// use fsmerge::{Kind, LayerBuilder, Limits, Metadata};
///
/// let mut builder = LayerBuilder::new(&Limits::default());
/// let etc = builder.add(builder.root(), b"etc", Metadata::new(0o755), Kind::DIRECTORY)?;
/// let link = builder.add(etc, b"mtab", Metadata::new(0o777), Kind::Symlink(b"/proc/mounts"))?;
/// builder.link(etc, b"also-mtab", link)?;
/// let layer = builder.finish();
/// assert_eq!(layer.nlink(layer.lookup(b"etc/mtab").unwrap()), 2);
/// # Ok::<(), fsmerge::Error>(())
/// ```
#[derive(Debug)]
pub struct LayerBuilder {
    arena: Arena,
    limits: Limits,
    owner: usize,
}

/// A node of a [`LayerBuilder`]. Only the builder that returned it accepts it: others report
/// [`Problem::ForeignNode`]. The finished layer has [other ids](NodeId).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BuilderNodeId {
    owner: usize,
    index: NodeId,
}

impl LayerBuilder {
    /// Returns a builder of a layer that holds nothing. Its root is implied.
    pub fn new(limits: &Limits) -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        Self {
            arena: Arena::new(limits),
            limits: *limits,
            owner: NEXT.fetch_add(1, Ordering::Relaxed),
        }
    }

    /// Returns the root directory.
    pub fn root(&self) -> BuilderNodeId {
        self.node(self.arena.root())
    }

    /// Sets the attributes and marks of the root directory.
    ///
    /// ```
    /// use fsmerge::{LayerBuilder, Limits, Metadata};
    ///
    /// let mut builder = LayerBuilder::new(&Limits::default());
    /// builder.set_root(Metadata::new(0o700), false, false);
    /// let layer = builder.finish();
    /// assert_eq!(layer.metadata(layer.root()).mode, 0o700);
    /// ```
    pub fn set_root(&mut self, metadata: Metadata, opaque: bool, implied: bool) {
        let root = self.arena.root();
        self.arena.set_metadata(root, metadata);
        self.arena
            .set_body(root, Body::Directory { opaque, implied });
    }

    /// Sets the attributes of a node.
    ///
    /// ```
    /// use fsmerge::{Kind, LayerBuilder, Limits, Metadata};
    ///
    /// let mut builder = LayerBuilder::new(&Limits::default());
    /// let etc = builder.add_path(b"etc", Metadata::new(0o755), Kind::DIRECTORY)?;
    /// builder.set_metadata(etc, Metadata::new(0o700).owner(1000, 1000))?;
    /// # Ok::<(), fsmerge::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Node`] with [`Problem::ForeignNode`].
    pub fn set_metadata(&mut self, node: BuilderNodeId, metadata: Metadata) -> Result<(), Error> {
        let index = self.index(node, b"")?;
        self.arena.set_metadata(index, metadata);
        Ok(())
    }

    /// Adds a node called `name` to the directory `parent`.
    ///
    /// ```
    /// use fsmerge::{Kind, LayerBuilder, Limits, Metadata};
    ///
    /// let mut builder = LayerBuilder::new(&Limits::default());
    /// let root = builder.root();
    /// let etc = builder.add(root, b"etc", Metadata::new(0o755), Kind::DIRECTORY)?;
    /// builder.add(etc, b"removed", Metadata::new(0o000), Kind::Whiteout)?;
    /// # Ok::<(), fsmerge::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Node`] where the name exists or is invalid, `parent` is not a directory, a symbolic
    /// link's target is empty or too long, a lower link's path leaves the root, the node is a
    /// character device 0:0, or a limit is passed.
    pub fn add(
        &mut self,
        parent: BuilderNodeId,
        name: &[u8],
        metadata: Metadata,
        kind: Kind<'_>,
    ) -> Result<BuilderNodeId, Error> {
        let parent = self.index(parent, name)?;
        let added = self
            .check(parent, name)
            .and_then(|place| self.try_add(place, name, metadata, kind));
        added.map_err(|problem| self.error(parent, name, problem))
    }

    fn try_add(
        &mut self,
        place: Place,
        name: &[u8],
        metadata: Metadata,
        kind: Kind<'_>,
    ) -> Result<BuilderNodeId, Problem> {
        let target;
        let kind = match kind {
            Kind::Symlink(target) => {
                check_target(target, &self.limits)?;
                kind
            }
            Kind::LowerLink(path) => {
                target = path::joined(&path::components(path, &self.limits)?);
                if target.is_empty() {
                    return Err(Problem::LinkToDirectory {
                        target: target.into(),
                    });
                }
                Kind::LowerLink(&target)
            }
            Kind::CharDevice(DeviceNumber { major: 0, minor: 0 }) => {
                return Err(Problem::WhiteoutDevice);
            }
            _ => kind,
        };
        let node = self.arena.node(metadata, kind)?;
        self.arena.fill(place, name, node)?;
        Ok(self.node(node))
    }

    /// Adds a further name of a node that is not a directory.
    ///
    /// ```
    /// use fsmerge::{Kind, LayerBuilder, Limits, Metadata};
    ///
    /// let mut builder = LayerBuilder::new(&Limits::default());
    /// let node = builder.add_path(b"a", Metadata::new(0o644), Kind::Fifo)?;
    /// builder.link(builder.root(), b"b", node)?;
    /// let layer = builder.finish();
    /// assert_eq!(layer.lookup(b"a"), layer.lookup(b"b"));
    /// # Ok::<(), fsmerge::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Node`] where the name exists or is invalid, `parent` is not a directory or `target`
    /// is one, or a limit is passed.
    pub fn link(
        &mut self,
        parent: BuilderNodeId,
        name: &[u8],
        target: BuilderNodeId,
    ) -> Result<(), Error> {
        let parent = self.index(parent, name)?;
        let target = self.index(target, name)?;
        let linked = self.check(parent, name).and_then(|place| {
            if self.arena.is_directory(target) {
                return Err(Problem::LinkToDirectory {
                    target: self.arena.path_of(target).into(),
                });
            }
            self.arena.fill(place, name, target)
        });
        linked.map_err(|problem| self.error(parent, name, problem))
    }

    /// Adds a node at a path from the root. Symbolic links of this layer in the parents are
    /// followed inside the root, the last component is not followed. Missing parents are implied.
    ///
    /// ```
    /// use fsmerge::{Kind, LayerBuilder, Limits, Metadata};
    ///
    /// let mut builder = LayerBuilder::new(&Limits::default());
    /// builder.add_path(b"/sbin", Metadata::new(0o777), Kind::Symlink(b"usr/sbin"))?;
    /// let node = builder.add_path(b"/sbin/fifo", Metadata::new(0o600), Kind::Fifo)?;
    /// assert_eq!(builder.lookup(b"usr/sbin/fifo"), Some(node));
    /// # Ok::<(), fsmerge::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Those of [`add`](Self::add); [`Problem::SymlinkLoop`]; [`Problem::Escape`].
    pub fn add_path(
        &mut self,
        path: &[u8],
        metadata: Metadata,
        kind: Kind<'_>,
    ) -> Result<BuilderNodeId, Error> {
        self.at_path(path, |builder, parent, name| {
            let place = builder.check(parent, name)?;
            builder.try_add(place, name, metadata, kind)
        })
    }

    /// Adds a node at a path, as [`add_path`](Self::add_path), in the place of the node that is
    /// there, if any, and all that is in it.
    ///
    /// ```
    /// use fsmerge::{Kind, LayerBuilder, Limits, Metadata};
    ///
    /// let mut builder = LayerBuilder::new(&Limits::default());
    /// builder.add_path(b"sbin/init", Metadata::new(0o644), Kind::Fifo)?;
    /// builder.replace(b"sbin/init", Metadata::new(0o777), Kind::Symlink(b"busybox"))?;
    /// # Ok::<(), fsmerge::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Those of [`add_path`](Self::add_path) except [`Problem::AlreadyExists`]. Nothing is removed
    /// then.
    pub fn replace(
        &mut self,
        path: &[u8],
        metadata: Metadata,
        kind: Kind<'_>,
    ) -> Result<BuilderNodeId, Error> {
        self.at_path(path, |builder, parent, name| {
            check_name(name)?;
            let place = builder.arena.place(parent, name);
            let old = builder.arena.node_at(place);
            let added = builder.try_add(place, name, metadata, kind)?;
            if let Some(old) = old.filter(|&old| builder.arena.is_directory(old)) {
                builder.arena.clear(old);
            }
            Ok(added)
        })
    }

    /// Removes the name at a path, and all that is beneath it where it is a directory. Symbolic
    /// links in the parents are followed, the last component is not.
    ///
    /// ```
    /// use fsmerge::{Kind, LayerBuilder, Limits, Metadata};
    ///
    /// let mut builder = LayerBuilder::new(&Limits::default());
    /// builder.add_path(b"var/cache/a", Metadata::new(0o644), Kind::Fifo)?;
    /// builder.remove(b"var/cache")?;
    /// assert!(builder.lookup(b"var/cache/a").is_none());
    /// # Ok::<(), fsmerge::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Node`] with [`Problem::NotFound`]; with [`Problem::InvalidName`] for the root.
    pub fn remove(&mut self, path: &[u8]) -> Result<(), Error> {
        let mut remove = || {
            let mut names = path::components(path, &self.limits)?;
            let name = names.pop().ok_or(Problem::InvalidName)?;
            let parent = match resolve(&self.arena, &names, true, &self.limits)? {
                Resolved::Node(parent, _) => parent,
                Resolved::Missing(_) => return Err(Problem::NotFound),
            };
            let removed = self.arena.remove(parent, name).ok_or(Problem::NotFound)?;
            if self.arena.is_directory(removed) {
                self.arena.clear(removed);
            }
            Ok(())
        };
        remove().map_err(|problem| node_error(path, problem))
    }

    /// Returns the node at a path from the root. Symbolic links are not followed.
    ///
    /// ```
    /// use fsmerge::{Kind, LayerBuilder, Limits, Metadata};
    ///
    /// let mut builder = LayerBuilder::new(&Limits::default());
    /// let link = builder.add_path(b"bin", Metadata::new(0o777), Kind::Symlink(b"usr/bin"))?;
    /// assert_eq!(builder.lookup(b"/bin"), Some(link));
    /// assert_eq!(builder.lookup(b"/bin/sh"), None);
    /// # Ok::<(), fsmerge::Error>(())
    /// ```
    pub fn lookup(&self, path: &[u8]) -> Option<BuilderNodeId> {
        let names = path::components(path, &self.limits).ok()?;
        let found = names
            .iter()
            .try_fold(self.arena.root(), |at, name| self.arena.lookup(at, name))?;
        Some(self.node(found))
    }

    /// Returns the node that a path leads to. All symbolic links of this layer are followed inside
    /// the root, that of the last component too.
    ///
    /// ```
    /// use fsmerge::{Kind, LayerBuilder, Limits, Metadata};
    ///
    /// let mut builder = LayerBuilder::new(&Limits::default());
    /// let directory = builder.add_path(b"usr/bin", Metadata::new(0o755), Kind::DIRECTORY)?;
    /// builder.add_path(b"bin", Metadata::new(0o777), Kind::Symlink(b"usr/bin"))?;
    /// assert_eq!(builder.resolve(b"/bin"), Some(directory));
    /// # Ok::<(), fsmerge::Error>(())
    /// ```
    pub fn resolve(&self, path: &[u8]) -> Option<BuilderNodeId> {
        let names = path::components(path, &self.limits).ok()?;
        match resolve(&self.arena, &names, true, &self.limits).ok()? {
            Resolved::Node(node, _) => Some(self.node(node)),
            Resolved::Missing(_) => None,
        }
    }

    /// Returns the type of a node, or `None` for a node of another builder and for a directory that
    /// was removed.
    ///
    /// ```
    /// use fsmerge::{Kind, LayerBuilder, Limits, Metadata};
    ///
    /// let mut builder = LayerBuilder::new(&Limits::default());
    /// let pipe = builder.add_path(b"run/pipe", Metadata::new(0o600), Kind::Fifo)?;
    /// assert_eq!(builder.kind(pipe), Some(Kind::Fifo));
    /// # Ok::<(), fsmerge::Error>(())
    /// ```
    pub fn kind(&self, node: BuilderNodeId) -> Option<Kind<'_>> {
        let index = self.index(node, b"").ok()?;
        Some(self.arena.kind(index))
    }

    /// Returns the node called `name` in a directory.
    ///
    /// ```
    /// use fsmerge::{Kind, LayerBuilder, Limits, Metadata};
    ///
    /// let mut builder = LayerBuilder::new(&Limits::default());
    /// let pipe = builder.add_path(b"run/pipe", Metadata::new(0o600), Kind::Fifo)?;
    /// let run = builder.child(builder.root(), b"run").expect("it was added");
    /// assert_eq!(builder.child(run, b"pipe"), Some(pipe));
    /// # Ok::<(), fsmerge::Error>(())
    /// ```
    pub fn child(&self, parent: BuilderNodeId, name: &[u8]) -> Option<BuilderNodeId> {
        let parent = self.index(parent, name).ok()?;
        Some(self.node(self.arena.lookup(parent, name)?))
    }

    /// Does something in the directory that a path leads to before its last component, and which is
    /// made where it is missing.
    fn at_path<T>(
        &mut self,
        path: &[u8],
        act: impl FnOnce(&mut Self, NodeId, &[u8]) -> Result<T, Problem>,
    ) -> Result<T, Error> {
        let act_at = || {
            let mut names = path::components(path, &self.limits)?;
            let name = names.pop().ok_or(Problem::AlreadyExists)?;
            let parent = self.enter(&names)?;
            act(self, parent, name)
        };
        act_at().map_err(|problem| node_error(path, problem))
    }

    /// Returns the directory at the end of `names`, which is made where it is missing.
    fn enter(&mut self, names: &[&[u8]]) -> Result<NodeId, Problem> {
        let mut left = Left::of(names);
        let mut way = vec![self.arena.root()];
        while let Some(name) = left.pop() {
            if name == b".." {
                way.truncate(way.len().saturating_sub(1).max(1));
                continue;
            }
            let here = way[way.len() - 1];
            let place = self.arena.place(here, &name);
            let Some(node) = self.arena.node_at(place) else {
                check_name(&name)?;
                let (opaque, implied) = (false, true);
                let kind = Kind::Directory { opaque, implied };
                let node = self.arena.node(Metadata::implied_directory(), kind)?;
                self.arena.fill(place, &name, node)?;
                way.push(node);
                continue;
            };
            match self.arena.body(node) {
                Body::Directory { .. } => way.push(node),
                Body::Symlink(target) => {
                    let target = self.arena.bytes(target);
                    if target.starts_with(b"/") {
                        way.truncate(1);
                    }
                    left.follow(target, &self.limits)?;
                }
                _ => return Err(Problem::NotADirectory),
            }
            path::check_depth(way.len() - 1, &self.limits)?;
        }
        Ok(way[way.len() - 1])
    }

    fn node(&self, index: NodeId) -> BuilderNodeId {
        BuilderNodeId {
            owner: self.owner,
            index,
        }
    }

    /// Returns the index of a node that is in the layer, or an error about `name`.
    fn index(&self, node: BuilderNodeId, name: &[u8]) -> Result<NodeId, Error> {
        if node.owner != self.owner || self.arena.is_cleared(node.index) {
            return Err(node_error(name, Problem::ForeignNode));
        }
        Ok(node.index)
    }

    /// Returns the place of a name that can be added.
    fn check(&self, parent: NodeId, name: &[u8]) -> Result<Place, Problem> {
        check_name(name)?;
        if !self.arena.is_directory(parent) {
            return Err(Problem::NotADirectory);
        }
        let place = self.arena.place(parent, name);
        if self.arena.node_at(place).is_some() {
            return Err(Problem::AlreadyExists);
        }
        Ok(place)
    }

    /// Returns the finished layer.
    ///
    /// ```
    /// use fsmerge::{Kind, LayerBuilder, Limits, Metadata};
    ///
    /// let mut builder = LayerBuilder::new(&Limits::default());
    /// builder.add_path(b"etc/fifo", Metadata::new(0o600), Kind::Fifo)?;
    /// assert_eq!(builder.finish().names(), 2);
    /// # Ok::<(), fsmerge::Error>(())
    /// ```
    pub fn finish(self) -> LayerTree {
        LayerTree(self.arena.freeze().0)
    }

    fn error(&self, parent: NodeId, name: &[u8], problem: Problem) -> Error {
        let parent = self.arena.path_of(parent);
        let separator: &[u8] = if parent.is_empty() { b"" } else { b"/" };
        node_error(&[&parent, separator, name].concat(), problem)
    }
}

fn node_error(path: &[u8], problem: Problem) -> Error {
    Error::Node {
        path: path.into(),
        problem,
    }
}
