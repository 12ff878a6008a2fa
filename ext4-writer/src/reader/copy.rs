//! Copying the tree of another filesystem.

use std::collections::{HashMap, HashSet};
use std::io::{self, Read, Seek, Write};

use blockbox_path::BytePath;

use super::{Inode, Reader};
use crate::volume::corrupt;
use crate::{Builder, Error, Kind, NodeId, Ranges};

/// A directory that every ext4 filesystem has.
const LOST_AND_FOUND: &[u8] = b"lost+found";

impl<W: Write + Seek> Builder<W> {
    /// Adds everything that another filesystem has, and gives the root its attributes. What lies at
    /// the paths `without`, names between slashes, is left out.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use std::io::Cursor;
    ///
    /// use ext4_writer::{Builder, Metadata, Node, Options, Reader};
    ///
    /// let mut small = Builder::new(Cursor::new(Vec::new()), Options::new(8 << 20))?;
    /// small.add_path(b"etc/motd", Metadata::new(0o644), Node::file(&b"hello"[..]))?;
    /// small.add_path(b"tmp/x", Metadata::new(0o644), Node::file(&b"x"[..]))?;
    /// let small = Reader::open(small.finish()?.0)?;
    ///
    /// let mut large = Builder::new(Cursor::new(Vec::new()), Options::new(64 << 20))?;
    /// large.add_filesystem(&small, &[b"tmp"])?;
    /// assert!(large.lookup(b"etc/motd").is_some() && large.lookup(b"tmp").is_none());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// Those of reading the other filesystem; [`Error::Contents`] where a file cannot be read;
    /// those of the methods that add nodes. Some of the tree is added then.
    pub fn add_filesystem<R: Read + Seek>(
        &mut self,
        from: &Reader<R>,
        without: &[&[u8]],
    ) -> Result<(), Error> {
        let root = from.root()?;
        self.set_metadata(self.root(), from.attributes(&root)?)?;
        let mut links = HashMap::new();
        // A directory with two names could contain itself.
        let mut seen = HashSet::from([root.number()]);
        let mut pending = vec![(root, self.root(), BytePath::default())];
        while let Some((directory, parent, path)) = pending.pop() {
            let mut names = from.read_dir(&directory)?;
            names.sort_unstable();
            for (name, number) in names {
                let path = match &path[..] {
                    [] if name == LOST_AND_FOUND => continue,
                    [] => name.clone(),
                    path => [path, b"/", &name].concat().into(),
                };
                if without.contains(&&path[..]) {
                    continue;
                }
                if let Some(&node) = links.get(&number) {
                    self.link(parent, &name, node)?;
                    continue;
                }
                let inode = from.inode(number)?;
                let node = self.add_inode(parent, &name, from, &inode)?;
                if inode.kind() == Kind::Directory {
                    if !seen.insert(number) {
                        return Err(corrupt("ext4_dir_entry_2", inode.offset));
                    }
                    pending.push((inode, node, path));
                } else if inode.nlink() > 1 {
                    links.insert(number, node);
                }
            }
        }
        Ok(())
    }

    fn add_inode<R: Read + Seek>(
        &mut self,
        parent: NodeId,
        name: &[u8],
        from: &Reader<R>,
        inode: &Inode,
    ) -> Result<NodeId, Error> {
        let metadata = from.attributes(inode)?;
        match inode.kind() {
            Kind::Directory => self.add_dir(parent, name, metadata),
            Kind::File if inode.size() == 0 => {
                self.add_file(parent, name, metadata, io::empty(), Some(0))
            }
            Kind::File => {
                let ranges = from.ranges(inode)?;
                let data = Ranges::new(from.file(inode)?, ranges.clone());
                self.add_sparse_file(parent, name, metadata, inode.size(), &ranges, data)
            }
            Kind::Symlink => self.add_symlink(parent, name, metadata, &from.read_link(inode)?),
            Kind::CharDevice => self.add_char_device(parent, name, metadata, inode.device()),
            Kind::BlockDevice => self.add_block_device(parent, name, metadata, inode.device()),
            Kind::Fifo => self.add_fifo(parent, name, metadata),
            Kind::Socket => self.add_socket(parent, name, metadata),
        }
    }
}
