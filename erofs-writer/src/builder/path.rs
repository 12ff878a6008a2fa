//! Nodes by path. Symbolic links on the way are followed inside the image, as in a `chroot`.

use std::io::{Seek, Write};

use blockbox_path::{BytePath, MAX_SYMLINKS, names};

use super::Builder;
use crate::error::Error;
use crate::format::{S_IFDIR, S_IFLNK};
use crate::metadata::{Metadata, Node};
use crate::node_id::NodeId;
use crate::tree::{Inode, ROOT, Tree};

impl<W: Write + Seek> Builder<W> {
    /// Adds a node at a path from the root. Symbolic links in the parents are followed, also
    /// absolute ones and `..` in their targets, but never out of the image; the last component is
    /// not followed. Empty components and `.` are ignored.
    ///
    /// Missing parents are made with mode 0755. Such a directory, and the root, takes the
    /// attributes of an entry of its own that is added later.
    ///
    /// ```
    /// use std::io::Cursor;
    /// use erofs_writer::{Builder, Metadata, Node, Options};
    ///
    /// let mut image = Builder::new(Cursor::new(Vec::new()), Options::default())?;
    /// image.add_path(b"/sbin", Metadata::new(0o777), Node::Symlink(b"usr/sbin".to_vec()))?;
    /// let init = image.store(&b"#!/bin/sh\n"[..])?;
    /// let node = image.add_path(b"/sbin/init", Metadata::new(0o755), Node::File(init))?;
    /// assert_eq!(image.lookup(b"/usr/sbin/init"), Some(node));
    /// # Ok::<(), erofs_writer::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::AlreadyExists`], [`Error::NotADirectory`], [`Error::SymlinkLoop`];
    /// [`Error::InvalidName`], also for `..`; otherwise those of [`add`](Self::add).
    pub fn add_path(
        &mut self,
        path: &[u8],
        metadata: Metadata,
        node: Node,
    ) -> Result<NodeId, Error> {
        let Some((parent, name)) = self.make_parents(path)? else {
            return match node {
                Node::Directory => self
                    .set_metadata(self.root(), metadata)
                    .map(|()| self.root()),
                _ => Err(Error::AlreadyExists { path: path.into() }),
            };
        };
        match self.tree.find(parent, name) {
            Some(found)
                if matches!(node, Node::Directory)
                    && self.tree.inodes[found as usize].flags.implied =>
            {
                let found = self.node(found);
                self.set_metadata(found, metadata)?;
                Ok(found)
            }
            _ => self.add(self.node(parent), name, metadata, node),
        }
    }

    /// Adds a further name of a node at a path, with parents as [`add_path`](Self::add_path).
    ///
    /// ```
    /// # use std::io::Cursor;
    /// use erofs_writer::{Builder, FileData, Metadata, Node, Options};
    ///
    /// let mut image = Builder::new(Cursor::new(Vec::new()), Options::default())?;
    /// let node = image.add_path(b"bin/busybox", Metadata::new(0o755), Node::File(FileData::EMPTY))?;
    /// image.link_path(b"bin/sh", node)?;
    /// # Ok::<(), erofs_writer::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Those of [`link`](Self::link), and of [`add_path`](Self::add_path) for the path.
    pub fn link_path(&mut self, path: &[u8], target: NodeId) -> Result<(), Error> {
        match self.make_parents(path)? {
            Some((parent, name)) => self.link(self.node(parent), name, target),
            None => Err(Error::AlreadyExists { path: path.into() }),
        }
    }

    /// Adds a node at a path, as [`add_path`](Self::add_path), and first removes the node that is
    /// there, if any, with all that is in it. The contents of removed files stay in the image as
    /// bytes that no file has.
    ///
    /// ```
    /// # use std::io::Cursor;
    /// use erofs_writer::{Builder, Metadata, Node, Options};
    ///
    /// let mut image = Builder::new(Cursor::new(Vec::new()), Options::default())?;
    /// image.add_path(b"usr/sbin/init", Metadata::new(0o755), Node::Fifo)?;
    /// image.add_path(b"sbin", Metadata::new(0o777), Node::Symlink(b"usr/sbin".to_vec()))?;
    /// let init = image.store(&b"#!/bin/sh\n"[..])?;
    /// // Follows the link.
    /// image.replace(b"sbin/init", Metadata::new(0o755), Node::File(init))?;
    /// # Ok::<(), erofs_writer::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Those of [`add_path`](Self::add_path) except [`Error::AlreadyExists`], which only the root
    /// causes. Nothing is removed then.
    pub fn replace(
        &mut self,
        path: &[u8],
        metadata: Metadata,
        node: Node,
    ) -> Result<NodeId, Error> {
        let Some((parent, name)) = self.make_parents(path)? else {
            return Err(Error::AlreadyExists { path: path.into() });
        };
        self.tree.check_new(parent, name)?;
        let inode = self.inode(parent, name, &metadata, &node)?;
        self.tree.remove(parent, name);
        let index = self.tree.add(parent, name, inode);
        Ok(self.node(index))
    }

    /// Removes the name at a path, and all that is beneath it where it is a directory. Symbolic
    /// links in the parents are followed, the last component is not. Other names of a removed file
    /// stay.
    ///
    /// ```
    /// # use std::io::Cursor;
    /// use erofs_writer::{Builder, Metadata, Node, Options};
    ///
    /// let mut image = Builder::new(Cursor::new(Vec::new()), Options::default())?;
    /// image.add_path(b"var/cache/a", Metadata::new(0o644), Node::Fifo)?;
    /// image.remove(b"var/cache")?;
    /// assert!(image.lookup(b"var/cache/a").is_none());
    /// # Ok::<(), erofs_writer::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`]; [`Error::InvalidName`] for the root; [`Error::SymlinkLoop`].
    pub fn remove(&mut self, path: &[u8]) -> Result<(), Error> {
        let not_found = || Error::NotFound { path: path.into() };
        let mut names: Vec<&[u8]> = names(path).collect();
        let Some(name) = names.pop() else {
            return Err(Error::InvalidName {
                directory: "/".into(),
                name: BytePath::default(),
            });
        };
        let parent = match self.tree.walk(&names, true) {
            Walked::Node(parent) => parent,
            Walked::Missing => return Err(not_found()),
            Walked::Loop => {
                return Err(Error::SymlinkLoop { path: path.into() });
            }
        };
        self.tree.remove(parent, name).ok_or_else(not_found)
    }

    /// Returns the node at a path from the root. Symbolic links are not followed.
    ///
    /// ```
    /// # use std::io::Cursor;
    /// use erofs_writer::{Builder, Kind, Metadata, Node, Options};
    ///
    /// let mut image = Builder::new(Cursor::new(Vec::new()), Options::default())?;
    /// image.add_path(b"bin", Metadata::new(0o777), Node::Symlink(b"usr/bin".to_vec()))?;
    /// let link = image.lookup(b"/bin").expect("it was added");
    /// assert_eq!(image.kind(link), Some(Kind::Symlink));
    /// # Ok::<(), erofs_writer::Error>(())
    /// ```
    pub fn lookup(&self, path: &[u8]) -> Option<NodeId> {
        names(path)
            .try_fold(ROOT, |at, name| self.tree.find(at, name))
            .map(|index| self.node(index))
    }

    /// Returns the node that a path leads to. All symbolic links are followed inside the image,
    /// that of the last component too.
    ///
    /// ```
    /// # use std::io::Cursor;
    /// use erofs_writer::{Builder, Metadata, Node, Options};
    ///
    /// let mut image = Builder::new(Cursor::new(Vec::new()), Options::default())?;
    /// let directory = image.add_path(b"usr/bin", Metadata::new(0o755), Node::Directory)?;
    /// image.add_path(b"bin", Metadata::new(0o777), Node::Symlink(b"usr/bin".to_vec()))?;
    /// assert_eq!(image.resolve(b"/bin"), Some(directory));
    /// # Ok::<(), erofs_writer::Error>(())
    /// ```
    pub fn resolve(&self, path: &[u8]) -> Option<NodeId> {
        let names: Vec<&[u8]> = names(path).collect();
        match self.tree.walk(&names, true) {
            Walked::Node(index) => Some(self.node(index)),
            Walked::Missing | Walked::Loop => None,
        }
    }

    /// Returns the directory that a path leads to before its last component, and that component;
    /// `None` for the root. Missing directories are made.
    fn make_parents<'p>(&mut self, path: &'p [u8]) -> Result<Option<(u32, &'p [u8])>, Error> {
        let mut names: Vec<&[u8]> = names(path).collect();
        let Some(last) = names.pop() else {
            return Ok(None);
        };
        if let Some(at) = names.iter().position(|&name| name == b"..") {
            return Err(Error::InvalidName {
                directory: [&b"/"[..], &names[..at].join(&b'/')].concat().into(),
                name: "..".into(),
            });
        }
        let mut steps = Steps::new(&names);
        while let Some(name) = steps.next() {
            let here = steps.here();
            let found = match name {
                Step::Up => continue,
                Step::Name(name) => match self.tree.find(here, &name) {
                    Some(found) => found,
                    None => {
                        let (metadata, node) = (Metadata::new(0o755), Node::Directory);
                        let made = self.add(self.node(here), &name, metadata, node)?.index;
                        self.tree.inodes[made as usize].flags.implied = true;
                        made
                    }
                },
            };
            if !steps.enter(&self.tree, found) {
                return Err(match steps.followed > MAX_SYMLINKS {
                    true => Error::SymlinkLoop { path: path.into() },
                    false => Error::NotADirectory {
                        path: self.tree.path(found).into(),
                    },
                });
            }
        }
        Ok(Some((steps.here(), last)))
    }
}

/// The end of a walk along a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Walked {
    Node(u32),
    Missing,
    Loop,
}

impl Tree {
    /// Walks `names` from the root. The last is followed where it is a symbolic link only if
    /// `follow_last`.
    fn walk(&self, names: &[&[u8]], follow_last: bool) -> Walked {
        let mut steps = Steps::new(names);
        while let Some(step) = steps.next() {
            let Step::Name(name) = step else { continue };
            let Some(found) = self.find(steps.here(), &name) else {
                return Walked::Missing;
            };
            let last = steps.left.is_empty();
            if last && (!follow_last || self.inodes[found as usize].kind() != S_IFLNK) {
                return Walked::Node(found);
            }
            if !steps.enter(self, found) {
                return match steps.followed > MAX_SYMLINKS {
                    true => Walked::Loop,
                    false => Walked::Missing,
                };
            }
        }
        Walked::Node(steps.here())
    }
}

/// A walk along a path: where it is, and the names that are left.
struct Steps {
    /// The directories from the root.
    way: Vec<u32>,
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
            way: vec![ROOT],
            left: names.iter().rev().map(|name| name.to_vec()).collect(),
            followed: 0,
        }
    }

    fn here(&self) -> u32 {
        self.way.last().copied().unwrap_or(ROOT)
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
    fn enter(&mut self, tree: &Tree, found: u32) -> bool {
        let inode: &Inode = &tree.inodes[found as usize];
        match inode.kind() {
            S_IFDIR => self.way.push(found),
            S_IFLNK => {
                self.followed += 1;
                if self.followed > MAX_SYMLINKS {
                    return false;
                }
                let target = tree.bytes(inode.payload, inode.size);
                if target.starts_with(b"/") {
                    self.way.truncate(1);
                }
                let names: Vec<_> = names(target).map(<[u8]>::to_vec).collect();
                self.left.extend(names.into_iter().rev());
            }
            _ => return false,
        }
        true
    }
}
