//! Building a tree and writing it as it grows.

use std::io::{Read, Seek, Write};
use std::ops::Range;

use crate::format::{
    EXT4_GOOD_OLD_FIRST_INO, EXT4_JOURNAL_INO, EXT4_LINK_MAX, EXT4_NAME_LEN, EXT4_RESIZE_INO,
};
use crate::image::{Contents, Image};
use crate::node::{Body, Children, Kind, Node};
use crate::special::{self, Role, Special};
use crate::xattr::Encoder;
use crate::{Device, Error, Metadata, NodeId, Options, Summary, journal, resize_inode};

/// Writes one ext4 filesystem.
///
/// File contents go to the output as they are added; the tree itself is kept in memory until [`finish`](Self::finish) writes
/// it. An error of a method that adds a node leaves the builder as it was before the call; an error of the output itself
/// leaves the image without use.
#[derive(Debug)]
pub struct Builder<W> {
    pub(crate) image: Image<W>,
    pub(crate) options: Options,
    pub(crate) nodes: Vec<Node>,
    pub(crate) encoder: Encoder,
    /// Inodes without a name.
    pub(crate) special: Vec<Special>,
}

impl<W: Write + Seek> Builder<W> {
    /// Plans a filesystem in `out`, which is addressed from its byte 0 and must read as zeros wherever it is not written: an
    /// empty file, for example. Nothing is read from it. Only blocks that hold something are written; at the end the output is
    /// made [`size`](Options::size) bytes long by writing its last byte, unless it is that long already (`File::set_len`
    /// beforehand saves that byte's block).
    ///
    /// # Errors
    ///
    /// [`Error::Option`], [`Error::TooSmall`], [`Error::TooLarge`] and [`Error::NoSpace`] where the options do not make a
    /// filesystem; [`Error::Output`].
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
            nodes: Vec::new(),
            special: Vec::new(),
        };
        let directory = |mode, links, parent| Node {
            kind: Kind::Directory,
            metadata: Metadata {
                mtime: builder.options.created,
                ..Metadata::new(mode)
            },
            project: 0,
            links,
            body: Body::inline([0; 60], 0),
            parent,
            children: Children::new(),
        };
        let root = directory(0o755, 2, NodeId::ROOT);
        let lost_and_found = directory(0o700, 2, NodeId::ROOT);
        builder.nodes.push(root);
        builder.attach(NodeId::ROOT, b"lost+found", lost_and_found);

        if let Some(body) = resize_inode::write(&mut builder.image)? {
            builder
                .special
                .push(Special::new(EXT4_RESIZE_INO, Role::Resize, body));
        }
        let uuid = builder.options.uuid();
        if let Some(body) = journal::write(&mut builder.image, uuid)? {
            builder
                .special
                .push(Special::new(EXT4_JOURNAL_INO, Role::Journal, body));
        }
        Ok(builder)
    }

    /// The root directory. It exists from the start, with mode 0755, and holds `lost+found`.
    pub fn root(&self) -> NodeId {
        NodeId::ROOT
    }

    /// Replaces all attributes of a node.
    ///
    /// # Errors
    ///
    /// [`Error::Xattr`], [`Error::ForeignNode`].
    pub fn set_metadata(&mut self, node: NodeId, metadata: Metadata) -> Result<(), Error> {
        let node = self.nodes.get_mut(node.0 as usize);
        let node = node.ok_or(Error::ForeignNode)?;
        self.encoder
            .encode(&metadata.xattrs, node.body.tail.as_deref())?;
        node.metadata = metadata;
        Ok(())
    }

    /// Accounts a node to a project; what is made in a directory of one belongs to it too (`EXT4_PROJINHERIT_FL`).
    ///
    /// # Errors
    ///
    /// [`Error::NoProjects`] without [`Options::project`]; [`Error::ForeignNode`].
    pub fn set_project(&mut self, node: NodeId, project: u32) -> Result<(), Error> {
        if !self.options.project {
            return Err(Error::NoProjects);
        }
        let node = self.nodes.get_mut(node.0 as usize);
        node.ok_or(Error::ForeignNode)?.project = project;
        Ok(())
    }

    /// The node called `name` in a directory.
    pub fn lookup(&self, parent: NodeId, name: &[u8]) -> Option<NodeId> {
        let parent = self.nodes.get(parent.0 as usize)?;
        parent.children.get(name).copied()
    }

    /// Adds a directory. `lost+found` in the root exists already: it only gets the attributes.
    ///
    /// # Errors
    ///
    /// See [`Error`]: those that name the entry, [`Error::Xattr`], [`Error::NoInodes`] and [`Error::ForeignNode`].
    pub fn add_dir(
        &mut self,
        parent: NodeId,
        name: &[u8],
        metadata: Metadata,
    ) -> Result<NodeId, Error> {
        if parent == NodeId::ROOT && name == b"lost+found" {
            self.set_metadata(NodeId::LOST_AND_FOUND, metadata)?;
            return Ok(NodeId::LOST_AND_FOUND);
        }
        let body = Body::inline([0; 60], 0);
        self.add(parent, name, Kind::Directory, metadata, |_, _| Ok(body))
    }

    /// Adds a regular file and writes its contents: all that `data` gives. Where its size in bytes is known, or guessed,
    /// `size_hint` helps to find space in a row for it.
    ///
    /// # Errors
    ///
    /// As [`add_dir`](Self::add_dir); besides [`Error::Contents`], [`Error::FileSize`], [`Error::NoSpace`] and [`Error::Output`].
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
        self.add(parent, name, Kind::File, metadata, |image, ino| {
            image.write_file(ino, contents, room)
        })
    }

    /// Adds a regular file of `size` bytes with data in `ranges` and holes elsewhere. `data` gives the bytes of all ranges,
    /// one behind the other. Holes take no blocks, as far as they cover whole ones.
    ///
    /// # Errors
    ///
    /// As [`add_file`](Self::add_file). [`Error::FileSize`] also where ranges overlap, are not in ascending order, or end behind `size`.
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
                name: name.to_vec(),
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
        self.add(parent, name, Kind::File, metadata, |image, ino| {
            image.write_file(ino, contents, room)
        })
    }

    /// Adds a symbolic link to `target`.
    ///
    /// # Errors
    ///
    /// As [`add_dir`](Self::add_dir); besides [`Error::Target`], [`Error::NoSpace`] and [`Error::Output`].
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
        self.add(parent, name, Kind::Symlink, metadata, |image, ino| {
            let mut block = [0; 60];
            if target.len() < block.len() {
                block[..target.len()].copy_from_slice(target);
                return Ok(Body::inline(block, target.len() as u64));
            }
            image.store(ino, target)
        })
    }

    /// Adds a device special file.
    ///
    /// # Errors
    ///
    /// As [`add_dir`](Self::add_dir); besides [`Error::DeviceNumber`].
    pub fn add_device(
        &mut self,
        parent: NodeId,
        name: &[u8],
        metadata: Metadata,
        device: Device,
    ) -> Result<NodeId, Error> {
        let (kind, major, minor) = match device {
            Device::Char { major, minor } => (Kind::CharDevice, major, minor),
            Device::Block { major, minor } => (Kind::BlockDevice, major, minor),
        };
        let body = Body::device(device).ok_or(Error::DeviceNumber { major, minor })?;
        self.add(parent, name, kind, metadata, |_, _| Ok(body))
    }

    /// Adds a named pipe.
    ///
    /// # Errors
    ///
    /// As [`add_dir`](Self::add_dir).
    pub fn add_fifo(
        &mut self,
        parent: NodeId,
        name: &[u8],
        metadata: Metadata,
    ) -> Result<NodeId, Error> {
        let body = Body::inline([0; 60], 0);
        self.add(parent, name, Kind::Fifo, metadata, |_, _| Ok(body))
    }

    /// Adds a socket's name.
    ///
    /// # Errors
    ///
    /// As [`add_dir`](Self::add_dir).
    pub fn add_socket(
        &mut self,
        parent: NodeId,
        name: &[u8],
        metadata: Metadata,
    ) -> Result<NodeId, Error> {
        let body = Body::inline([0; 60], 0);
        self.add(parent, name, Kind::Socket, metadata, |_, _| Ok(body))
    }

    /// Gives a node that is no directory another name.
    ///
    /// # Errors
    ///
    /// [`Error::LinkToDirectory`], [`Error::TooManyLinks`], and those of [`add_dir`](Self::add_dir) about the name.
    pub fn link(&mut self, parent: NodeId, name: &[u8], node: NodeId) -> Result<(), Error> {
        self.check_name(parent, name)?;
        let target = self.nodes.get_mut(node.0 as usize);
        let target = target.ok_or(Error::ForeignNode)?;
        if target.kind == Kind::Directory {
            return Err(Error::LinkToDirectory {
                name: name.to_vec(),
            });
        }
        if target.links >= EXT4_LINK_MAX {
            return Err(Error::TooManyLinks {
                name: name.to_vec(),
            });
        }
        target.links += 1;
        let parent = &mut self.nodes[parent.0 as usize];
        parent.children.insert(name.to_vec(), node);
        Ok(())
    }

    /// The directory that the last component of `path` lies in, and that component. Directories on the way that do not
    /// exist are added with `implied` as their attributes. Slashes at either end and repeated ones mean nothing.
    ///
    /// # Errors
    ///
    /// [`Error::Name`] also for a path without components or with `.` or `..` in it; [`Error::NotADirectory`]; else as
    /// [`add_dir`](Self::add_dir).
    pub fn make_parents<'p>(
        &mut self,
        path: &'p [u8],
        implied: &Metadata,
    ) -> Result<(NodeId, &'p [u8]), Error> {
        let mut components = path
            .split(|&byte| byte == b'/')
            .filter(|component| !component.is_empty())
            .peekable();
        let mut parent = NodeId::ROOT;
        while let Some(name) = components.next() {
            if components.peek().is_none() {
                return Ok((parent, name));
            }
            parent = match self.lookup(parent, name) {
                Some(node) => node,
                None => self.add_dir(parent, name, implied.clone())?,
            };
        }
        Err(Error::Name {
            name: path.to_vec(),
        })
    }

    /// Writes the tree and the filesystem's own structures, the superblock last, and gives the output back, flushed.
    ///
    /// # Errors
    ///
    /// [`Error::NoSpace`], [`Error::DirectorySize`] and [`Error::Output`].
    pub fn finish(self) -> Result<(W, Summary), Error> {
        crate::finish::finish(self)
    }

    /// Adds a node; `make` writes its body for the inode number it is given.
    fn add(
        &mut self,
        parent: NodeId,
        name: &[u8],
        kind: Kind,
        metadata: Metadata,
        make: impl FnOnce(&mut Image<W>, u32) -> Result<Body, Error>,
    ) -> Result<NodeId, Error> {
        self.check_name(parent, name)?;
        self.check_metadata(&metadata)?;
        let inodes = self.image.geometry.inodes();
        let taken =
            EXT4_GOOD_OLD_FIRST_INO - 1 + special::behind_the_tree(&self.image, &self.options);
        let id = u32::try_from(self.nodes.len())
            .ok()
            .filter(|&id| id <= inodes.saturating_sub(taken))
            .map(NodeId)
            .ok_or(Error::NoInodes { inodes })?;
        let node = Node {
            kind,
            metadata,
            project: 0,
            links: match kind {
                Kind::Directory => 2,
                _ => 1,
            },
            body: make(&mut self.image, id.ino()).inspect_err(|_| self.image.space.roll_back())?,
            parent,
            children: Children::new(),
        };
        Ok(self.attach(parent, name, node))
    }

    fn attach(&mut self, parent: NodeId, name: &[u8], node: Node) -> NodeId {
        let id = NodeId(self.nodes.len() as u32);
        let above = &mut self.nodes[parent.0 as usize];
        above.children.insert(name.to_vec(), id);
        above.links += u32::from(node.kind == Kind::Directory);
        self.nodes.push(node);
        id
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

    fn check_name(&self, parent: NodeId, name: &[u8]) -> Result<(), Error> {
        let own = || name.to_vec();
        let parent = self.nodes.get(parent.0 as usize);
        let parent = parent.ok_or(Error::ForeignNode)?;
        if parent.kind != Kind::Directory {
            return Err(Error::NotADirectory { name: own() });
        }
        let reserved = matches!(name, b"" | b"." | b"..");
        if reserved
            || name.len() > EXT4_NAME_LEN
            || name.iter().any(|byte| matches!(byte, 0 | b'/'))
        {
            return Err(Error::Name { name: own() });
        }
        if parent.children.contains_key(name) {
            return Err(Error::Exists { name: own() });
        }
        Ok(())
    }
}
