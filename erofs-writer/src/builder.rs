//! The builder: takes what an image is to hold, and writes it.

use std::fmt;
use std::io::{self, Read, Seek, Write};

use xxhash_rust::xxh3::Xxh3;

use crate::check::{self, Problem, Space};
use crate::chunks::{CHUNKS_MAX, ChunkPlace};
use crate::compress::Contents;
use crate::data::{Dedupe, Tail};
use crate::format::{S_IFDIR, SUPER_OFFSET};
use crate::output::{Output, Truncate};
use crate::pipeline::Pipeline;
use crate::superblock;
use crate::tree::{Inode, ROOT, Tree};
use crate::xattr::XattrStore;
use crate::{
    Chunk, ChunkSize, ChunkWriter, DataWriter, Device, DeviceId, Error, FileData, Metadata, Node,
    NodeId, Options, Timestamp,
};

/// Writes one image to `W`.
///
/// File contents go straight to the output as they come ([`data`](Self::data)); names and attributes are kept until
/// [`finish`](Self::finish) writes them behind the contents, and the superblock last of all. What an image holds depends on
/// the contents, in the order in which they came, and on the tree, whatever the order in which that was made. Contents that are
/// [asked for later](Self::store_later) come in the tree's order.
pub struct ImageBuilder<W> {
    pub(crate) options: Options,
    pub(crate) output: Output<W>,
    pub(crate) dedupe: Option<Dedupe<W>>,
    pub(crate) deduplicated: u64,
    pub(crate) truncate: Option<Truncate<W>>,
    pub(crate) tree: Tree,
    pub(crate) xattrs: XattrStore,
    pub(crate) devices: Vec<Device>,
    /// The places of all chunks of all files.
    pub(crate) chunks: Vec<ChunkPlace>,
    /// The contents whose last, partial block is not in the output.
    pub(crate) tails: Vec<Tail>,
    /// What was given to the threads that compress.
    pub(crate) contents: Contents,
    pub(crate) pipeline: Option<Box<Pipeline>>,
    /// Where the next contents go, once there were some.
    pub(crate) data_end: Option<u64>,
    /// Has hashed the contents' digests.
    pub(crate) content: Box<Xxh3>,
}

impl<W> fmt::Debug for ImageBuilder<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ImageBuilder")
            .field("options", &self.options)
            .field("devices", &self.devices.len())
            .field("inodes", &self.tree.inodes.len())
            .finish_non_exhaustive()
    }
}

impl<W: Write + Seek> ImageBuilder<W> {
    /// A builder of an image that begins at the first byte of `out`, which should be empty. Its root is a directory with
    /// default metadata.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] where `out` does not seek; [`Error::ClusterSize`], [`Error::AlgorithmNotBuilt`], [`Error::Epoch`].
    pub fn new(out: W, options: Options) -> Result<Self, Error> {
        if let Some(Timestamp { nanos, .. }) = options.epoch
            && nanos >= 1_000_000_000
        {
            return Err(Error::Epoch(nanos));
        }
        if let Some(compression) = &options.compression {
            compression.check(options.block_size)?;
        }
        let mut root = Inode::new(S_IFDIR | Metadata::default().mode);
        root.flags.implied = true;
        Ok(Self {
            xattrs: XattrStore::new(options.xattr_prefixes.clone()),
            options,
            output: Output::new(out)?,
            dedupe: None,
            deduplicated: 0,
            truncate: None,
            tree: Tree::new(root),
            devices: Vec::new(),
            chunks: Vec::new(),
            tails: Vec::new(),
            contents: Contents::default(),
            pipeline: None,
            data_end: None,
            content: Box::new(Xxh3::new()),
        })
    }

    /// A builder that stores equal contents once. Contents whose hashes are equal are read back from `out` and compared.
    ///
    /// # Errors
    ///
    /// As for [`new`](Self::new).
    pub fn with_dedupe(out: W, options: Options) -> Result<Self, Error>
    where
        W: Read,
    {
        let mut builder = Self::new(out, options)?;
        builder.dedupe = Some(Dedupe::new(W::read_exact));
        Ok(builder)
    }

    /// Tells how to cut `W` to a length, as [`File::set_len`](std::fs::File::set_len) does.
    ///
    /// Contents that turn out to be there already, or were abandoned, are written over by what comes after. Where nothing
    /// as long does, an image whose output cannot be cut ends with zeros in their place.
    pub fn truncate_with(mut self, truncate: fn(&mut W, u64) -> io::Result<()>) -> Self {
        self.truncate = Some(truncate);
        self
    }

    /// Adds a device that files' contents can lie on. All devices come before all [`data`](Self::data).
    ///
    /// # Errors
    ///
    /// [`Error::DeviceAfterData`], [`Error::TooManyDevices`].
    pub fn add_device(&mut self, device: Device) -> Result<DeviceId, Error> {
        if self.data_end.is_some() {
            return Err(Error::DeviceAfterData);
        }
        superblock::check_devices(self.devices.len())?;
        self.devices.push(device);
        Ok(DeviceId((self.devices.len() - 1) as u16))
    }

    /// Takes the contents of a regular file, to be given to [`add`](Self::add) afterwards. They are compressed as
    /// [`Options::compression`] says.
    pub fn data(&mut self) -> DataWriter<'_, W> {
        self.data_end = Some(self.data_end());
        DataWriter::new(self, self.options.compression)
    }

    /// Takes the contents of the regular file at `path`, of `size` bytes where that is known. They are compressed as
    /// [`Options::per_file`] says, which is all that path and size are for.
    ///
    /// # Errors
    ///
    /// [`Error::ClusterSize`] and [`Error::AlgorithmNotBuilt`] where what it says cannot be done.
    pub fn data_for(&mut self, path: &[u8], size: Option<u64>) -> Result<DataWriter<'_, W>, Error> {
        let compression = match &self.options.per_file {
            Some(per_file) => per_file.choose(path, size),
            None => self.options.compression,
        };
        if let Some(compression) = &compression {
            compression.check(self.options.block_size)?;
        }
        self.data_end = Some(self.data_end());
        Ok(DataWriter::new(self, compression))
    }

    /// Takes the contents of a regular file in chunks, for one with holes, which are not compressed. Linux 5.15 and later read
    /// such files.
    pub fn data_in_chunks(&mut self, size: ChunkSize) -> ChunkWriter<'_, W> {
        self.drain_or_note();
        self.data_end = Some(self.data_end());
        ChunkWriter::new(self, size)
    }

    /// Names the contents of a regular file of `length` bytes, in chunks that lie on devices. Where `chunks` has too few
    /// for the length, the rest of the file is a hole; what is too much is not looked at.
    ///
    /// # Errors
    ///
    /// [`Error::TooManyChunks`]. Whether the chunks are within their devices is checked by [`add`](Self::add).
    pub fn chunks_on_devices(
        &mut self,
        size: ChunkSize,
        length: u64,
        chunks: impl IntoIterator<Item = Chunk>,
    ) -> Result<FileData, Error> {
        let chunk_size = size.bytes(self.options.block_size);
        let needed = length.div_ceil(chunk_size);
        if needed > CHUNKS_MAX {
            return Err(Error::TooManyChunks {
                size: length,
                chunk_size,
                limit: CHUNKS_MAX,
            });
        }
        if length == 0 {
            return Ok(FileData::EMPTY);
        }
        let first = self.chunks.len();
        self.chunks.extend(
            chunks
                .into_iter()
                .take(needed as usize)
                .map(ChunkPlace::from),
        );
        self.chunks
            .resize(first + needed as usize, ChunkPlace::HOLE);
        Ok(FileData::chunked(size, first as u64, length))
    }

    /// The root directory.
    pub fn root(&self) -> NodeId {
        NodeId(ROOT)
    }

    /// Replaces a node's attributes.
    ///
    /// # Errors
    ///
    /// [`Error::Attribute`] and [`Error::Xattr`] for what EROFS cannot hold; [`Error::UnknownNode`].
    pub fn set_metadata(&mut self, node: NodeId, meta: Metadata) -> Result<(), Error> {
        let mut inode = *self
            .tree
            .inodes
            .get(node.0 as usize)
            .ok_or(Error::UnknownNode(node.0))?;
        check::metadata(&mut inode, &meta, &mut self.xattrs)
            .map_err(|problem| problem.at(self.tree.path(node.0)))?;
        inode.flags.implied = false;
        self.tree.inodes[node.0 as usize] = inode;
        Ok(())
    }

    /// Adds a node to a directory.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidName`], [`Error::AlreadyExists`], [`Error::NotADirectory`]; [`Error::Attribute`],
    /// [`Error::SymlinkTarget`] and [`Error::Xattr`] for what EROFS cannot hold; [`Error::UnknownDevice`],
    /// [`Error::BeyondDevice`] and [`Error::ForeignData`] for contents that are not there; [`Error::TooManyNodes`].
    pub fn add(
        &mut self,
        parent: NodeId,
        name: &[u8],
        meta: Metadata,
        node: Node,
    ) -> Result<NodeId, Error> {
        self.tree.check(parent.0, name)?;
        let mut inode = Inode::new(check::kind(&node));
        check::metadata(&mut inode, &meta, &mut self.xattrs)
            .and_then(|()| self.check_node(&mut inode, &node))
            .map_err(|problem| problem.at(self.tree.path_of(parent.0, name)))?;
        if let Node::Symlink(target) = &node {
            inode.payload = self.tree.intern(target);
        }
        Ok(NodeId(self.tree.add(parent.0, name, inode)))
    }

    /// Gives a node that is not a directory one more name.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidName`], [`Error::AlreadyExists`], [`Error::NotADirectory`], [`Error::LinkToDirectory`],
    /// [`Error::UnknownNode`], [`Error::TooManyNodes`].
    pub fn link(&mut self, parent: NodeId, name: &[u8], target: NodeId) -> Result<(), Error> {
        self.tree.check(parent.0, name)?;
        match self.tree.inodes.get(target.0 as usize) {
            None => Err(Error::UnknownNode(target.0)),
            Some(inode) if inode.is_dir() => Err(Error::LinkToDirectory(self.tree.path(target.0))),
            Some(_) => {
                self.tree.link(parent.0, name, target.0);
                Ok(())
            }
        }
    }

    /// Adds a node at a path from the root; `.` and empty components count for nothing. Missing parents are made with default
    /// metadata, and take that of their own entry when it comes. So does the root.
    ///
    /// # Errors
    ///
    /// As for [`add`](Self::add).
    pub fn add_path(&mut self, path: &[u8], meta: Metadata, node: Node) -> Result<NodeId, Error> {
        let Some((parent, name)) = self.parent_of(path)? else {
            return match node {
                Node::Directory => self.set_metadata(self.root(), meta).map(|()| self.root()),
                _ => Err(Error::AlreadyExists(b"/".to_vec())),
            };
        };
        match self.tree.find(parent.0, name) {
            Some(found)
                if matches!(node, Node::Directory)
                    && self.tree.inodes[found as usize].flags.implied =>
            {
                self.set_metadata(NodeId(found), meta)?;
                Ok(NodeId(found))
            }
            _ => self.add(parent, name, meta, node),
        }
    }

    /// Gives a node one more name at a path from the root, as [`add_path`](Self::add_path) does.
    ///
    /// # Errors
    ///
    /// As for [`link`](Self::link).
    pub fn link_path(&mut self, path: &[u8], target: NodeId) -> Result<(), Error> {
        match self.parent_of(path)? {
            Some((parent, name)) => self.link(parent, name, target),
            None => Err(Error::AlreadyExists(b"/".to_vec())),
        }
    }

    /// The node at a path from the root. Symbolic links are not followed.
    pub fn lookup(&self, path: &[u8]) -> Option<NodeId> {
        components(path)
            .try_fold(ROOT, |at, name| self.tree.find(at, name))
            .map(NodeId)
    }

    /// Takes over what belongs to the type, as [`check::node`] does.
    pub(crate) fn check_node(&self, inode: &mut Inode, node: &Node) -> Result<(), Problem> {
        let space = Space {
            block_size: self.options.block_size,
            data_start: data_start(&self.options, self.devices.len()),
            data_end: self.data_end(),
            devices: &self.devices,
            chunks: &self.chunks,
            tails: &self.tails,
            contents: &self.contents,
        };
        check::node(inode, node, &space)
    }

    /// Where the next contents go, a block border.
    pub(crate) fn data_end(&self) -> u64 {
        self.data_end
            .unwrap_or_else(|| data_start(&self.options, self.devices.len()))
    }

    /// The first block of contents equal to the `size` bytes just written at `start`, which then are taken back; `None`
    /// where there are none.
    pub(crate) fn find_equal(
        &mut self,
        start: u64,
        size: u64,
        digest: u128,
    ) -> Result<Option<u64>, Error> {
        let Some(dedupe) = &mut self.dedupe else {
            return Ok(None);
        };
        let block_size = self.options.block_size;
        let position = |block| block_size.position(block);
        let block = block_size.count(start);
        let found = dedupe.find_or_add(&mut self.output, digest, size, start, block, position)?;
        if found.is_some() {
            self.output.seek(start)?;
            self.deduplicated += size;
        }
        Ok(found)
    }

    /// Keeps the partial last block of contents of `size` bytes whose whole blocks begin at `block`; gives its index.
    pub(crate) fn keep_tail(&mut self, block: u64, tail: &[u8], size: u64) -> u64 {
        let kept = self.tree.intern(tail);
        self.tails.push(Tail { block, kept, size });
        self.tails.len() as u64 - 1
    }

    /// Notes that contents were stored that end at `end`, a block border.
    pub(crate) fn stored(&mut self, end: u64, digest: u128, size: u64) {
        self.data_end = Some(end);
        self.content.update(&digest.to_le_bytes());
        self.content.update(&size.to_le_bytes());
    }

    /// Checks that contents can end at `end`.
    pub(crate) fn check_end(&self, end: u64) -> Result<(), Error> {
        let blocks = self.options.block_size.count(end);
        if blocks <= self.options.addresses.limit() {
            Ok(())
        } else {
            Err(self.too_large(blocks))
        }
    }

    pub(crate) fn too_large(&self, blocks: u64) -> Error {
        too_large(blocks, &self.options)
    }

    /// The directory a path leads to before its last component, made where it is missing; `None` for the root.
    fn parent_of<'p>(&mut self, path: &'p [u8]) -> Result<Option<(NodeId, &'p [u8])>, Error> {
        let mut at = self.root();
        let mut rest = components(path).peekable();
        while let Some(name) = rest.next() {
            if rest.peek().is_none() {
                return Ok(Some((at, name)));
            }
            at = match self.tree.find(at.0, name) {
                Some(found) => NodeId(found),
                None => {
                    let made = self.add(at, name, Metadata::default(), Node::Directory)?;
                    self.tree.inodes[made.0 as usize].flags.implied = true;
                    made
                }
            };
        }
        Ok(None)
    }
}

fn components(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.split(|&byte| byte == b'/')
        .filter(|name| !matches!(*name, b"" | b"."))
}

/// The first byte behind superblock, device table and xattr prefixes that can hold contents.
pub(crate) fn data_start(options: &Options, devices: usize) -> u64 {
    options
        .block_size
        .align(SUPER_OFFSET + superblock::length(options, devices))
}

pub(crate) fn too_large(blocks: u64, options: &Options) -> Error {
    Error::TooLarge {
        blocks,
        block_size: options.block_size.bytes(),
        limit: options.addresses.limit(),
    }
}
