//! Directories that a layer only implies, where the layers below have a symlink instead.
//!
//! An image whose base has `lib → usr/lib` may have an upper layer with an entry `lib/x` and none for `lib`. Runtimes
//! unpack into the tree of the layers below, so they write `usr/lib/x`. To the same end the layer is rearranged before it
//! is merged: what it has under the implied directory moves to where the symlink leads, inside the root. What the layer
//! has there already stays; the two entries of one file would have come in an unknown order.
//!
//! A symlink is not followed where it leads to no directory, or to what the layer itself takes away or replaces: then
//! the implied directory replaces it, as an overlay mount shows it.

use crate::arena::Arena;
use crate::error::Problem;
use crate::layer::LayerTree;
use crate::limits::Limits;
use crate::metadata::Metadata;
use crate::path;
use crate::resolve::{Resolved, resolve};
use crate::tree::{Body, Kind, NodeId};

/// What is moved may meet a further symlink where it arrives, but not more often than Linux follows symlinks.
const ROUNDS: usize = 40;

/// An implied directory, and where what it holds belongs.
struct Move {
    parent: NodeId,
    directory: NodeId,
    /// Its path in the layer.
    path: Vec<u8>,
    /// The path it moves to, without symlinks.
    target: Vec<u8>,
}

/// The layer as it is to be merged onto `lower`; None where it can stay as it is.
pub(crate) fn followed(
    lower: &Arena,
    layer: &LayerTree,
    limits: &Limits,
) -> Result<Option<LayerTree>, (Vec<u8>, Problem)> {
    let mut rearranged = None;
    for _ in 0..ROUNDS {
        let view = rearranged.as_ref().unwrap_or(layer);
        let moves = moves(lower, view, limits);
        let Some(first) = moves.first() else {
            return Ok(rearranged);
        };
        let moved = apply(view, &moves, limits).map_err(|problem| (first.path.clone(), problem))?;
        rearranged = Some(moved);
    }
    Err((Vec::new(), Problem::SymlinkLoop))
}

/// The implied directories of `layer` that are symlinks to directories in `lower`.
fn moves(lower: &Arena, layer: &LayerTree, limits: &Limits) -> Vec<Move> {
    let mut moves = Vec::new();
    let mut pending = vec![(NodeId::ROOT, lower.root(), Vec::new())];
    while let Some((here, below, way)) = pending.pop() {
        if let Kind::Directory { opaque: true, .. } = layer.kind(here) {
            // Nothing of the lower directory's is left.
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
            // From here on the lower tree is as it was.
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
    // The layer has the directory itself, if it does not only imply it where nothing is.
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

/// Two entries of the layer for one name: `known` is in place, `id` arrives. Whether both are directories, whose children
/// have to be combined in turn.
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
