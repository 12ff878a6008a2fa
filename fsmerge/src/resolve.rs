//! Resolving a path in a growing tree, with symlinks followed inside the root.

use crate::arena::{Arena, check_name};
use crate::error::Problem;
use crate::limits::Limits;
use crate::path::{check_depth, joined};
use crate::tree::{Body, NodeId};
use blockbox_path::MAX_SYMLINKS;

/// The names still to be walked, and the number of symlinks followed so far.
#[derive(Debug, Default)]
pub(crate) struct Left {
    /// The next name is the last element.
    names: Vec<Vec<u8>>,
    followed: usize,
    added: usize,
}

impl Left {
    /// The names of `path`, which has no `..` that would climb above the root.
    pub(crate) fn of(names: &[&[u8]]) -> Self {
        Self {
            names: names.iter().rev().map(|name| name.to_vec()).collect(),
            ..Self::default()
        }
    }

    pub(crate) fn pop(&mut self) -> Option<Vec<u8>> {
        self.names.pop()
    }

    /// Walks a symlink's target next. The number of symlinks and names is bounded.
    pub(crate) fn follow(&mut self, target: &[u8], limits: &Limits) -> Result<(), Problem> {
        self.followed += 1;
        if self.followed > MAX_SYMLINKS {
            return Err(Problem::SymlinkLoop);
        }
        for name in target.rsplit(|&byte| byte == b'/') {
            if name.is_empty() || name == b"." {
                continue;
            }
            if name != b".." {
                check_name(name)?;
            }
            self.names.push(name.to_vec());
            self.added += 1;
        }
        check_depth(self.added, limits)
    }
}

/// Where a walk ended.
#[derive(Debug)]
pub(crate) enum Resolved {
    /// At a node, with its path after symlinks are resolved.
    Node(NodeId, Vec<u8>),
    /// Before a missing name, or below something that is not a directory: the path with symlinks
    /// resolved up to there.
    Missing(Vec<u8>),
}

/// Walks `names` from the root. The last is followed where it is a symlink only if `follow_last`.
pub(crate) fn resolve(
    arena: &Arena,
    names: &[&[u8]],
    follow_last: bool,
    limits: &Limits,
) -> Result<Resolved, Problem> {
    let mut left = Left::of(names);
    let mut way: Vec<(NodeId, Vec<u8>)> = Vec::new();
    let path = |way: &[(NodeId, Vec<u8>)], more: &[&[u8]]| {
        let walked = way.iter().map(|(_, name)| name.as_slice());
        joined(&walked.chain(more.iter().copied()).collect::<Vec<_>>())
    };
    while let Some(name) = left.pop() {
        if name == b".." {
            // Above the root is the root, as in a chroot.
            way.pop();
            continue;
        }
        let here = way.last().map_or(arena.root(), |&(node, _)| node);
        let last = left.names.is_empty();
        let known = arena.lookup(here, &name);
        match known.map(|node| (node, arena.body(node))) {
            Some((node, Body::Directory { .. })) => way.push((node, name)),
            Some((_, Body::Symlink(target))) if !last || follow_last => {
                let target = arena.bytes(target);
                if target.starts_with(b"/") {
                    way.clear();
                }
                left.follow(target, limits)?;
            }
            Some((node, body)) if last && !matches!(body, Body::Whiteout) => {
                return Ok(Resolved::Node(node, path(&way, &[&name])));
            }
            _ => {
                let rest = std::iter::once(&name).chain(left.names.iter().rev());
                // Missing names cannot be symlinks, so `..` removes the last one.
                let mut names: Vec<&[u8]> = way.iter().map(|(_, name)| name.as_slice()).collect();
                for name in rest {
                    if name == b".." {
                        names.pop();
                    } else {
                        names.push(name);
                    }
                }
                return Ok(Resolved::Missing(joined(&names)));
            }
        }
    }
    let node = way.last().map_or(arena.root(), |&(node, _)| node);
    Ok(Resolved::Node(node, path(&way, &[])))
}
