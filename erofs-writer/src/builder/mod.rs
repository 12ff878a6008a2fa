//! The builder of an image.

#[cfg(feature = "tar")]
mod fill;
pub(crate) mod finish;
mod later;
mod path;

use std::fmt;
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::path::Path;

use crate::check::{self, Problem, Space};
use crate::chunks::{Chunk, ChunkSize};
use crate::content::{ChunkWriter, ContentArea, DataWriter};
use crate::device::{DeviceId, DeviceSlot};
use crate::error::Error;
use crate::file_data::FileData;
use crate::format::S_IFDIR;
use crate::metadata::{Kind, Metadata, Node};
use crate::node_id::{NodeId, Owner};
use crate::options::Options;
use crate::output::SetLen;
use crate::superblock;
use crate::timestamp::Timestamp;
use crate::tree::{Inode, ROOT, Tree};
use crate::xattr::XattrStore;

/// Writes one image to `W`.
///
/// Contents of files go to the output as they come ([`data`](Self::data)). Names and attributes are
/// kept in memory until [`finish`](Self::finish) writes them after the contents, and the superblock
/// last. The bytes of an image depend on the contents in the order in which they came, and on the
/// tree, but not on the order in which nodes were added. Contents that are [requested
/// later](Self::store_later) come in the order of the tree.
pub struct Builder<W> {
    area: ContentArea<W>,
    owner: Owner,
    tree: Tree,
    xattrs: XattrStore,
    devices: Vec<DeviceSlot>,
}

impl<W> fmt::Debug for Builder<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder")
            .field("options", self.area.options())
            .field("devices", &self.devices.len())
            .field("inodes", &self.tree.inodes.len())
            .finish_non_exhaustive()
    }
}

impl Builder<File> {
    /// Creates the file `path`, or empties it, and returns a builder that writes an image to it and
    /// stores equal contents once.
    ///
    /// ```no_run
    /// use erofs_writer::{Builder, Metadata, Node, Options};
    ///
    /// let mut image = Builder::create("image.erofs", Options::default())?;
    /// let motd = image.store(&b"hello\n"[..])?;
    /// image.add_path(b"etc/motd", Metadata::new(0o644), Node::File(motd))?;
    /// image.finish()?;
    /// # Ok::<(), erofs_writer::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Create`]; otherwise those of [`new`](Self::new).
    pub fn create(path: impl AsRef<Path>, options: Options) -> Result<Self, Error> {
        let path = path.as_ref();
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(path)
            .map_err(|source| Error::Create {
                path: path.to_owned(),
                source,
            })?;
        Self::with_dedupe(file, options)
    }
}

impl<W: Write + Seek> Builder<W> {
    /// Returns a builder of an image that begins at the first byte of `out`, which should be empty.
    /// The root is a directory of mode 0755. Equal contents are stored as often as they come: see
    /// [`create`](Builder::create) and [`with_dedupe`](Self::with_dedupe).
    ///
    /// The image is as long as what was written: it ends with zeros where the last contents were
    /// [abandoned](DataWriter).
    ///
    /// ```
    /// use std::io::Cursor;
    /// use erofs_writer::{Builder, Options};
    ///
    /// let image = Builder::new(Cursor::new(Vec::new()), Options::default())?;
    /// let (out, summary) = image.finish()?;
    /// assert_eq!(out.into_inner().len() as u64, summary.bytes);
    /// # Ok::<(), erofs_writer::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Output`] where `out` does not seek; [`Error::ClusterSize`],
    /// [`Error::AlgorithmNotBuilt`], [`Error::Epoch`].
    pub fn new(out: W, options: Options) -> Result<Self, Error> {
        if let Some(Timestamp { nanos, .. }) = options.epoch
            && nanos >= 1_000_000_000
        {
            return Err(Error::Epoch(nanos));
        }
        if let Some(compression) = &options.compression {
            compression.check(options.block_size)?;
        }
        let mut root = Inode::new(S_IFDIR | 0o755);
        root.flags.implied = true;
        let start = superblock::data_start(&options, 0);
        Ok(Self {
            xattrs: XattrStore::new(options.xattr_prefixes.clone()),
            area: ContentArea::new(out, options, start)?,
            owner: Owner::new(),
            tree: Tree::new(root),
            devices: Vec::new(),
        })
    }

    /// Returns a builder that stores equal contents once. Contents whose hashes are equal are read
    /// back from `out` and compared; `out` is cut where contents that were written last are found
    /// elsewhere.
    ///
    /// ```
    /// use std::io::Cursor;
    /// use erofs_writer::{Builder, Options};
    ///
    /// let mut image = Builder::with_dedupe(Cursor::new(Vec::new()), Options::default())?;
    /// let (a, b) = (image.store(&b"equal"[..])?, image.store(&b"equal"[..])?);
    /// assert_eq!(a, b);
    /// # Ok::<(), erofs_writer::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::NotReadable`] where `out` cannot be read, as a file of [`File::create`]; otherwise
    /// those of [`new`](Self::new).
    pub fn with_dedupe(out: W, options: Options) -> Result<Self, Error>
    where
        W: Read + SetLen,
    {
        let mut builder = Self::new(out, options)?;
        builder
            .area
            .find_equal_contents()
            .map_err(|source| Error::NotReadable { source })?;
        Ok(builder)
    }

    /// Returns the options of the image.
    pub fn options(&self) -> &Options {
        self.area.options()
    }

    /// Adds a device that files' contents can lie on. All devices come before all
    /// [`data`](Self::data).
    ///
    /// ```
    /// # use std::io::Cursor;
    /// use erofs_writer::{Builder, DeviceSlot, FileData, Metadata, Node, Options};
    ///
    /// let mut image = Builder::new(Cursor::new(Vec::new()), Options::default())?;
    /// let layer = image.add_device(DeviceSlot::new([b'0'; 64], 2048))?;
    /// let data = FileData::on_device(layer, 3, 70_000);
    /// image.add_path(b"etc/services", Metadata::new(0o644), Node::File(data))?;
    /// # Ok::<(), erofs_writer::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::DeviceAfterData`], [`Error::TooManyDevices`].
    pub fn add_device(&mut self, device: DeviceSlot) -> Result<DeviceId, Error> {
        if self.area.has_begun() {
            return Err(Error::DeviceAfterData);
        }
        superblock::check_devices(self.devices.len())?;
        self.devices.push(device);
        let start = superblock::data_start(self.options(), self.devices.len());
        self.area.set_start(start);
        Ok(DeviceId((self.devices.len() - 1) as u16))
    }

    /// Stores all bytes that `contents` returns as the contents of a regular file. The result is
    /// for [`Node::File`].
    ///
    /// ```
    /// # use std::io::Cursor;
    /// use erofs_writer::{Builder, Metadata, Node, Options};
    ///
    /// let mut image = Builder::new(Cursor::new(Vec::new()), Options::default())?;
    /// let motd = image.store(&b"hello\n"[..])?;
    /// image.add_path(b"etc/motd", Metadata::new(0o644), Node::File(motd))?;
    /// # Ok::<(), erofs_writer::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Contents`] where reading fails; otherwise those of [`DataWriter::finish`].
    pub fn store(&mut self, mut contents: impl Read) -> Result<FileData, Error> {
        let mut data = self.data();
        let mut buffer = vec![0; 64 << 10];
        loop {
            match contents.read(&mut buffer) {
                Ok(0) => return data.finish(),
                Ok(n) => data.write_all(&buffer[..n])?,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => return Err(Error::Contents { source }),
            }
        }
    }

    /// Returns a writer of the contents of a regular file, whose result is for [`Node::File`]. They
    /// are compressed according to [`Options::compression`].
    ///
    /// ```
    /// use std::io::Write;
    /// # use std::io::Cursor;
    /// use erofs_writer::{Builder, Metadata, Node, Options};
    ///
    /// let mut image = Builder::new(Cursor::new(Vec::new()), Options::default())?;
    /// let mut data = image.data();
    /// data.write_all(b"hello\n")?;
    /// let motd = data.finish()?;
    /// image.add_path(b"etc/motd", Metadata::new(0o644), Node::File(motd))?;
    /// # Ok::<(), erofs_writer::Error>(())
    /// ```
    pub fn data(&mut self) -> DataWriter<'_, W> {
        self.area.begin();
        let compression = self.options().compression;
        DataWriter::new(&mut self.area, compression)
    }

    /// Returns a writer of the contents of the regular file at `path`, of `size` bytes if that is
    /// known. They are compressed according to [`Options::per_file`]; path and size have no other
    /// use.
    ///
    /// ```
    /// use std::io::{Cursor, Write};
    /// use erofs_writer::{Builder, Metadata, Node, Options};
    ///
    /// let mut image = Builder::new(Cursor::new(Vec::new()), Options::default())?;
    /// let mut data = image.data_for(b"etc/motd", Some(6))?;
    /// data.write_all(b"hello\n")?;
    /// let motd = Node::File(data.finish()?);
    /// image.add_path(b"etc/motd", Metadata::new(0o644), motd)?;
    /// # Ok::<(), erofs_writer::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::ClusterSize`] and [`Error::AlgorithmNotBuilt`] where that chooses a compression
    /// that is not possible.
    pub fn data_for(&mut self, path: &[u8], size: Option<u64>) -> Result<DataWriter<'_, W>, Error> {
        let compression = match &self.options().per_file {
            Some(per_file) => per_file.choose(path, size),
            None => self.options().compression,
        };
        if let Some(compression) = &compression {
            compression.check(self.options().block_size)?;
        }
        self.area.begin();
        Ok(DataWriter::new(&mut self.area, compression))
    }

    /// Returns a writer of the contents of a regular file in chunks, for a file with holes. They
    /// are not compressed. Linux 5.15 and later read such files.
    ///
    /// ```
    /// use std::io::{Cursor, Write};
    /// use erofs_writer::{Builder, ChunkSize, Options};
    ///
    /// let mut image = Builder::new(Cursor::new(Vec::new()), Options::default())?;
    /// let mut data = image.data_in_chunks(ChunkSize::from_block_bits(3)?);
    /// data.write_all(b"begins")?;
    /// data.hole(1 << 30)?;
    /// let data = data.finish()?;
    /// assert_eq!(data.size(), 6 + (1 << 30));
    /// # Ok::<(), erofs_writer::Error>(())
    /// ```
    pub fn data_in_chunks(&mut self, size: ChunkSize) -> ChunkWriter<'_, W> {
        self.area.drain_or_keep_error();
        self.area.begin();
        ChunkWriter::new(&mut self.area, size)
    }

    /// Returns the contents of a regular file of `length` bytes, in chunks that lie on devices.
    /// Where `chunks` has too few for the length, the rest of the file is a hole; surplus chunks
    /// are ignored.
    ///
    /// ```
    /// # use std::io::Cursor;
    /// use erofs_writer::{Builder, Chunk, ChunkSize, DeviceSlot, Metadata, Node, Options};
    ///
    /// let mut image = Builder::new(Cursor::new(Vec::new()), Options::default())?;
    /// let layer = image.add_device(DeviceSlot::new([b'0'; 64], 2048))?;
    /// let size = ChunkSize::from_block_bits(3)?;
    /// let chunks = [Chunk::OnDevice { device: layer, block: 64 }, Chunk::Hole];
    /// let data = image.chunks_on_devices(size, 8000, chunks)?;
    /// image.add_path(b"disk.img", Metadata::new(0o600), Node::File(data))?;
    /// # Ok::<(), erofs_writer::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::TooManyChunks`]. Whether the chunks are within their devices is checked by
    /// [`add`](Self::add).
    pub fn chunks_on_devices(
        &mut self,
        size: ChunkSize,
        length: u64,
        chunks: impl IntoIterator<Item = Chunk>,
    ) -> Result<FileData, Error> {
        self.area.chunks_on_devices(size, length, chunks)
    }

    /// Returns the root directory.
    ///
    /// ```
    /// # use std::io::Cursor;
    /// use erofs_writer::{Builder, Metadata, Node, Options};
    ///
    /// let mut image = Builder::new(Cursor::new(Vec::new()), Options::default())?;
    /// let root = image.root();
    /// image.add(root, b"tmp", Metadata::new(0o1777), Node::Directory)?;
    /// # Ok::<(), erofs_writer::Error>(())
    /// ```
    pub fn root(&self) -> NodeId {
        self.owner.node(ROOT)
    }

    /// Replaces the attributes of a node.
    ///
    /// ```
    /// # use std::io::Cursor;
    /// use erofs_writer::{Builder, Metadata, Options};
    ///
    /// let mut image = Builder::new(Cursor::new(Vec::new()), Options::default())?;
    /// let root = image.root();
    /// image.set_metadata(root, Metadata::new(0o700).owner(1000, 100))?;
    /// # Ok::<(), erofs_writer::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Attribute`] and [`Error::Xattr`] for what EROFS cannot hold;
    /// [`Error::ForeignNode`].
    pub fn set_metadata(&mut self, node: NodeId, metadata: Metadata) -> Result<(), Error> {
        let index = self.index(node)?;
        let mut inode = self.tree.inodes[index as usize];
        check::metadata(&mut inode, &metadata, &mut self.xattrs)
            .map_err(|problem| problem.at(self.tree.path(index)))?;
        inode.flags.implied = false;
        self.tree.inodes[index as usize] = inode;
        Ok(())
    }

    /// Adds a node to a directory.
    ///
    /// ```
    /// # use std::io::Cursor;
    /// use erofs_writer::{Builder, Metadata, Node, Options};
    ///
    /// let mut image = Builder::new(Cursor::new(Vec::new()), Options::default())?;
    /// let etc = image.add(image.root(), b"etc", Metadata::new(0o755), Node::Directory)?;
    /// image.add(etc, b"mtab", Metadata::new(0o777), Node::Symlink(b"/proc/mounts".to_vec()))?;
    /// # Ok::<(), erofs_writer::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::InvalidName`], [`Error::AlreadyExists`], [`Error::NotADirectory`],
    /// [`Error::ForeignNode`]; [`Error::Attribute`], [`Error::SymlinkTarget`] and [`Error::Xattr`]
    /// for what EROFS cannot hold; [`Error::UnknownDevice`], [`Error::BeyondDevice`] and
    /// [`Error::ForeignData`] for contents that are not there; [`Error::TooManyNodes`].
    pub fn add(
        &mut self,
        parent: NodeId,
        name: &[u8],
        metadata: Metadata,
        node: Node,
    ) -> Result<NodeId, Error> {
        let parent = self.owner.index(parent)?;
        self.tree.check(parent, name)?;
        let inode = self.inode(parent, name, &metadata, &node)?;
        Ok(self.owner.node(self.tree.add(parent, name, inode)))
    }

    /// Adds a further name of a node that is not a directory.
    ///
    /// ```
    /// # use std::io::Cursor;
    /// use erofs_writer::{Builder, Metadata, Node, Options};
    ///
    /// let mut image = Builder::new(Cursor::new(Vec::new()), Options::default())?;
    /// let root = image.root();
    /// let node = image.add(root, b"a", Metadata::new(0o644), Node::Fifo)?;
    /// image.link(root, b"b", node)?;
    /// # Ok::<(), erofs_writer::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::InvalidName`], [`Error::AlreadyExists`], [`Error::NotADirectory`],
    /// [`Error::LinkToDirectory`], [`Error::ForeignNode`], [`Error::TooManyNodes`].
    pub fn link(&mut self, parent: NodeId, name: &[u8], target: NodeId) -> Result<(), Error> {
        let parent = self.owner.index(parent)?;
        self.tree.check(parent, name)?;
        let target = self.index(target)?;
        if self.tree.inodes[target as usize].is_dir() {
            return Err(Error::LinkToDirectory {
                path: self.tree.path(target).into(),
            });
        }
        self.tree.link(parent, name, target);
        Ok(())
    }

    /// Returns the type of a node, or `None` for a node of another builder and for one that was
    /// removed.
    ///
    /// ```
    /// # use std::io::Cursor;
    /// use erofs_writer::{Builder, Kind, Options};
    ///
    /// let mut image = Builder::new(Cursor::new(Vec::new()), Options::default())?;
    /// assert_eq!(image.kind(image.root()), Some(Kind::Directory));
    /// # Ok::<(), erofs_writer::Error>(())
    /// ```
    pub fn kind(&self, node: NodeId) -> Option<Kind> {
        let index = self.index(node).ok()?;
        Some(check::kind(&self.tree.inodes[index as usize]))
    }

    /// Returns the node called `name` in a directory.
    ///
    /// ```
    /// # use std::io::Cursor;
    /// use erofs_writer::{Builder, Metadata, Node, Options};
    ///
    /// let mut image = Builder::new(Cursor::new(Vec::new()), Options::default())?;
    /// let root = image.root();
    /// let tmp = image.add(root, b"tmp", Metadata::new(0o1777), Node::Directory)?;
    /// assert_eq!(image.child(root, b"tmp"), Some(tmp));
    /// # Ok::<(), erofs_writer::Error>(())
    /// ```
    pub fn child(&self, parent: NodeId, name: &[u8]) -> Option<NodeId> {
        let parent = self.index(parent).ok()?;
        Some(self.owner.node(self.tree.find(parent, name)?))
    }

    /// Checks attributes and type of a node to be called `name` in `parent`.
    pub(crate) fn inode(
        &mut self,
        parent: u32,
        name: &[u8],
        metadata: &Metadata,
        node: &Node,
    ) -> Result<Inode, Error> {
        let mut inode = Inode::new(check::type_bits(node));
        check::metadata(&mut inode, metadata, &mut self.xattrs)
            .and_then(|()| self.check_node(&mut inode, node))
            .map_err(|problem| problem.at(self.tree.path_of(parent, name)))?;
        if let Node::Symlink(target) = node {
            inode.payload = self.tree.intern(target);
        }
        Ok(inode)
    }

    /// Returns the handle of the node at `index`.
    pub(crate) fn node(&self, index: u32) -> NodeId {
        self.owner.node(index)
    }

    /// Returns the index of a node that is in the image.
    fn index(&self, node: NodeId) -> Result<u32, Error> {
        let index = self.owner.index(node)?;
        match self.tree.inodes[index as usize].nlink {
            0 => Err(Error::ForeignNode),
            _ => Ok(index),
        }
    }

    /// Sets the fields that depend on the type, as [`check::node`] does.
    pub(crate) fn check_node(&self, inode: &mut Inode, node: &Node) -> Result<(), Problem> {
        let space = Space {
            block_size: self.options().block_size,
            data_start: self.area.start(),
            data_end: self.area.data_end(),
            devices: &self.devices,
            chunks: self.area.chunks(),
            tails: self.area.tails(),
            contents: self.area.contents(),
        };
        check::node(inode, node, &space)
    }
}
