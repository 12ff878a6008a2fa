//! Directories that a layer only implies, where the layers below have a symlink instead.
//!
//! An image whose base has `lib → usr/lib` may have an upper layer with an entry `lib/x` and none
//! for `lib`. Runtimes unpack into the tree of the layers below, so they write `usr/lib/x`. The
//! merge therefore rearranges the layer first: the contents of the implied directory move to the
//! symlink's target, inside the root. Entries that the layer already has there stay, because the
//! order of two entries for one file is unknown.
//!
//! A symlink is not followed if its target is not a directory, or if the layer itself removes or
//! replaces the target. The implied directory then replaces the symlink, as in an overlay mount.

use blockbox_path::BytePath;

use crate::arena::Arena;
use crate::error::Problem;
use crate::layer::LayerTree;
use crate::limits::Limits;
use crate::metadata::Metadata;
use crate::path;
use crate::resolve::{Resolved, resolve};
use crate::tree::{Body, Kind, NodeId};

/// Moved entries may meet another symlink at the target, at most as often as Linux follows
/// symlinks.
const ROUNDS: usize = 40;

/// An implied directory and the new place of its contents.
struct Move {
    parent: NodeId,
    directory: NodeId,
    /// Its path in the layer.
    path: Vec<u8>,
    /// The path it moves to, without symlinks.
    target: Vec<u8>,
}

/// Returns the rearranged layer for a merge onto `lower`, or `None` if it needs no change.
pub(crate) fn followed(
    lower: &Arena,
    layer: &LayerTree,
    limits: &Limits,
) -> Result<Option<LayerTree>, (BytePath, Problem)> {
    let mut rearranged = None;
    for _ in 0..ROUNDS {
        let view = rearranged.as_ref().unwrap_or(layer);
        let moves = moves(lower, view, limits);
        let Some(first) = moves.first() else {
            return Ok(rearranged);
        };
        let moved =
            apply(view, &moves, limits).map_err(|problem| (first.path.clone().into(), problem))?;
        rearranged = Some(moved);
    }
    Err((BytePath::default(), Problem::SymlinkLoop))
}

/// The implied directories of `layer` that are symlinks to directories in `lower`.
fn moves(lower: &Arena, layer: &LayerTree, limits: &Limits) -> Vec<Move> {
    let mut moves = Vec::new();
    let mut pending = vec![(NodeId::ROOT, lower.root(), Vec::new())];
    while let Some((here, below, way)) = pending.pop() {
        if let Kind::Directory { opaque: true, .. } = layer.kind(here) {
            // The layer hides the whole lower directory.
            continue;
        }
        for (name, id) in layer.children(here) {
            let Kind::Directory { implied, .. } = layer.kind(id) else {
                continue;
            };
            let Some(found) = lower.lookup(below, name) else {
                continue;
            };
            let path = if way.is_empty() {
                name.to_vec()
            } else {
                [&way, &b"/"[..], name].concat()
            };
            match lower.body(found) {
                Body::Directory { .. } => pending.push((id, found, path)),
                Body::Symlink(_) if implied => {
                    if let Some(target) = target(lower, layer, &path, limits) {
                        moves.push(Move {
                            parent: here,
                            directory: id,
                            path,
                            target,
                        });
                    }
                }
                _ => {}
            }
        }
    }
    moves
}

/// Where the lower symlink at `path` leads once the layer is applied, if that is a directory.
fn target(lower: &Arena, layer: &LayerTree, path: &[u8], limits: &Limits) -> Option<Vec<u8>> {
    let names = path::components(path, limits).ok()?;
    let (exists, target) = match resolve(lower, &names, true, limits).ok()? {
        Resolved::Node(node, path) => (lower.is_directory(node), path),
        Resolved::Missing(path) => (false, path),
    };
    let mut here = NodeId::ROOT;
    let mut hidden = matches!(layer.kind(here), Kind::Directory { opaque: true, .. });
    for name in path::components(&target, limits).ok()? {
        match layer.child(here, name) {
            // The layer does not change the lower tree below this point.
            None => return (exists && !hidden).then_some(target),
            Some(child) => match layer.kind(child) {
                Kind::Directory { opaque, .. } => {
                    hidden |= opaque;
                    here = child;
                }
                _ => return None,
            },
        }
    }
    // The layer itself has the directory, unless it is only implied over a missing name.
    let implied = matches!(layer.kind(here), Kind::Directory { implied: true, .. });
    (exists || !implied).then_some(target)
}

/// The layer with `moves` made.
fn apply(layer: &LayerTree, moves: &[Move], limits: &Limits) -> Result<LayerTree, Problem> {
    let mut arena = Arena::thaw(layer, limits)?;
    for Move {
        parent,
        directory,
        path,
        target,
    } in moves
    {
        if let Some(name) = path.rsplit(|&byte| byte == b'/').next() {
            arena.remove(*parent, name);
        }
        let mut to = arena.root();
        for name in path::components(target, limits)? {
            to = match arena.lookup(to, name) {
                Some(known) => known,
                None => {
                    let kind = Kind::Directory {
                        opaque: false,
                        implied: true,
                    };
                    let node = arena.node(Metadata::implied_directory(), kind)?;
                    arena.set(to, name, node)?;
                    node
                }
            };
        }
        let mut pending = vec![(*directory, to)];
        while let Some((from, to)) = pending.pop() {
            for (name, id) in layer.children(from) {
                if let Some(known) = arena.lookup(to, name) {
                    if combine(&mut arena, to, name, known, id)? {
                        pending.push((id, known));
                    }
                } else {
                    arena.set(to, name, id)?;
                }
            }
        }
    }
    Ok(LayerTree(arena.freeze().0))
}

/// Two entries of the layer for one name: `known` is in place, `id` arrives. Whether both are
/// directories, whose children have to be combined in turn.
fn combine(
    arena: &mut Arena,
    parent: NodeId,
    name: &[u8],
    known: NodeId,
    id: NodeId,
) -> Result<bool, Problem> {
    match (arena.body(known), arena.body(id)) {
        (
            Body::Directory { opaque, implied },
            Body::Directory {
                opaque: also_opaque,
                implied: also_implied,
            },
        ) => {
            if implied && !also_implied {
                let attributes = arena.metadata(id).clone();
                arena.set_metadata(known, attributes);
            }
            let body = Body::Directory {
                opaque: opaque || also_opaque,
                implied: implied && also_implied,
            };
            arena.set_body(known, body);
            return Ok(true);
        }
        (Body::Directory { .. }, Body::Whiteout) => {
            let (opaque, implied) = (true, false);
            arena.set_body(known, Body::Directory { opaque, implied });
        }
        (Body::Whiteout, Body::Directory { .. }) => {
            let (opaque, implied) = (true, false);
            arena.set_body(id, Body::Directory { opaque, implied });
            arena.set(parent, name, id)?;
        }
        (Body::Whiteout, _) => arena.set(parent, name, id)?,
        _ => {}
    }
    Ok(false)
}
