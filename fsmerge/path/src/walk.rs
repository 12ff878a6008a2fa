//! Walks along paths through the trees of file systems.

use alloc::vec::Vec;

use crate::BytePath;

/// How many symbolic links a walk follows, as in Linux (`MAXSYMLINKS`).
pub const MAX_SYMLINKS: usize = 40;

/// Which symbolic links a walk follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Follow {
    /// None: a link as the last name is returned, and before that it is not a directory.
    Nothing,
    /// Those before the last name.
    Parents,
    /// That of the last name too.
    All,
}

/// The tree of a file system.
pub trait Tree {
    /// A file, directory, symbolic link and so on.
    type Node;
    /// An error of reading the tree.
    type Error;

    /// Returns the root directory.
    ///
    /// # Errors
    ///
    /// Those of reading it.
    fn root(&self) -> Result<Self::Node, Self::Error>;

    /// Returns whether a node is a directory.
    fn is_directory(&self, node: &Self::Node) -> bool;

    /// Returns the node called `name` in a directory; `None` if there is none.
    ///
    /// # Errors
    ///
    /// Those of reading it.
    fn child(&self, directory: &Self::Node, name: &[u8])
    -> Result<Option<Self::Node>, Self::Error>;

    /// Returns the target of a symbolic link; `None` for any other node.
    ///
    /// # Errors
    ///
    /// Those of reading it.
    fn target(&self, node: &Self::Node) -> Result<Option<Vec<u8>>, Self::Error>;
}

/// Why a walk does not reach the end of its path; each library makes an error of its own of it. The
/// paths in it are those after the symbolic links before them were followed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WalkError<N, E> {
    /// There is nothing at this path.
    NotFound(BytePath),
    /// Something on the way, at this path, is not a directory.
    NotADirectory(BytePath, N),
    /// The path leads through more than [`MAX_SYMLINKS`] symbolic links.
    SymlinkLoop,
    /// The tree cannot be read.
    Tree(E),
}

/// Returns the names in a path: all components but empty ones and `.`.
///
/// ```
/// let names: Vec<_> = blockbox_path::names(b"/a/./b//..").collect();
/// assert_eq!(names, [&b"a"[..], b"b", b".."]);
/// ```
pub fn names(path: &[u8]) -> impl DoubleEndedIterator<Item = &[u8]> {
    path.split(|&byte| byte == b'/')
        .filter(|name| !matches!(*name, b"" | b"."))
}

/// Returns the node at `path`, which counts from the root whether it begins with `/` or not.
/// Symbolic links are followed inside the tree: the parent of the root is the root.
///
/// ```
/// use std::convert::Infallible;
/// use blockbox_path::{Follow, Tree, walk};
///
/// /// Every path is a directory, but `/bin` is a link.
/// struct Directories;
///
/// impl Tree for Directories {
///     type Node = Vec<u8>;
///     type Error = Infallible;
///
///     fn root(&self) -> Result<Vec<u8>, Infallible> {
///         Ok(Vec::new())
///     }
///     fn is_directory(&self, path: &Vec<u8>) -> bool {
///         *path != b"/bin"
///     }
///     fn child(&self, path: &Vec<u8>, name: &[u8]) -> Result<Option<Vec<u8>>, Infallible> {
///         Ok(Some([&path[..], b"/", name].concat()))
///     }
///     fn target(&self, path: &Vec<u8>) -> Result<Option<Vec<u8>>, Infallible> {
///         Ok((*path == b"/bin").then(|| b"usr/bin".to_vec()))
///     }
/// }
///
/// let found = walk(&Directories, b"../bin/sh", Follow::Parents);
/// assert_eq!(found.as_deref(), Ok(&b"/usr/bin/sh"[..]));
/// ```
///
/// # Errors
///
/// [`WalkError`].
pub fn walk<T: Tree>(
    tree: &T,
    path: &[u8],
    follow: Follow,
) -> Result<T::Node, WalkError<T::Node, T::Error>> {
    let mut links = MAX_SYMLINKS;
    let mut here = tree.root().map_err(WalkError::Tree)?;
    // The directories before the current node, each with the name that leads out of it.
    let mut above: Vec<(T::Node, Vec<u8>)> = Vec::new();
    // The names still to be looked up, the next one last.
    let mut left: Vec<Vec<u8>> = names(path).rev().map(<[u8]>::to_vec).collect();
    while let Some(name) = left.pop() {
        if !tree.is_directory(&here) {
            return Err(WalkError::NotADirectory(joined(&above, &[]), here));
        }
        if name == b".." {
            if let Some((parent, _)) = above.pop() {
                here = parent;
            }
            continue;
        }
        let child = tree.child(&here, &name).map_err(WalkError::Tree)?;
        let child = child.ok_or_else(|| WalkError::NotFound(joined(&above, &[&name])))?;
        let follows = match follow {
            Follow::Nothing => false,
            Follow::Parents => !left.is_empty(),
            Follow::All => true,
        };
        let target = match follows {
            true => tree.target(&child).map_err(WalkError::Tree)?,
            false => None,
        };
        let Some(target) = target else {
            above.push((core::mem::replace(&mut here, child), name));
            continue;
        };
        links = links.checked_sub(1).ok_or(WalkError::SymlinkLoop)?;
        if target.starts_with(b"/") {
            above.truncate(1);
            if let Some((root, _)) = above.pop() {
                here = root;
            }
        }
        left.extend(names(&target).rev().map(<[u8]>::to_vec));
    }
    Ok(here)
}

/// Returns the path of the names that lead out of `above`, and `more` after it.
fn joined<N>(above: &[(N, Vec<u8>)], more: &[&[u8]]) -> BytePath {
    let names = above.iter().map(|(_, name)| &name[..]);
    let names: Vec<_> = names.chain(more.iter().copied()).collect();
    names.join(&b'/').into()
}

#[cfg(test)]
mod tests {
    use alloc::collections::BTreeMap;
    use alloc::string::{String, ToString};

    use super::*;

    /// Symbolic links by path; the other paths are directories, or files if they end with `f`.
    struct Links(BTreeMap<&'static str, &'static str>);

    impl Tree for Links {
        type Node = String;
        type Error = &'static str;

        fn root(&self) -> Result<String, &'static str> {
            Ok(String::new())
        }

        fn is_directory(&self, node: &String) -> bool {
            !node.ends_with('f') && !self.0.contains_key(&node[..])
        }

        fn child(&self, directory: &String, name: &[u8]) -> Result<Option<String>, &'static str> {
            let name = core::str::from_utf8(name).unwrap_or_default();
            match name {
                "missing" => Ok(None),
                "damaged" => Err("damaged"),
                _ => Ok(Some([directory, "/", name].concat())),
            }
        }

        fn target(&self, node: &String) -> Result<Option<Vec<u8>>, &'static str> {
            Ok(self
                .0
                .get(&node[..])
                .map(|target| target.as_bytes().to_vec()))
        }
    }

    fn tree() -> Links {
        Links(BTreeMap::from([
            ("/bin", "usr/bin"),
            ("/a/up", "../../.././b"),
            ("/a/top", "/c/./d"),
            ("/a/self", "self"),
            ("/a/file", "/f"),
        ]))
    }

    fn found(path: &str, follow: Follow) -> Result<String, WalkError<String, &'static str>> {
        walk(&tree(), path.as_bytes(), follow)
    }

    #[test]
    fn links_are_followed_inside_the_root_as_far_as_asked_for() {
        for (path, nothing, parents, all) in [
            ("", Some(""), Some(""), Some("")),
            ("/../x/..", Some(""), Some(""), Some("")),
            ("./x//y/../z/", Some("/x/z"), Some("/x/z"), Some("/x/z")),
            ("bin", Some("/bin"), Some("/bin"), Some("/usr/bin")),
            ("bin/sh", None, Some("/usr/bin/sh"), Some("/usr/bin/sh")),
            ("a/up/x", None, Some("/b/x"), Some("/b/x")),
            ("a/top/..", None, Some("/c"), Some("/c")),
            ("a/top", Some("/a/top"), Some("/a/top"), Some("/c/d")),
        ] {
            for (follow, expected) in [
                (Follow::Nothing, nothing),
                (Follow::Parents, parents),
                (Follow::All, all),
            ] {
                let node = found(path, follow).ok();
                assert_eq!(node.as_deref(), expected, "{path} {follow:?}");
            }
        }
    }

    #[test]
    fn errors_have_the_path_after_links_were_followed() {
        let not_found = |path: &str| WalkError::NotFound(path.into());
        let not_a_directory = |path: &str, node: &str| {
            WalkError::NotADirectory(BytePath::from(path), node.to_string())
        };
        for (path, error) in [
            ("a/up/missing/x", not_found("b/missing")),
            ("x/f/..", not_a_directory("x/f", "/x/f")),
            ("a/file/x", not_a_directory("f", "/f")),
            ("a/self", WalkError::SymlinkLoop),
            ("a/damaged", WalkError::Tree("damaged")),
        ] {
            assert_eq!(found(path, Follow::All), Err(error), "{path}");
        }
        let on_the_way = not_a_directory("bin", "/bin");
        assert_eq!(found("bin/sh", Follow::Nothing), Err(on_the_way));
    }

    #[test]
    fn as_many_links_as_in_linux_are_followed() {
        let names: Vec<_> = (0..=MAX_SYMLINKS)
            .map(|n| ["/l", &n.to_string()].concat())
            .collect();
        let link = |n: usize| -> (&'static str, &'static str) {
            (
                names[n].clone().leak(),
                ["l", &(n + 1).to_string()].concat().leak(),
            )
        };
        let chain = |first: usize| {
            let links = Links((0..=MAX_SYMLINKS).map(link).collect());
            walk(&links, names[first].as_bytes(), Follow::All)
        };
        assert_eq!(chain(1).as_deref(), Ok("/l41"));
        assert_eq!(chain(0), Err(WalkError::SymlinkLoop));
    }
}
