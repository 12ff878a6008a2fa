//! Layers that other tools show correctly on top of the layers below.

use std::collections::HashMap;

use blockbox_path::BytePath;

use crate::error::{Error, Problem};
use crate::follow::followed;
use crate::layer::{BuilderNodeId, LayerBuilder, LayerTree};
use crate::merge::{Merge, substantial};
use crate::metadata::Metadata;
use crate::path;
use crate::resolve::{Resolved, resolve};
use crate::tree::{Kind, NodeId};

impl Merge {
    /// Returns `layer` in a form that tools with overlayfs alone show correctly on top of the
    /// layers pushed so far:
    ///
    /// - an implied directory has the attributes of the lower one,
    /// - the contents of an implied directory are moved to the target of a lower symlink of its
    ///   name,
    /// - a link to a lower layer's file is a copy of that file, with the [`DataId`](crate::DataId)
    ///   that it has there,
    /// - whiteouts of names that no lower layer has are removed, since overlayfs would show those
    ///   in new directories.
    ///
    /// Merging it gives what merging `layer` gives, but for the link counts of files that were
    /// linked across layers.
    ///
    /// ```
    /// use fsmerge::{Kind, LayerBuilder, Limits, Merge, Metadata};
    ///
    /// let limits = Limits::default();
    /// let mut upper = LayerBuilder::new(&limits);
    /// upper.add_path(b"never/was", Metadata::new(0), Kind::Whiteout)?;
    ///
    /// let complete = Merge::new(&limits).complete(&upper.finish())?;
    /// assert!(complete.lookup(b"never/was").is_none());
    /// # Ok::<(), fsmerge::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As for [`push`](Self::push).
    pub fn complete(&self, layer: &LayerTree) -> Result<LayerTree, Error> {
        let wrap = |path: BytePath, problem| Error::Merge {
            layer: self.layers,
            path,
            problem,
        };
        let rearranged = followed(&self.arena, layer, &self.limits)
            .map_err(|(path, problem)| wrap(path, problem))?;
        let layer = rearranged.as_ref().unwrap_or(layer);
        let mut complete = Complete {
            merge: self,
            layer,
            builder: LayerBuilder::new(&self.limits),
            own: HashMap::new(),
            lower: HashMap::new(),
            links: Vec::new(),
        };
        complete.all()?;
        complete
            .link_all()
            .map_err(|(node, problem)| wrap(layer.path_of(node), problem))?;
        Ok(complete.builder.finish())
    }
}

struct Complete<'a> {
    merge: &'a Merge,
    layer: &'a LayerTree,
    builder: LayerBuilder,
    /// The copies of the layer's nodes that have several names.
    own: HashMap<NodeId, BuilderNodeId>,
    /// The copies of lower layers' files, by their ids there.
    lower: HashMap<NodeId, BuilderNodeId>,
    /// Links to lower layers' files, which come last: the target may be the layer's own after all.
    links: Vec<(BuilderNodeId, Vec<u8>, NodeId)>,
}

impl Complete<'_> {
    fn all(&mut self) -> Result<(), Error> {
        let substantial = substantial(self.layer);
        let arena = &self.merge.arena;
        let root = self.layer.root();
        let (metadata, opaque) = self.directory(root, Some(arena.root()));
        self.builder.set_root(metadata, opaque, false);
        let below = (!opaque).then(|| arena.root());
        let mut pending = vec![(root, self.builder.root(), below)];
        while let Some((from, to, below)) = pending.pop() {
            for (name, id) in self.layer.children(from) {
                let under = below.and_then(|below| arena.lookup(below, name));
                let kind = self.layer.kind(id);
                match kind {
                    Kind::Whiteout if under.is_none() => {}
                    Kind::LowerLink(_) => self.links.push((to, name.to_vec(), id)),
                    Kind::Directory { implied, .. } => {
                        let under = under.filter(|&under| arena.is_directory(under));
                        if implied && under.is_none() && !substantial[id.index()] {
                            continue;
                        }
                        let (metadata, opaque) = self.directory(id, under);
                        let kind = Kind::Directory {
                            opaque,
                            implied: false,
                        };
                        let directory = self.builder.add(to, name, metadata, kind)?;
                        pending.push((id, directory, under.filter(|_| !opaque)));
                    }
                    _ => match self.own.get(&id) {
                        Some(&known) => self.builder.link(to, name, known)?,
                        None => {
                            let metadata = self.layer.metadata(id).clone();
                            let node = self.builder.add(to, name, metadata, kind)?;
                            self.own.insert(id, node);
                        }
                    },
                }
            }
        }
        Ok(())
    }

    /// The attributes of the layer's directory `id`, and whether it is opaque.
    fn directory(&self, id: NodeId, under: Option<NodeId>) -> (Metadata, bool) {
        let (opaque, implied) = match self.layer.kind(id) {
            Kind::Directory { opaque, implied } => (opaque, implied),
            _ => (false, false),
        };
        let metadata = match under {
            Some(under) if implied => self.merge.arena.metadata(under),
            _ => self.layer.metadata(id),
        };
        (metadata.clone(), opaque)
    }

    fn link_all(&mut self) -> Result<(), (NodeId, Problem)> {
        for (parent, name, id) in std::mem::take(&mut self.links) {
            let Kind::LowerLink(target) = self.layer.kind(id) else {
                continue;
            };
            let bad = |problem| (id, problem);
            let node = |error| match error {
                Error::Node { problem, .. } => bad(problem),
                _ => bad(Problem::LinkTargetMissing {
                    target: target.into(),
                }),
            };
            let limits = &self.merge.limits;
            let arena = &self.merge.arena;
            let names = path::components(target, limits).map_err(bad)?;
            let resolved = resolve(arena, &names, false, limits).map_err(bad)?;
            let (Resolved::Node(_, path) | Resolved::Missing(path)) = &resolved;
            let new = self.layer.lookup(path).and_then(|new| self.own.get(&new));
            if let Some(&known) = new {
                self.builder.link(parent, &name, known).map_err(node)?;
                continue;
            }
            let target = target.to_vec();
            let found = match resolved {
                Resolved::Missing(_) => {
                    return Err(bad(Problem::LinkTargetMissing {
                        target: target.into(),
                    }));
                }
                Resolved::Node(found, _) if arena.is_directory(found) => {
                    return Err(bad(Problem::LinkToDirectory {
                        target: target.into(),
                    }));
                }
                Resolved::Node(found, _) => found,
            };
            match self.lower.get(&found) {
                Some(&known) => self.builder.link(parent, &name, known).map_err(node)?,
                None => {
                    let metadata = arena.metadata(found).clone();
                    let added = self.builder.add(parent, &name, metadata, arena.kind(found));
                    self.lower.insert(found, added.map_err(node)?);
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::Limits;
    use crate::tree::DataId;

    fn layer(fill: impl FnOnce(&mut LayerBuilder) -> Result<(), Error>) -> LayerTree {
        let mut builder = LayerBuilder::new(&Limits::default());
        fill(&mut builder).unwrap();
        builder.finish()
    }

    fn file(id: u64) -> Kind<'static> {
        Kind::File {
            size: 1,
            data: Some(DataId(id)),
        }
    }

    /// A name of a merged tree with its attributes and kind.
    type Entry = (BytePath, Metadata, String);

    fn view(layers: &[&LayerTree]) -> Vec<Entry> {
        let mut merge = Merge::new(&Limits::default());
        for layer in layers {
            merge.push(layer).unwrap();
        }
        let merged = merge.finish();
        merged
            .walk()
            .map(|(path, id)| {
                // Completed layers have no implied directories.
                let kind = match merged.kind(id) {
                    Kind::Directory { .. } => "directory".to_owned(),
                    kind => format!("{kind:?}"),
                };
                (path, merged.metadata(id).clone(), kind)
            })
            .collect()
    }

    #[test]
    fn completed_layer_merges_to_the_same_tree_without_private_marks() {
        let lower = layer(|b| {
            b.add_path(b"usr", Metadata::new(0o711).owner(5, 6), Kind::DIRECTORY)?;
            let lib = Metadata::new(0o750).owner(7, 8);
            b.add_path(b"usr/lib", lib, Kind::DIRECTORY)?;
            b.add_path(b"usr/lib/a", Metadata::new(0o600), file(1))?;
            b.add_path(b"lib", Metadata::new(0o777), Kind::Symlink(b"usr/lib"))?;
            b.add_path(b"gone", Metadata::new(0o600), file(2))?;
            Ok(())
        });
        let upper = layer(|b| {
            b.add_path(b"lib/b", Metadata::new(0o640), file(10))?;
            let link = Kind::LowerLink(b"usr/lib/a");
            b.add_path(b"usr/lib/linked", Metadata::new(0o600), link)?;
            b.add_path(b"usr/again", Metadata::new(0o600), link)?;
            b.add_path(b"gone", Metadata::new(0), Kind::Whiteout)?;
            b.add_path(b"new/.gone", Metadata::new(0), Kind::Whiteout)?;
            b.add_path(b"new/f", Metadata::new(0o600), file(11))?;
            b.add_path(b"only/whiteout", Metadata::new(0), Kind::Whiteout)?;
            Ok(())
        });
        let mut merge = Merge::new(&Limits::default());
        merge.push(&lower).unwrap();
        let complete = merge.complete(&upper).unwrap();
        assert_eq!(view(&[&lower, &complete]), view(&[&lower, &upper]));
        for (path, id) in complete.walk() {
            let kind = complete.kind(id);
            let marked = matches!(
                kind,
                Kind::LowerLink(_) | Kind::Directory { implied: true, .. }
            );
            assert!(!marked, "{path}");
        }
        let usr = complete.metadata(complete.lookup(b"usr/lib").unwrap());
        assert_eq!((usr.mode & 0o7777, usr.uid, usr.gid), (0o750, 7, 8));
        for gone in ["lib", "new/.gone", "only"] {
            assert_eq!(complete.lookup(gone.as_bytes()), None, "{gone}");
        }
        assert_eq!(
            complete.kind(complete.lookup(b"gone").unwrap()),
            Kind::Whiteout
        );
        let linked = complete.lookup(b"usr/again").unwrap();
        assert_eq!(complete.kind(linked), file(1));
        assert_eq!(complete.lookup(b"usr/lib/linked"), Some(linked));
    }
}
