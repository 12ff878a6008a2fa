//! Building a tree and writing it as it grows.

mod devices;

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::ops::Range;
use std::path::Path;

use crate::format::{
    EXT4_GOOD_OLD_FIRST_INO, EXT4_JOURNAL_INO, EXT4_LINK_MAX, EXT4_NAME_LEN, EXT4_RESIZE_INO,
};
use crate::image::{Contents, Image};
use crate::node::{Body, Children, Index, Owner, TreeNode};
use crate::special::{self, Role, Special};
use crate::xattr::Encoder;
use crate::{Error, Kind, Metadata, Node, NodeId, Options, journal, resize_inode};

/// Writes one ext4 filesystem.
///
/// File contents go to the output as they are added; the tree itself is kept in memory until
/// [`finish`](Self::finish) writes it. An error of a method that adds a node leaves the builder as
/// it was before the call; an error of the output itself leaves the image unusable.
#[derive(Debug)]
pub struct Builder<W> {
    pub(crate) image: Image<W>,
    pub(crate) options: Options,
    owner: Owner,
    pub(crate) nodes: Vec<TreeNode>,
    pub(crate) encoder: Encoder,
    /// Inodes without a name.
    pub(crate) special: Vec<Special>,
}

impl Builder<File> {
    /// Creates the file `path`, or empties it, and returns a builder that writes a filesystem to
    /// it. The file has its [size](Options::size) from the start and only takes space for blocks
    /// that hold something.
    ///
    /// ```no_run
    /// use ext4_writer::{Builder, Options};
    ///
    /// let mut image = Builder::create("disk.ext4", Options::new(1 << 30))?;
    /// image.finish()?;
    /// # Ok::<(), ext4_writer::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Create`]; otherwise those of [`new`](Self::new).
    pub fn create(path: impl AsRef<Path>, options: Options) -> Result<Self, Error> {
        let path = path.as_ref();
        let create = || {
            let file = File::options()
                .read(true)
                .write(true)
                .create(true)
                .truncate(true)
                .open(path)?;
            if file.metadata()?.is_file() {
                file.set_len(options.size)?;
            }
            Ok(file)
        };
        let file = create().map_err(|source| Error::Create {
            path: path.to_owned(),
            source,
        })?;
        Self::new(file, options)
    }
}

impl<W: Write + Seek> Builder<W> {
    /// Plans a filesystem in `out`, which is addressed from its byte 0 and must read as zeros
    /// wherever it is not written: an empty file, for example. Nothing is read from it. Only blocks
    /// that hold something are written; at the end the output is made [`size`](Options::size) bytes
    /// long by writing its last byte, unless it is that long already (`File::set_len` beforehand
    /// saves that byte's block).
    ///
    /// ```
    /// use std::io::Cursor;
    /// use ext4_writer::{Builder, Options};
    ///
    /// let image = Builder::new(Cursor::new(Vec::new()), Options::new(16 << 20).label("data"))?;
    /// let (disk, _) = image.finish()?;
    /// assert_eq!(disk.into_inner().len(), 16 << 20);
    /// # Ok::<(), ext4_writer::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Option`], [`Error::TooSmall`], [`Error::TooLarge`] and [`Error::NoSpace`] where the
    /// options do not make a filesystem; [`Error::Output`].
    pub fn new(out: W, options: Options) -> Result<Self, Error> {
        let image = Image::new(out, &options)?;
        let mut builder = Self {
            encoder: Encoder {
                block_size: image.block_size(),
                value_inodes: options.ea_inode,
                seed: image.seed,
            },
            image,
            options,
            owner: Owner::new(),
            nodes: Vec::new(),
            special: Vec::new(),
        };
        let directory = |mode, links, parent| TreeNode {
            kind: Kind::Directory,
            metadata: Metadata::new(mode).mtime(builder.options.created),
            project: 0,
            links,
            body: Body::inline([0; 60], 0),
            target: None,
            parent,
            children: Children::new(),
        };
        let root = directory(0o755, 2, Index::ROOT);
        let lost_and_found = directory(0o700, 2, Index::ROOT);
        builder.nodes.push(root);
        builder.attach(Index::ROOT, b"lost+found", lost_and_found);

        if let Some(body) = resize_inode::write(&mut builder.image)? {
            builder
                .special
                .push(Special::new(EXT4_RESIZE_INO, Role::Resize, body));
        }
        let uuid = builder.options.effective_uuid();
        if let Some(body) = journal::write(&mut builder.image, uuid)? {
            builder
                .special
                .push(Special::new(EXT4_JOURNAL_INO, Role::Journal, body));
        }
        Ok(builder)
    }

    /// Returns the root directory. It exists from the start, with mode 0755, and holds
    /// `lost+found`.
    ///
    /// ```
    /// # use std::io::Cursor;
    /// use ext4_writer::{Builder, Metadata, Options};
    ///
    /// let mut image = Builder::new(Cursor::new(Vec::new()), Options::new(16 << 20))?;
    /// let root = image.root();
    /// image.add_dir(root, b"tmp", Metadata::new(0o1777))?;
    /// # Ok::<(), ext4_writer::Error>(())
    /// ```
    pub fn root(&self) -> NodeId {
        self.node(Index::ROOT)
    }

    /// Replaces all attributes of a node.
    ///
    /// ```
    /// # use std::io::Cursor;
    /// use ext4_writer::{Builder, Metadata, Options};
    ///
    /// let mut image = Builder::new(Cursor::new(Vec::new()), Options::new(16 << 20))?;
    /// let root = image.root();
    /// image.set_metadata(root, Metadata::new(0o700).owner(1000, 100))?;
    /// # Ok::<(), ext4_writer::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Xattr`], [`Error::ForeignNode`].
    pub fn set_metadata(&mut self, node: NodeId, metadata: Metadata) -> Result<(), Error> {
        let index = self.index(node)?;
        let node = &mut self.nodes[index.0 as usize];
        self.encoder
            .encode(&metadata.xattrs, node.body.tail.as_deref())?;
        node.metadata = metadata;
        Ok(())
    }

    /// Accounts a node to a project. Nodes that the kernel adds to a directory inherit its project
    /// (`EXT4_PROJINHERIT_FL`).
    ///
    /// ```
    /// # use std::io::Cursor;
    /// use ext4_writer::{Builder, Metadata, Options, Node};
    ///
    /// let mut image = Builder::new(Cursor::new(Vec::new()), Options::new(16 << 20).project(true))?;
    /// let home = image.add_path(b"home/ann", Metadata::new(0o700), Node::Directory)?;
    /// image.set_project(home, 1001)?;
    /// # Ok::<(), ext4_writer::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::NoProjects`] without [`Options::project`]; [`Error::ForeignNode`].
    pub fn set_project(&mut self, node: NodeId, project: u32) -> Result<(), Error> {
        if !self.options.project {
            return Err(Error::NoProjects);
        }
        let index = self.index(node)?;
        self.nodes[index.0 as usize].project = project;
        Ok(())
    }

    /// Returns the type of a node, or `None` for a node of another builder and for one that was
    /// removed.
    ///
    /// ```
    /// # use std::io::Cursor;
    /// use ext4_writer::{Builder, Kind, Options};
    ///
    /// let mut image = Builder::new(Cursor::new(Vec::new()), Options::new(16 << 20))?;
    /// assert_eq!(image.kind(image.root()), Some(Kind::Directory));
    /// # Ok::<(), ext4_writer::Error>(())
    /// ```
    pub fn kind(&self, node: NodeId) -> Option<Kind> {
        let index = self.index(node).ok()?;
        Some(self.nodes[index.0 as usize].kind)
    }

    /// Returns the node called `name` in a directory.
    ///
    /// ```
    /// # use std::io::Cursor;
    /// use ext4_writer::{Builder, Metadata, Options};
    ///
    /// let mut image = Builder::new(Cursor::new(Vec::new()), Options::new(16 << 20))?;
    /// let root = image.root();
    /// let tmp = image.add_dir(root, b"tmp", Metadata::new(0o1777))?;
    /// assert_eq!(image.child(root, b"tmp"), Some(tmp));
    /// # Ok::<(), ext4_writer::Error>(())
    /// ```
    pub fn child(&self, parent: NodeId, name: &[u8]) -> Option<NodeId> {
        let parent = self.index(parent).ok()?;
        let child = self.nodes[parent.0 as usize].children.get(name)?;
        Some(self.node(*child))
    }

    /// Adds a node of any type to a directory.
    ///
    /// ```
    /// # use std::io::Cursor;
    /// use ext4_writer::{Builder, Metadata, Node, Options};
    ///
    /// let mut image = Builder::new(Cursor::new(Vec::new()), Options::new(16 << 20))?;
    /// let root = image.root();
    /// let etc = image.add_dir(root, b"etc", Metadata::new(0o755))?;
    /// image.add(etc, b"mtab", Metadata::new(0o777), Node::Symlink(b"/proc/mounts"))?;
    /// # Ok::<(), ext4_writer::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Those of the method for the type: [`add_dir`](Self::add_dir), [`add_file`](Self::add_file)
    /// and so on.
    pub fn add(
        &mut self,
        parent: NodeId,
        name: &[u8],
        metadata: Metadata,
        node: Node<'_>,
    ) -> Result<NodeId, Error> {
        match node {
            Node::Directory => self.add_dir(parent, name, metadata),
            Node::File(contents) => self.add_file(parent, name, metadata, contents, None),
            Node::Symlink(target) => self.add_symlink(parent, name, metadata, target),
            Node::CharDevice(number) => self.add_char_device(parent, name, metadata, number),
            Node::BlockDevice(number) => self.add_block_device(parent, name, metadata, number),
            Node::Fifo => self.add_fifo(parent, name, metadata),
            Node::Socket => self.add_socket(parent, name, metadata),
        }
    }

    /// Adds a directory. `lost+found` in the root exists already: it only gets the attributes.
    ///
    /// ```
    /// # use std::io::Cursor;
    /// use ext4_writer::{Builder, Metadata, Options};
    ///
    /// let mut image = Builder::new(Cursor::new(Vec::new()), Options::new(16 << 20))?;
    /// let etc = image.add_dir(image.root(), b"etc", Metadata::new(0o755))?;
    /// image.add_file(etc, b"hostname", Metadata::new(0o644), &b"web\n"[..], None)?;
    /// # Ok::<(), ext4_writer::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// See [`Error`]: those that name the entry, [`Error::Xattr`], [`Error::NoInodes`] and
    /// [`Error::ForeignNode`].
    pub fn add_dir(
        &mut self,
        parent: NodeId,
        name: &[u8],
        metadata: Metadata,
    ) -> Result<NodeId, Error> {
        if parent == self.root() && name == b"lost+found" {
            let lost_and_found = self.node(Index::LOST_AND_FOUND);
            self.set_metadata(lost_and_found, metadata)?;
            return Ok(lost_and_found);
        }
        let body = Body::inline([0; 60], 0);
        self.add_node(parent, name, Kind::Directory, metadata, |_, _| Ok(body))
    }

    /// Adds a regular file and writes its contents: all bytes that `data` returns. Where the size
    /// in bytes is known, or guessed, `size_hint` helps to find contiguous space.
    ///
    /// ```
    /// # use std::io::Cursor;
    /// use ext4_writer::{Builder, Metadata, Options};
    ///
    /// let mut image = Builder::new(Cursor::new(Vec::new()), Options::new(16 << 20))?;
    /// let root = image.root();
    /// image.add_file(root, b"motd", Metadata::new(0o644), &b"hello\n"[..], Some(6))?;
    /// # Ok::<(), ext4_writer::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`add_dir`](Self::add_dir); besides [`Error::Contents`], [`Error::FileSize`],
    /// [`Error::NoSpace`] and [`Error::Output`].
    pub fn add_file(
        &mut self,
        parent: NodeId,
        name: &[u8],
        metadata: Metadata,
        data: impl Read,
        size_hint: Option<u64>,
    ) -> Result<NodeId, Error> {
        let contents = Contents {
            name,
            data,
            ranges: std::slice::from_ref(&(0..u64::MAX)),
            size: None,
            expected: size_hint.unwrap_or(0),
        };
        let room = self.inline_room(&metadata)?;
        self.add_node(parent, name, Kind::File, metadata, |image, ino| {
            image.write_file(ino, contents, room)
        })
    }

    /// Adds a regular file of `size` bytes with data in `ranges` and holes elsewhere. `data`
    /// returns the bytes of all ranges, one after the other. Holes take no blocks, as far as they
    /// cover whole ones.
    ///
    /// ```
    /// # use std::io::Cursor;
    /// use ext4_writer::{Builder, Metadata, Options};
    ///
    /// let mut image = Builder::new(Cursor::new(Vec::new()), Options::new(16 << 20))?;
    /// let root = image.root();
    /// // 1 GiB, of which only the first and the last block have data.
    /// let (size, block) = (1 << 30, 4096);
    /// let ranges = [0..block, size - block..size];
    /// let data = [7; 2 * 4096];
    /// image.add_sparse_file(root, b"disk.img", Metadata::new(0o644), size, &ranges, &data[..])?;
    /// # Ok::<(), ext4_writer::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`add_file`](Self::add_file). [`Error::FileSize`] also where ranges overlap, are not in
    /// ascending order, or end after `size`.
    pub fn add_sparse_file(
        &mut self,
        parent: NodeId,
        name: &[u8],
        metadata: Metadata,
        size: u64,
        ranges: &[Range<u64>],
        data: impl Read,
    ) -> Result<NodeId, Error> {
        let invalid = |size| {
            Err(Error::FileSize {
                name: name.into(),
                size,
            })
        };
        if size.div_ceil(self.image.geometry.block_size.into()) > u32::MAX.into() {
            return invalid(size);
        }
        let mut end = 0;
        for range in ranges {
            if range.start < end || range.end < range.start || range.end > size {
                return invalid(range.start);
            }
            end = range.end;
        }
        let contents = Contents {
            name,
            data,
            ranges,
            size: Some(size),
            expected: size,
        };
        let room = self.inline_room(&metadata)?;
        self.add_node(parent, name, Kind::File, metadata, |image, ino| {
            image.write_file(ino, contents, room)
        })
    }

    /// Adds a symbolic link to `target`.
    ///
    /// ```
    /// # use std::io::Cursor;
    /// use ext4_writer::{Builder, Metadata, Options};
    ///
    /// let mut image = Builder::new(Cursor::new(Vec::new()), Options::new(16 << 20))?;
    /// let root = image.root();
    /// image.add_symlink(root, b"bin", Metadata::new(0o777), b"usr/bin")?;
    /// # Ok::<(), ext4_writer::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`add_dir`](Self::add_dir); besides [`Error::Target`], [`Error::NoSpace`] and
    /// [`Error::Output`].
    pub fn add_symlink(
        &mut self,
        parent: NodeId,
        name: &[u8],
        metadata: Metadata,
        target: &[u8],
    ) -> Result<NodeId, Error> {
        let limit = self.image.block_size() - 1;
        if target.is_empty() || target.len() > limit || target.contains(&0) {
            return Err(Error::Target {
                length: target.len(),
                limit,
            });
        }
        let node = self.add_node(parent, name, Kind::Symlink, metadata, |image, ino| {
            let mut block = [0; 60];
            if target.len() < block.len() {
                block[..target.len()].copy_from_slice(target);
                return Ok(Body::inline(block, target.len() as u64));
            }
            image.store(ino, target)
        })?;
        if target.len() >= 60 {
            let index = self.index(node)?;
            self.nodes[index.0 as usize].target = Some(target.into());
        }
        Ok(node)
    }

    /// Adds a further name of a node that is not a directory.
    ///
    /// ```
    /// # use std::io::Cursor;
    /// use ext4_writer::{Builder, Metadata, Node, Options};
    ///
    /// let mut image = Builder::new(Cursor::new(Vec::new()), Options::new(16 << 20))?;
    /// let root = image.root();
    /// let node = image.add(root, b"a", Metadata::new(0o644), Node::file(&b"x"[..]))?;
    /// image.link(root, b"b", node)?;
    /// # Ok::<(), ext4_writer::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::LinkToDirectory`], [`Error::TooManyLinks`], and those of [`add_dir`](Self::add_dir)
    /// about the name.
    pub fn link(&mut self, parent: NodeId, name: &[u8], target: NodeId) -> Result<(), Error> {
        let parent = self.check_name(parent, name)?;
        let index = self.index(target)?;
        let target = &mut self.nodes[index.0 as usize];
        if target.kind == Kind::Directory {
            return Err(Error::LinkToDirectory {
                path: self.path(index).into(),
            });
        }
        if target.links >= EXT4_LINK_MAX {
            return Err(Error::TooManyLinks {
                path: self.path_of(parent, name).into(),
            });
        }
        target.links += 1;
        let parent = &mut self.nodes[parent.0 as usize];
        parent.children.insert(name.to_vec(), index);
        Ok(())
    }

    /// Adds a node; `make` writes its body for the inode number it is given.
    fn add_node(
        &mut self,
        parent: NodeId,
        name: &[u8],
        kind: Kind,
        metadata: Metadata,
        make: impl FnOnce(&mut Image<W>, u32) -> Result<Body, Error>,
    ) -> Result<NodeId, Error> {
        let parent = self.check_name(parent, name)?;
        self.check_metadata(&metadata)?;
        let inodes = self.image.geometry.inodes();
        let taken =
            EXT4_GOOD_OLD_FIRST_INO - 1 + special::inodes_after_tree(&self.image, &self.options);
        let index = u32::try_from(self.nodes.len())
            .ok()
            .filter(|&index| index <= inodes.saturating_sub(taken))
            .map(Index)
            .ok_or(Error::NoInodes { inodes })?;
        let body =
            make(&mut self.image, index.ino()).inspect_err(|_| self.image.space.roll_back())?;
        let node = TreeNode {
            kind,
            metadata,
            project: 0,
            links: match kind {
                Kind::Directory => 2,
                _ => 1,
            },
            body,
            target: None,
            parent,
            children: Children::new(),
        };
        self.attach(parent, name, node);
        Ok(self.node(index))
    }

    fn attach(&mut self, parent: Index, name: &[u8], node: TreeNode) {
        let index = Index(self.nodes.len() as u32);
        let above = &mut self.nodes[parent.0 as usize];
        above.children.insert(name.to_vec(), index);
        above.links += u32::from(node.kind == Kind::Directory);
        self.nodes.push(node);
    }

    fn check_metadata(&self, metadata: &Metadata) -> Result<(), Error> {
        self.encoder.encode(&metadata.xattrs, None).map(drop)
    }

    /// How many bytes of contents fit in the inode of a file with these attributes.
    fn inline_room(&self, metadata: &Metadata) -> Result<usize, Error> {
        match self.options.inline_data {
            true => Ok(self.encoder.encode(&metadata.xattrs, None)?.inline_room()),
            false => Ok(0),
        }
    }

    /// Checks that `name` can be added to `parent`, and returns the index of that.
    fn check_name(&self, parent: NodeId, name: &[u8]) -> Result<Index, Error> {
        let index = self.index(parent)?;
        let parent = &self.nodes[index.0 as usize];
        if parent.kind != Kind::Directory {
            return Err(Error::NotADirectory {
                path: self.path(index).into(),
            });
        }
        let reserved = matches!(name, b"" | b"." | b"..");
        if reserved
            || name.len() > EXT4_NAME_LEN
            || name.iter().any(|byte| matches!(byte, 0 | b'/'))
        {
            return Err(Error::InvalidName {
                directory: self.path(index).into(),
                name: name.into(),
            });
        }
        if parent.children.contains_key(name) {
            return Err(Error::AlreadyExists {
                path: self.path_of(index, name).into(),
            });
        }
        Ok(index)
    }

    /// Returns the handle of the node at `index`.
    pub(crate) fn node(&self, index: Index) -> NodeId {
        self.owner.node(index)
    }

    /// Returns the index of a node that is in the image.
    pub(crate) fn index(&self, node: NodeId) -> Result<Index, Error> {
        let index = self.owner.index(node)?;
        match self.nodes[index.0 as usize].links {
            0 => Err(Error::ForeignNode),
            _ => Ok(index),
        }
    }
}
