//! Two layers as one.

use std::collections::HashMap;

use crate::arena::Arena;
use crate::error::{Error, Problem};
use crate::layer::LayerTree;
use crate::limits::Limits;
use crate::tree::{Body, Kind, NodeId};

impl LayerTree {
    /// Returns the layer that shows on top of others what this one shows with `upper` on top of it.
    /// Whiteouts and opaque marks stay, because they may hide what other layers have;
    /// [`Merge::complete`](crate::Merge::complete) takes away those which hide nothing. `upper` is
    /// complete: what it needs of lower layers is in it.
    ///
    /// ```
    /// use fsmerge::{Kind, LayerBuilder, Limits, Metadata};
    ///
    /// let limits = Limits::default();
    /// let mut lower = LayerBuilder::new(&limits);
    /// lower.add_path(b"a", Metadata::new(0o644), Kind::Fifo)?;
    /// lower.add_path(b"b", Metadata::new(0o644), Kind::Fifo)?;
    /// let mut upper = LayerBuilder::new(&limits);
    /// upper.add_path(b"a", Metadata::new(0), Kind::Whiteout)?;
    /// let both = lower.finish().fold(&upper.finish(), &limits)?;
    /// assert_eq!(both.kind(both.lookup(b"a").unwrap()), Kind::Whiteout);
    /// assert_eq!(both.kind(both.lookup(b"b").unwrap()), Kind::Fifo);
    /// # Ok::<(), fsmerge::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Merge`], of the upper layer, where it has a link to a lower layer's file, or a
    /// limit is passed.
    pub fn fold(&self, upper: &LayerTree, limits: &Limits) -> Result<LayerTree, Error> {
        let wrap = |(node, problem)| Error::Merge {
            layer: 1,
            path: upper.path_of(node),
            problem,
        };
        let arena = Arena::thaw(self, limits).map_err(|problem| wrap((NodeId::ROOT, problem)))?;
        let mut fold = Fold {
            arena,
            upper,
            nodes: HashMap::new(),
        };
        fold.all().map_err(wrap)?;
        Ok(LayerTree(fold.arena.freeze().0))
    }
}

struct Fold<'a> {
    /// The lower layer, and then both.
    arena: Arena,
    upper: &'a LayerTree,
    /// What nodes of the upper layer with several names are.
    nodes: HashMap<NodeId, NodeId>,
}

impl Fold<'_> {
    fn all(&mut self) -> Result<(), (NodeId, Problem)> {
        let upper = self.upper;
        let lower = self.arena.root();
        let root = self.directory(NodeId::ROOT, Some(lower));
        let root = root.map_err(|problem| (NodeId::ROOT, problem))?;
        self.arena.set_root(root);
        let mut pending = vec![(NodeId::ROOT, root)];
        while let Some((from, to)) = pending.pop() {
            for (name, id) in upper.children(from) {
                let place = self.arena.place(to, name);
                let below = self.arena.node_at(place);
                let node = match upper.kind(id) {
                    Kind::Directory { .. } => self.directory(id, below),
                    Kind::LowerLink(target) => Err(Problem::LinkTargetMissing {
                        target: target.into(),
                    }),
                    _ => self.node(id),
                };
                let filled = node.and_then(|node| {
                    self.arena.fill(place, name, node)?;
                    Ok(node)
                });
                let node = filled.map_err(|problem| (id, problem))?;
                if self.arena.is_directory(node) {
                    pending.push((id, node));
                }
            }
        }
        Ok(())
    }

    /// The directory for the upper layer's `id` where the lower one has `below`.
    fn directory(&mut self, id: NodeId, below: Option<NodeId>) -> Result<NodeId, Problem> {
        let (opaque, implied) = match self.upper.kind(id) {
            Kind::Directory { opaque, implied } => (opaque, implied),
            _ => (false, false),
        };
        let mut metadata = self.upper.metadata(id).clone();
        let mut hides = opaque;
        match below.map(|below| (below, self.arena.body(below))) {
            Some((
                below,
                Body::Directory {
                    opaque,
                    implied: also,
                },
            )) if !hides => {
                if !implied {
                    self.arena.set_metadata(below, metadata);
                }
                let implied = implied && also;
                self.arena
                    .set_body(below, Body::Directory { opaque, implied });
                return Ok(below);
            }
            Some((below, Body::Directory { .. })) if implied => {
                metadata = self.arena.metadata(below).clone();
            }
            // It hid the directories of still lower layers.
            Some(_) => hides = true,
            None => {}
        }
        let opaque = hides;
        self.arena
            .node(metadata, Kind::Directory { opaque, implied })
    }

    fn node(&mut self, id: NodeId) -> Result<NodeId, Problem> {
        if let Some(&known) = self.nodes.get(&id) {
            return Ok(known);
        }
        let metadata = self.upper.metadata(id).clone();
        let node = self.arena.node(metadata, self.upper.kind(id))?;
        if self.upper.nlink(id) > 1 {
            self.nodes.insert(id, node);
        }
        Ok(node)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layer::LayerBuilder;
    use crate::merge::{Merge, Merged};
    use crate::metadata::Metadata;
    use crate::tree::DataId;

    /// A layer with some names of a small tree, as `random` has it.
    fn layer(random: &mut impl FnMut(usize) -> usize) -> LayerTree {
        let mut builder = LayerBuilder::new(&Limits::default());
        for _ in 0..random(8) {
            let depth = 1 + random(3);
            let names: Vec<_> = (0..depth).map(|_| ["a", "b", "c"][random(3)]).collect();
            let path = names.join("/");
            let kind = match random(6) {
                0 | 1 => Kind::File {
                    size: 1,
                    data: Some(DataId(random(1000) as u64)),
                },
                2 => Kind::Whiteout,
                3 => Kind::Directory {
                    opaque: true,
                    implied: false,
                },
                _ => Kind::DIRECTORY,
            };
            let metadata = Metadata::new(0o100 + random(0o100) as u16);
            // Names that are there already, or below what is no directory, are left out.
            if let Ok(node) = builder.add_path(path.as_bytes(), metadata, kind)
                && matches!(kind, Kind::File { .. })
                && random(3) == 0
            {
                let _ = builder.link(builder.root(), b"linked", node);
            }
        }
        builder.finish()
    }

    fn view(merged: &Merged) -> Vec<(crate::BytePath, String)> {
        merged
            .walk()
            .map(|(path, id)| {
                let kind = match merged.kind(id) {
                    // Whether a directory was implied is gone with the completion.
                    Kind::Directory { .. } => Kind::DIRECTORY,
                    kind => kind,
                };
                (path, format!("{kind:?} {:?}", merged.metadata(id)))
            })
            .collect()
    }

    #[test]
    fn folded_layers_show_on_top_of_others_what_each_by_itself_shows() {
        let limits = Limits::default();
        let mut state = 1_u64;
        let mut random = |below: usize| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1);
            (state >> 33) as usize % below.max(1)
        };
        for round in 0..300 {
            let raw: Vec<_> = (0..4).map(|_| layer(&mut random)).collect();
            let mut merge = Merge::new(&limits);
            let mut complete = Vec::new();
            for layer in &raw {
                complete.push(merge.complete(layer).unwrap());
                merge.push(layer).unwrap();
            }
            let expected = view(&merge.finish());
            // Each way to take adjacent layers together.
            for cuts in 0..8 {
                let mut merge = Merge::new(&limits);
                let mut group: Option<LayerTree> = None;
                for (number, layer) in complete.iter().enumerate() {
                    let folded = match &group {
                        Some(lower) => lower.fold(layer, &limits).unwrap(),
                        None => layer.clone(),
                    };
                    group = Some(folded);
                    if number == 3 || cuts & 1 << number != 0 {
                        let folded = group.take().unwrap();
                        merge.push(&merge.complete(&folded).unwrap()).unwrap();
                    }
                }
                assert_eq!(view(&merge.finish()), expected, "round {round}, {cuts:03b}");
            }
        }
    }

    #[test]
    fn a_whiteout_that_hides_nothing_of_other_layers_is_gone_after_completion() {
        let limits = Limits::default();
        let build = |fill: &dyn Fn(&mut LayerBuilder)| {
            let mut builder = LayerBuilder::new(&limits);
            fill(&mut builder);
            builder.finish()
        };
        let plain = Metadata::new(0o644);
        let base = build(&|b| drop(b.add_path(b"base", plain.clone(), Kind::Fifo)));
        let lower = build(&|b| drop(b.add_path(b"own", plain.clone(), Kind::Fifo)));
        let upper = build(&|b| {
            b.add_path(b"own", plain.clone(), Kind::Whiteout).unwrap();
            b.add_path(b"base", plain.clone(), Kind::Whiteout).unwrap();
        });
        let mut merge = Merge::new(&limits);
        merge.push(&base).unwrap();
        let folded = merge.complete(&lower.fold(&upper, &limits).unwrap());
        let folded = folded.unwrap();
        assert!(folded.lookup(b"own").is_none());
        let whiteout = folded.lookup(b"base").unwrap();
        assert_eq!(folded.kind(whiteout), Kind::Whiteout);
    }

    #[test]
    fn a_link_to_a_lower_layers_file_is_refused() {
        let limits = Limits::default();
        let mut upper = LayerBuilder::new(&limits);
        let link = Kind::LowerLink(b"a");
        upper.add_path(b"b", Metadata::new(0o644), link).unwrap();
        let lower = LayerBuilder::new(&limits).finish();
        let refused = lower.fold(&upper.finish(), &limits);
        assert!(matches!(refused, Err(Error::Merge { .. })));
    }
}
