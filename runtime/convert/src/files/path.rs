//! Resolves paths in the tree that programs see.

use fsmerge::{Kind, NodeId, Tree};

use super::View;

/// The most symbolic links that are followed, as in the kernel (`MAXSYMLINKS`).
const MOST_LINKS: usize = 40;

/// The result of resolving a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The node.
    pub node: NodeId,
    /// Its path without symbolic links, except for the last name if it was not followed.
    pub path: Vec<u8>,
    /// Whether it is a directory.
    pub is_directory: bool,
    /// Whether it is a symbolic link.
    pub is_symlink: bool,
}

/// Resolves a path as a program of the sandbox would, from its root. A symbolic link at the end is
/// followed with `follow`, or if the path ends in a slash. `None` if there is no such file, if
/// there are too many links, or if a parent is not a directory.
pub fn find(view: &View<'_>, path: &[u8], follow: bool) -> Option<Found> {
    find_in(&view.merged, path, follow)
}

pub(super) fn find_in(tree: &Tree, path: &[u8], follow: bool) -> Option<Found> {
    let follow = follow || path.ends_with(b"/") || path.ends_with(b"/.");
    let must_be_directory = path.ends_with(b"/") || path.ends_with(b"/.");
    let mut left: Vec<Vec<u8>> = names(path).collect();
    left.reverse();
    let mut way: Vec<(Vec<u8>, NodeId)> = Vec::new();
    let mut links = 0;
    while let Some(name) = left.pop() {
        let here = way.last().map_or(tree.root(), |(_, node)| *node);
        if !tree.kind(here).is_directory() {
            return None;
        }
        if name == b".." {
            way.pop();
            continue;
        }
        let node = tree.child(here, &name)?;
        match tree.kind(node) {
            Kind::Symlink(target) if follow || !left.is_empty() => {
                links += 1;
                if links > MOST_LINKS {
                    return None;
                }
                if target.starts_with(b"/") {
                    way.clear();
                }
                let more: Vec<_> = names(target).collect();
                left.extend(more.into_iter().rev());
            }
            _ => way.push((name, node)),
        }
    }
    let node = way.last().map_or(tree.root(), |(_, node)| *node);
    let kind = tree.kind(node);
    if must_be_directory && !kind.is_directory() {
        return None;
    }
    let names: Vec<_> = way.into_iter().map(|(name, _)| name).collect();
    Some(Found {
        node,
        path: names.join(&b'/'),
        is_directory: kind.is_directory(),
        is_symlink: matches!(kind, Kind::Symlink(_)),
    })
}

fn names(path: &[u8]) -> impl Iterator<Item = Vec<u8>> + '_ {
    path.split(|&byte| byte == b'/')
        .filter(|name| !name.is_empty() && *name != b".")
        .map(<[u8]>::to_vec)
}

#[cfg(test)]
mod tests {
    use super::*;
    use fsmerge::{LayerBuilder, Limits, Metadata};

    #[test]
    fn paths_resolve_as_for_a_program_in_the_sandbox() {
        let mut layer = LayerBuilder::new(&Limits::default());
        let mut add = |path: &str, kind: Kind<'_>| {
            let metadata = Metadata::new(0o755);
            layer.add_path(path.as_bytes(), metadata, kind).unwrap();
        };
        add("usr/bin/sh", Kind::Fifo);
        add("bin", Kind::Symlink(b"usr/bin"));
        add("usr/up", Kind::Symlink(b"../../../usr/./bin/"));
        add("abs", Kind::Symlink(b"/usr"));
        add("loop", Kind::Symlink(b"loop"));
        let tree = layer.finish();
        let found = |path: &str, follow| {
            let found = find_in(&tree, path.as_bytes(), follow)?;
            Some(String::from_utf8(found.path).unwrap())
        };
        for (path, follow, expected) in [
            ("/", false, Some("")),
            ("bin", false, Some("bin")),
            ("bin/", false, Some("usr/bin")),
            ("/bin/.", false, Some("usr/bin")),
            ("bin", true, Some("usr/bin")),
            ("//bin//sh", false, Some("usr/bin/sh")),
            ("usr/up/sh", false, Some("usr/bin/sh")),
            ("abs/bin", false, Some("usr/bin")),
            ("bin/..", false, Some("usr")),
            ("usr/bin/sh/", false, None),
            ("usr/bin/sh/x", false, None),
            ("missing", false, None),
            ("loop", false, Some("loop")),
            ("loop", true, None),
        ] {
            assert_eq!(found(path, follow).as_deref(), expected, "{path}");
        }
    }
}
