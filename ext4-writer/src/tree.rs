//! Filling a filesystem with a tree that fsmerge made.

use std::io::{self, Seek, Write};

use fsmerge::{Contents, Kind, Merged, StoredContent, Tree};

use crate::{Builder, DeviceNumber, Error, Metadata, NodeId, Timestamp};

impl<W: Write + Seek> Builder<W> {
    /// Adds everything that is in `tree`, and gives the root its attributes. The contents of files
    /// come from `contents`: a [`ContentStore`](fsmerge::ContentStore), for example.
    ///
    /// A file with more names than an inode can count (65,000) becomes as many as it takes.
    ///
    /// ```
    /// use std::io::Cursor;
    /// use ext4_writer::{Builder, Options};
    /// use fsmerge::{ContentStore, Limits, Merge};
    ///
    /// # let tar = &[0; 1024][..];
    /// let limits = Limits::default();
    /// let mut contents = ContentStore::in_memory();
    /// let mut merge = Merge::new(&limits);
    /// merge.push(&contents.read_tar(tar, &limits)?.0)?;
    /// let mut image = Builder::new(Cursor::new(Vec::new()), Options::new(16 << 20))?;
    /// image.add_tree(&merge.finish(), &mut contents)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Contents`] where contents cannot be opened or read; otherwise those of the methods
    /// that add nodes. Some of the tree is added then.
    pub fn add_tree(&mut self, tree: &Merged, contents: &mut impl Contents) -> Result<(), Error> {
        self.add_tree_to(self.root(), tree, contents)
    }

    /// As [`add_tree`](Self::add_tree), with the directory `target` in the place of the root.
    ///
    /// ```
    /// use std::io::Cursor;
    ///
    /// use ext4_writer::{Builder, Metadata, Node, Options};
    /// use fsmerge::{ContentStore, Limits, Merge};
    ///
    /// let (limits, mut contents) = (Limits::default(), ContentStore::in_memory());
    /// let mut merge = Merge::new(&limits);
    /// # let tar = &[0; 1024][..];
    /// merge.push(&contents.read_tar(tar, &limits)?.0)?;
    ///
    /// let mut image = Builder::new(Cursor::new(Vec::new()), Options::new(16 << 20))?;
    /// let upper = image.add_path(b"upper", Metadata::new(0o755), Node::Directory)?;
    /// image.add_tree_to(upper, &merge.finish(), &mut contents)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Those of [`add_tree`](Self::add_tree).
    pub fn add_tree_to(
        &mut self,
        target: NodeId,
        tree: &Merged,
        contents: &mut impl Contents,
    ) -> Result<(), Error> {
        let mut added: Vec<Option<NodeId>> = vec![None; tree.len()];
        let root = tree.root();
        added[root.index()] = Some(target);
        if !matches!(tree.kind(root), Kind::Directory { implied: true, .. }) {
            self.set_metadata(target, metadata(tree, root))?;
        }
        // A directory comes before what it holds.
        for directory in tree.nodes() {
            let Some(parent) = added[directory.index()] else {
                continue;
            };
            for (name, id) in tree.children(directory) {
                if let Some(node) = added[id.index()] {
                    match self.link(parent, name, node) {
                        // The next names refer to a copy.
                        Err(Error::TooManyLinks { .. }) => (),
                        linked => {
                            linked?;
                            continue;
                        }
                    }
                }
                added[id.index()] = self.add_from_tree(parent, name, tree, id, contents)?;
            }
        }
        Ok(())
    }

    fn add_from_tree(
        &mut self,
        parent: NodeId,
        name: &[u8],
        tree: &Tree,
        id: fsmerge::NodeId,
        contents: &mut impl Contents,
    ) -> Result<Option<NodeId>, Error> {
        let metadata = metadata(tree, id);
        let node = match tree.kind(id) {
            Kind::Directory { .. } => self.add_dir(parent, name, metadata),
            Kind::File { size, data } => match data {
                None => self.add_file(parent, name, metadata, io::empty(), Some(0)),
                Some(data) => {
                    let opened = contents.open(data).map_err(|source| Error::Contents {
                        name: name.into(),
                        source,
                    })?;
                    let StoredContent { ranges, data, .. } = opened;
                    self.add_sparse_file(parent, name, metadata, size, &ranges, data)
                }
            },
            Kind::Symlink(target) => self.add_symlink(parent, name, metadata, target),
            Kind::CharDevice(number) => {
                self.add_char_device(parent, name, metadata, device(number))
            }
            Kind::BlockDevice(number) => {
                self.add_block_device(parent, name, metadata, device(number))
            }
            Kind::Fifo => self.add_fifo(parent, name, metadata),
            Kind::Socket => self.add_socket(parent, name, metadata),
            // A merged tree has neither.
            Kind::Whiteout | Kind::LowerLink(_) => return Ok(None),
        };
        Ok(Some(node?))
    }
}

fn metadata(tree: &Tree, id: fsmerge::NodeId) -> Metadata {
    let metadata = tree.metadata(id);
    let fsmerge::Timestamp { secs, nanos } = metadata.mtime;
    Metadata::new(metadata.mode)
        .owner(metadata.uid, metadata.gid)
        .mtime(Timestamp { secs, nanos })
        .xattrs(metadata.xattrs.to_vec())
}

fn device(number: fsmerge::DeviceNumber) -> DeviceNumber {
    let fsmerge::DeviceNumber { major, minor } = number;
    DeviceNumber { major, minor }
}
