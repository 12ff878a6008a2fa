//! Nodes by path. Symbolic links on the way are followed inside the filesystem, as in a `chroot`.

use std::io::{Seek, Write};

use blockbox_path::{MAX_SYMLINKS, names};

use crate::node::{Index, TreeNode};
use crate::{Builder, Error, Kind, Metadata, Node, NodeId};

impl<W: Write + Seek> Builder<W> {
    /// Adds a node at a path from the root. Symbolic links in the parents are followed, also
    /// absolute ones and `..` in their targets, but never out of the filesystem; the last component
    /// is not followed. Empty components and `.` are ignored. Missing parents are made with
    /// mode 0755.
    ///
    /// ```
    /// use std::io::Cursor;
    /// use ext4_writer::{Builder, Metadata, Node, Options};
    ///
    /// let mut image = Builder::new(Cursor::new(Vec::new()), Options::new(16 << 20))?;
    /// image.add_path(b"/sbin", Metadata::new(0o777), Node::Symlink(b"usr/sbin"))?;
    /// let init = Node::file(&b"#!/bin/sh\n"[..]);
    /// let init = image.add_path(b"/sbin/init", Metadata::new(0o755), init)?;
    /// assert_eq!(image.lookup(b"/usr/sbin/init"), Some(init));
    /// # Ok::<(), ext4_writer::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Those of [`make_parents`](Self::make_parents) and [`add`](Self::add).
    pub fn add_path(
        &mut self,
        path: &[u8],
        metadata: Metadata,
        node: Node<'_>,
    ) -> Result<NodeId, Error> {
        let (parent, name) = self.make_parents(path, &Metadata::new(0o755))?;
        self.add(parent, name, metadata, node)
    }

    /// Adds a further name of a node at a path, with parents as [`add_path`](Self::add_path).
    ///
    /// ```
    /// # use std::io::Cursor;
    /// use ext4_writer::{Builder, Metadata, Node, Options};
    ///
    /// let mut image = Builder::new(Cursor::new(Vec::new()), Options::new(16 << 20))?;
    /// let busybox = image.add_path(b"bin/busybox", Metadata::new(0o755), Node::file(&b""[..]))?;
    /// image.link_path(b"bin/sh", busybox)?;
    /// # Ok::<(), ext4_writer::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Those of [`make_parents`](Self::make_parents) and [`link`](Self::link).
    pub fn link_path(&mut self, path: &[u8], target: NodeId) -> Result<(), Error> {
        let (parent, name) = self.make_parents(path, &Metadata::new(0o755))?;
        self.link(parent, name, target)
    }

    /// Adds a node at a path, as [`add_path`](Self::add_path), and removes the node that is there,
    /// if any, with all that is in it.
    ///
    /// ```
    /// # use std::io::Cursor;
    /// use ext4_writer::{Builder, Metadata, Node, Options};
    ///
    /// let mut image = Builder::new(Cursor::new(Vec::new()), Options::new(16 << 20))?;
    /// let old = Node::file(&b"old"[..]);
    /// image.add_path(b"/sbin/init", Metadata::new(0o755), old)?;
    /// let new = Node::file(&b"new"[..]);
    /// image.replace(b"/sbin/init", Metadata::new(0o755), new)?;
    /// # Ok::<(), ext4_writer::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Those of [`add_path`](Self::add_path) except [`Error::AlreadyExists`], which only
    /// `lost+found` causes. Nothing is removed then.
    pub fn replace(
        &mut self,
        path: &[u8],
        metadata: Metadata,
        node: Node<'_>,
    ) -> Result<NodeId, Error> {
        let (parent, name) = self.make_parents(path, &Metadata::new(0o755))?;
        let directory = self.index(parent)?.0 as usize;
        let old = self.nodes[directory].children.get(name).copied();
        if old == Some(Index::LOST_AND_FOUND) {
            return Err(Error::AlreadyExists { path: path.into() });
        }
        self.nodes[directory].children.remove(name);
        let added = self.add(parent, name, metadata, node);
        if let Some(old) = old {
            match added {
                Ok(_) => self.forget(directory, old),
                Err(_) => drop(self.nodes[directory].children.insert(name.to_vec(), old)),
            }
        }
        added
    }

    /// Removes the name at a path, and all that is beneath it where it is a directory. Symbolic
    /// links in the parents are followed, the last component is not. Other names of a removed file
    /// stay. The bytes of removed contents stay in blocks that are free, until other contents take
    /// these.
    ///
    /// ```
    /// # use std::io::Cursor;
    /// use ext4_writer::{Builder, Metadata, Node, Options};
    ///
    /// let mut image = Builder::new(Cursor::new(Vec::new()), Options::new(16 << 20))?;
    /// let file = Node::file(&b"x"[..]);
    /// image.add_path(b"/var/cache/a", Metadata::new(0o644), file)?;
    /// image.remove(b"/var/cache")?;
    /// assert!(image.lookup(b"/var/cache/a").is_none());
    /// # Ok::<(), ext4_writer::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`]; [`Error::InvalidName`] for the root and for `lost+found`;
    /// [`Error::SymlinkLoop`].
    pub fn remove(&mut self, path: &[u8]) -> Result<(), Error> {
        let not_found = || Error::NotFound { path: path.into() };
        let mut names: Vec<&[u8]> = names(path).collect();
        let name = names.pop().unwrap_or_default();
        let directory = match self.walk(&names, true) {
            Walked::Node(directory) => directory,
            Walked::Missing => return Err(not_found()),
            Walked::Loop => {
                return Err(Error::SymlinkLoop { path: path.into() });
            }
        };
        let node = self.nodes[directory.0 as usize].children.get(name).copied();
        if name.is_empty() || node == Some(Index::LOST_AND_FOUND) {
            return Err(Error::InvalidName {
                directory: self.path(directory).into(),
                name: name.into(),
            });
        }
        let node = node.ok_or_else(not_found)?;
        let directory = directory.0 as usize;
        self.nodes[directory].children.remove(name);
        self.forget(directory, node);
        Ok(())
    }

    /// Returns the node at a path from the root. Symbolic links are not followed.
    ///
    /// ```
    /// # use std::io::Cursor;
    /// use ext4_writer::{Builder, Kind, Metadata, Node, Options};
    ///
    /// let mut image = Builder::new(Cursor::new(Vec::new()), Options::new(16 << 20))?;
    /// image.add_path(b"bin", Metadata::new(0o777), Node::Symlink(b"usr/bin"))?;
    /// let link = image.lookup(b"/bin").expect("it was added");
    /// assert_eq!(image.kind(link), Some(Kind::Symlink));
    /// # Ok::<(), ext4_writer::Error>(())
    /// ```
    pub fn lookup(&self, path: &[u8]) -> Option<NodeId> {
        names(path)
            .try_fold(Index::ROOT, |at, name| {
                self.nodes[at.0 as usize].children.get(name).copied()
            })
            .map(|index| self.node(index))
    }

    /// Returns the node that a path leads to. All symbolic links are followed inside the
    /// filesystem, that of the last component too.
    ///
    /// ```
    /// # use std::io::Cursor;
    /// use ext4_writer::{Builder, Metadata, Node, Options};
    ///
    /// let mut image = Builder::new(Cursor::new(Vec::new()), Options::new(16 << 20))?;
    /// let directory = image.add_path(b"usr/bin", Metadata::new(0o755), Node::Directory)?;
    /// image.add_path(b"bin", Metadata::new(0o777), Node::Symlink(b"usr/bin"))?;
    /// assert_eq!(image.resolve(b"/bin"), Some(directory));
    /// # Ok::<(), ext4_writer::Error>(())
    /// ```
    pub fn resolve(&self, path: &[u8]) -> Option<NodeId> {
        let names: Vec<&[u8]> = names(path).collect();
        match self.walk(&names, true) {
            Walked::Node(index) => Some(self.node(index)),
            Walked::Missing | Walked::Loop => None,
        }
    }

    /// Returns the directory that the last component of `path` lies in, and that component.
    /// Symbolic links are followed as in [`add_path`](Self::add_path); missing directories are
    /// added with `implied` as their attributes.
    ///
    /// ```
    /// # use std::io::Cursor;
    /// use ext4_writer::{Builder, Metadata, Options};
    ///
    /// let mut image = Builder::new(Cursor::new(Vec::new()), Options::new(16 << 20))?;
    /// let (parent, name) = image.make_parents(b"etc/app/config", &Metadata::new(0o700))?;
    /// assert_eq!((image.lookup(b"etc/app"), name), (Some(parent), &b"config"[..]));
    /// image.add_file(parent, name, Metadata::new(0o600), &b"debug = true"[..], None)?;
    /// # Ok::<(), ext4_writer::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::InvalidName`] also for a path without components or with `..` in it;
    /// [`Error::NotADirectory`]; [`Error::SymlinkLoop`]; otherwise those of
    /// [`add_dir`](Self::add_dir).
    pub fn make_parents<'p>(
        &mut self,
        path: &'p [u8],
        implied: &Metadata,
    ) -> Result<(NodeId, &'p [u8]), Error> {
        let mut names: Vec<&[u8]> = names(path).collect();
        let invalid = |before: &[&[u8]], name: &[u8]| Error::InvalidName {
            directory: [&b"/"[..], &before.join(&b'/')].concat().into(),
            name: name.into(),
        };
        let last = names.pop().ok_or_else(|| invalid(&[], b""))?;
        if let Some(at) = names.iter().position(|&name| name == b"..") {
            return Err(invalid(&names[..at], b".."));
        }
        let mut steps = Steps::new(&names);
        while let Some(step) = steps.next() {
            let Step::Name(name) = step else { continue };
            let here = steps.here();
            let found = match self.nodes[here.0 as usize].children.get(&name[..]) {
                Some(&found) => found,
                None => {
                    let made = self.add_dir(self.node(here), &name, implied.clone())?;
                    self.index(made)?
                }
            };
            if !steps.enter(&self.nodes, found) {
                return Err(match steps.followed > MAX_SYMLINKS {
                    true => Error::SymlinkLoop { path: path.into() },
                    false => Error::NotADirectory {
                        path: self.path(found).into(),
                    },
                });
            }
        }
        Ok((self.node(steps.here()), last))
    }

    /// Walks `names` from the root. The last is followed where it is a symbolic link only if
    /// `follow_last`.
    fn walk(&self, names: &[&[u8]], follow_last: bool) -> Walked {
        let mut steps = Steps::new(names);
        while let Some(step) = steps.next() {
            let Step::Name(name) = step else { continue };
            let here = &self.nodes[steps.here().0 as usize];
            let Some(&found) = here.children.get(&name[..]) else {
                return Walked::Missing;
            };
            let is_link = self.nodes[found.0 as usize].kind == Kind::Symlink;
            if steps.left.is_empty() && !(is_link && follow_last) {
                return Walked::Node(found);
            }
            if !steps.enter(&self.nodes, found) {
                return match steps.followed > MAX_SYMLINKS {
                    true => Walked::Loop,
                    false => Walked::Missing,
                };
            }
        }
        Walked::Node(steps.here())
    }

    /// Drops one name of a node, which was removed from `directory`. A node without a name frees
    /// its blocks, and so does everything in it.
    fn forget(&mut self, directory: usize, node: Index) {
        if self.nodes[node.0 as usize].kind == Kind::Directory {
            self.nodes[directory].links -= 1;
        }
        let mut pending = vec![node];
        while let Some(index) = pending.pop() {
            let node = &mut self.nodes[index.0 as usize];
            if node.kind != Kind::Directory && node.links > 1 {
                node.links -= 1;
                continue;
            }
            let node = std::mem::replace(node, TreeNode::removed());
            for run in node.body.used {
                self.image.space.free(run);
            }
            pending.extend(node.children.into_values());
        }
    }

    /// Returns a path of a node. If its first name was removed, all directories are searched for
    /// another one.
    pub(crate) fn path(&self, index: Index) -> Vec<u8> {
        let name_in = |parent: Index, index: Index| {
            let children = &self.nodes.get(parent.0 as usize)?.children;
            let (name, _) = children.iter().find(|(_, child)| **child == index)?;
            Some((parent, name))
        };
        let mut names = Vec::new();
        let mut at = index;
        while at != Index::ROOT {
            let first = name_in(self.nodes[at.0 as usize].parent, at);
            let all = (0..self.nodes.len() as u32).map(Index);
            let Some((parent, name)) =
                first.or_else(|| all.into_iter().find_map(|parent| name_in(parent, at)))
            else {
                break;
            };
            names.push(name.as_slice());
            at = parent;
        }
        names.reverse();
        [&b"/"[..], &names.join(&b'/')].concat()
    }

    /// Returns the path of `name` in a directory.
    pub(crate) fn path_of(&self, directory: Index, name: &[u8]) -> Vec<u8> {
        let mut path = self.path(directory);
        if path != b"/" {
            path.push(b'/');
        }
        path.extend_from_slice(name);
        path
    }
}

/// The end of a walk along a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Walked {
    Node(Index),
    Missing,
    Loop,
}

/// A walk along a path: where it is, and the names that are left.
struct Steps {
    /// The directories from the root.
    way: Vec<Index>,
    /// The next name at the end.
    left: Vec<Vec<u8>>,
    followed: usize,
}

enum Step {
    /// Goes to the parent, which was done already.
    Up,
    Name(Vec<u8>),
}

impl Steps {
    fn new(names: &[&[u8]]) -> Self {
        Self {
            way: vec![Index::ROOT],
            left: names.iter().rev().map(|name| name.to_vec()).collect(),
            followed: 0,
        }
    }

    fn here(&self) -> Index {
        self.way.last().copied().unwrap_or(Index::ROOT)
    }

    /// Returns the next name, or goes to the parent for `..`. The root is its own parent.
    fn next(&mut self) -> Option<Step> {
        let name = self.left.pop()?;
        if name != b".." {
            return Some(Step::Name(name));
        }
        if self.way.len() > 1 {
            self.way.pop();
        }
        Some(Step::Up)
    }

    /// Goes into the directory `found`, or on along the target of a symbolic link. Returns false if
    /// it is neither, or if there are too many links.
    fn enter(&mut self, nodes: &[TreeNode], found: Index) -> bool {
        let node = &nodes[found.0 as usize];
        if node.kind == Kind::Directory {
            self.way.push(found);
            return true;
        }
        let Some(target) = node.target() else {
            return false;
        };
        self.followed += 1;
        if self.followed > MAX_SYMLINKS {
            return false;
        }
        if target.starts_with(b"/") {
            self.way.truncate(1);
        }
        let names: Vec<_> = names(target).map(<[u8]>::to_vec).collect();
        self.left.extend(names.into_iter().rev());
        true
    }
}
