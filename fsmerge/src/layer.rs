//! One layer's tree, and building one by hand.

use crate::arena::{Arena, Place, check_name, check_target};
use crate::attributes::Attributes;
use crate::error::{Error, Problem};
use crate::limits::Limits;
use crate::path;
use crate::tree::{Body, Kind, NodeId, Tree};
use std::ops::Deref;

/// What one layer says: its entries, whiteouts, opaque marks, and links to what lies below it.
#[derive(Clone, Debug)]
pub struct Layer(pub(crate) Tree);

impl Deref for Layer {
    type Target = Tree;

    fn deref(&self) -> &Tree {
        &self.0
    }
}

/// Builds a [`Layer`] node by node, from a directory or an EROFS image.
///
/// ```
/// use fsmerge::{Attributes, Kind, LayerBuilder, Limits};
///
/// let mut builder = LayerBuilder::new(&Limits::default());
/// let directory = Kind::Directory { opaque: false, implied: false };
/// let etc = builder.add(builder.root(), b"etc", Attributes { mode: 0o755, ..Attributes::default() }, directory)?;
/// let link = builder.add(etc, b"mtab", Attributes::default(), Kind::Symlink(b"/proc/mounts"))?;
/// builder.link(etc, b"also-mtab", link)?;
/// let layer = builder.finish();
/// assert_eq!(layer.nlink(layer.find(b"etc/mtab").unwrap()), 2);
/// # Ok::<(), fsmerge::Error>(())
/// ```
#[derive(Debug)]
pub struct LayerBuilder {
    arena: Arena,
    limits: Limits,
}

impl LayerBuilder {
    /// A layer that holds nothing: its root is implied.
    pub fn new(limits: &Limits) -> Self {
        Self {
            arena: Arena::new(limits),
            limits: *limits,
        }
    }

    /// The root. Ids of a builder are not those of the finished layer.
    pub fn root(&self) -> NodeId {
        self.arena.root()
    }

    /// Describes the root directory.
    pub fn set_root(&mut self, attributes: Attributes, opaque: bool, implied: bool) {
        let root = self.arena.root();
        self.arena.set_attributes(root, attributes);
        self.arena
            .set_body(root, Body::Directory { opaque, implied });
    }

    /// Adds a node called `name` to the directory `parent`.
    ///
    /// # Errors
    ///
    /// [`Error::Node`] where the name is taken or not one, `parent` is no directory, a symlink's target is empty or too
    /// long, a lower link's path leaves the root, the node is a character device 0:0, or a limit is passed.
    pub fn add(
        &mut self,
        parent: NodeId,
        name: &[u8],
        attributes: Attributes,
        kind: Kind<'_>,
    ) -> Result<NodeId, Error> {
        self.try_add(parent, name, attributes, kind)
            .map_err(|problem| at(name, problem))
    }

    fn try_add(
        &mut self,
        parent: NodeId,
        name: &[u8],
        attributes: Attributes,
        kind: Kind<'_>,
    ) -> Result<NodeId, Problem> {
        let place = self.check(parent, name)?;
        let target;
        let kind = match kind {
            Kind::Symlink(target) => {
                check_target(target, &self.limits)?;
                kind
            }
            Kind::LowerLink(path) => {
                target = path::joined(&path::components(path, &self.limits)?);
                if target.is_empty() {
                    return Err(Problem::LinkToDirectory { target });
                }
                Kind::LowerLink(&target)
            }
            Kind::CharDevice { major: 0, minor: 0 } => return Err(Problem::WhiteoutDevice),
            _ => kind,
        };
        let node = self.arena.node(attributes, kind)?;
        self.arena.fill(place, name, node)?;
        Ok(node)
    }

    /// Gives `node` the further name `name` in `parent`.
    ///
    /// # Errors
    ///
    /// [`Error::Node`] where the name is taken or not one, `parent` is no directory or `node` is one, or a limit is
    /// passed.
    pub fn link(&mut self, parent: NodeId, name: &[u8], node: NodeId) -> Result<(), Error> {
        let linked = self.check(parent, name).and_then(|place| {
            if self.arena.is_directory(node) {
                return Err(Problem::LinkToDirectory {
                    target: name.to_vec(),
                });
            }
            self.arena.fill(place, name, node)
        });
        linked.map_err(|problem| at(name, problem))
    }

    /// The place of a name that can be added.
    fn check(&self, parent: NodeId, name: &[u8]) -> Result<Place, Problem> {
        check_name(name)?;
        if !self.arena.is_directory(parent) {
            return Err(Problem::ParentNotDirectory);
        }
        let place = self.arena.place(parent, name);
        if self.arena.node_at(place).is_some() {
            return Err(Problem::Duplicate);
        }
        Ok(place)
    }

    /// The finished layer.
    pub fn finish(self) -> Layer {
        Layer(self.arena.freeze().0)
    }
}

fn at(name: &[u8], problem: Problem) -> Error {
    Error::Node {
        name: name.to_vec(),
        problem,
    }
}
