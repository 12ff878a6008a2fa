//! Filling an image from archives, directories and merged trees.

use std::io::{self, BufRead, Read, Seek, Write};

use fsmerge::{
    Content, Contents, DataId, Kind, LayerTree, Limits, Merge, Merged, ReadError, Segment, Sink,
};

use super::Builder;
use crate::chunks::ChunkSize;
use crate::error::Error;
use crate::file_data::FileData;
use crate::metadata::{DeviceNumber, Metadata, Node};
use crate::node_id::NodeId;
use crate::timestamp::Timestamp;

impl<W: Write + Seek> Builder<W> {
    /// Adds all that is in a tar archive, read once from a stream, and gives the root the
    /// attributes that the archive has for it. The archive is read as a layer of a container image
    /// with nothing below it, so whiteouts are left out; the crate [`fsmerge`] documents which
    /// formats it reads. Directories without an entry have mode 0755.
    ///
    /// Contents go to the image as they come. Those of a file that a later entry replaces stay in
    /// it as bytes that no file has. Files with holes are in chunks.
    ///
    /// ```
    /// use std::io::Cursor;
    /// use erofs_writer::{Builder, Options};
    ///
    /// # let tar = &[0; 1024][..];
    /// let mut image = Builder::with_dedupe(Cursor::new(Vec::new()), Options::default())?;
    /// image.add_tar(tar)?;
    /// image.finish()?;
    /// # Ok::<(), erofs_writer::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Archive`]; otherwise those of [`add`](Self::add), with some of the tree added.
    pub fn add_tar(&mut self, tar: impl BufRead) -> Result<(), Error> {
        let mut sink = Filling::new(self);
        let read = fsmerge::read_tar(tar, &mut sink, &Limits::default());
        let files = sink.files;
        let (layer, _) = read.map_err(|error| match error {
            ReadError::Layer(source) => archive_error(source),
            ReadError::Sink { source, .. } => source,
        })?;
        self.add_layer(&layer, &files)
    }

    /// Adds all that is in a directory of this host, and gives the root its attributes: every kind
    /// of file, hard links, extended attributes, and holes as holes. Contents are stored in the
    /// order of a sorted walk, so the same tree gives the same image.
    ///
    /// ```no_run
    /// use erofs_writer::{Builder, Options};
    ///
    /// let mut image = Builder::create("image.erofs", Options::default())?;
    /// image.add_dir_all("rootfs")?;
    /// image.finish()?;
    /// # Ok::<(), erofs_writer::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Directory`] for what cannot be read; otherwise those of [`add`](Self::add), with
    /// some of the tree added.
    #[cfg(all(feature = "dir", unix))]
    pub fn add_dir_all(&mut self, source: impl AsRef<std::path::Path>) -> Result<(), Error> {
        let root = source.as_ref();
        let mut sink = Filling::new(self);
        let read = fsmerge::read_dir(root, &mut sink, &Limits::default());
        let files = sink.files;
        let (layer, _) = read.map_err(|error| match error {
            ReadError::Layer(source) => Error::Directory {
                path: root.to_owned(),
                source: Box::new(source),
            },
            ReadError::Sink { source, .. } => source,
        })?;
        self.add_layer(&layer, &files)
    }

    /// Adds everything that is in `tree`, and gives the root its attributes. The contents of files
    /// come from `contents`: a [`ContentStore`](fsmerge::ContentStore), for example.
    ///
    /// ```
    /// use std::io::Cursor;
    /// use erofs_writer::{Builder, Options};
    /// use fsmerge::{ContentStore, Limits, Merge};
    ///
    /// # let tar = &[0; 1024][..];
    /// let limits = Limits::default();
    /// let mut contents = ContentStore::in_memory();
    /// let mut merge = Merge::new(&limits);
    /// merge.push(&contents.read_tar(tar, &limits)?.0)?;
    /// let mut image = Builder::new(Cursor::new(Vec::new()), Options::default())?;
    /// image.add_tree(&merge.finish(), &mut contents)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Contents`] where contents cannot be opened or read; otherwise those of
    /// [`add`](Self::add). Some of the tree is added then.
    pub fn add_tree(&mut self, tree: &Merged, contents: &mut impl Contents) -> Result<(), Error> {
        self.add_nodes(tree, |image, size, data| {
            let opened = contents.open(data);
            let opened = opened.map_err(|source| Error::Contents { source })?;
            let (mut at, mut data) = (0, opened.data);
            let mut segments = Vec::new();
            for range in opened.ranges {
                if at < range.start {
                    segments.push(Segment::Hole(range.start - at));
                }
                segments.push(Segment::Data(range.end - range.start));
                at = range.end;
            }
            if at < size {
                segments.push(Segment::Hole(size - at));
            }
            image.store_segments(size, segments, |out, length| copy(&mut data, length, out))
        })
    }

    fn add_layer(&mut self, layer: &LayerTree, files: &[FileData]) -> Result<(), Error> {
        let mut merge = Merge::new(&Limits::default());
        merge.push(layer).map_err(archive_error)?;
        self.add_nodes(&merge.finish(), |_, _, data| {
            Ok(files
                .get(data.0 as usize)
                .copied()
                .unwrap_or(FileData::EMPTY))
        })
    }

    /// Adds the nodes of `tree`; `file` returns the contents of a file of some bytes.
    fn add_nodes(
        &mut self,
        tree: &Merged,
        mut file: impl FnMut(&mut Self, u64, DataId) -> Result<FileData, Error>,
    ) -> Result<(), Error> {
        let mut added: Vec<Option<NodeId>> = vec![None; tree.len()];
        let root = tree.root();
        added[root.index()] = Some(self.root());
        if !matches!(tree.kind(root), Kind::Directory { implied: true, .. }) {
            self.set_metadata(self.root(), metadata(tree.metadata(root)))?;
        }
        // A directory comes before what it holds.
        for directory in tree.nodes() {
            let Some(parent) = added[directory.index()] else {
                continue;
            };
            for (name, id) in tree.children(directory) {
                if let Some(node) = added[id.index()] {
                    self.link(parent, name, node)?;
                    continue;
                }
                let node = match tree.kind(id) {
                    Kind::Directory { .. } => Node::Directory,
                    Kind::File {
                        size,
                        data: Some(data),
                    } => Node::File(file(self, size, data)?),
                    Kind::File { data: None, .. } => Node::File(FileData::EMPTY),
                    Kind::Symlink(target) => Node::Symlink(target.to_vec()),
                    Kind::CharDevice(number) => Node::CharDevice(device(number)),
                    Kind::BlockDevice(number) => Node::BlockDevice(device(number)),
                    Kind::Fifo => Node::Fifo,
                    Kind::Socket => Node::Socket,
                    // A merged tree has neither.
                    Kind::Whiteout | Kind::LowerLink(_) => continue,
                };
                let metadata = metadata(tree.metadata(id));
                added[id.index()] = Some(self.add(parent, name, metadata, node)?);
            }
        }
        Ok(())
    }

    /// Stores contents of `size` bytes in one piece, or in chunks where they have holes. `data`
    /// writes the next bytes of a segment of data.
    fn store_segments(
        &mut self,
        size: u64,
        segments: impl IntoIterator<Item = Segment>,
        mut data: impl FnMut(&mut dyn Write, u64) -> Result<(), Error>,
    ) -> Result<FileData, Error> {
        let mut segments = segments.into_iter().peekable();
        if segments.peek() == Some(&Segment::Data(size)) {
            let mut writer = self.data();
            data(&mut writer, size)?;
            return writer.finish();
        }
        let chunk_size = ChunkSize::for_length(size, self.options().block_size);
        let mut writer = self.data_in_chunks(chunk_size);
        for segment in segments {
            match segment {
                Segment::Data(length) => data(&mut writer, length)?,
                Segment::Hole(length) => writer.hole(length)?,
                _ => return Err(io::Error::from(io::ErrorKind::Unsupported).into()),
            }
        }
        writer.finish()
    }
}

/// Stores contents in the image as they come.
struct Filling<'a, W: Write + Seek> {
    image: &'a mut Builder<W>,
    /// By the ids that the tree has.
    files: Vec<FileData>,
}

impl<'a, W: Write + Seek> Filling<'a, W> {
    fn new(image: &'a mut Builder<W>) -> Self {
        Self {
            image,
            files: Vec::new(),
        }
    }
}

impl<W: Write + Seek> Sink for Filling<'_, W> {
    type Error = Error;

    fn file(&mut self, _: &[u8], content: Content<'_>) -> Result<DataId, Error> {
        let size = content.size();
        let content = std::cell::RefCell::new(content);
        let segments = std::iter::from_fn(|| content.borrow_mut().next_segment());
        let data = self.image.store_segments(size, segments, |out, length| {
            copy(&mut *content.borrow_mut(), length, out)
        })?;
        self.files.push(data);
        Ok(DataId(self.files.len() as u64 - 1))
    }
}

/// Copies `length` bytes.
fn copy(from: &mut dyn Read, length: u64, to: &mut dyn Write) -> Result<(), Error> {
    let mut buffer = vec![0; length.min(256 << 10) as usize];
    let mut left = length;
    while left > 0 {
        let most = usize::try_from(left).map_or(buffer.len(), |left| left.min(buffer.len()));
        match from.read(&mut buffer[..most]) {
            Ok(0) => {
                let source = io::ErrorKind::UnexpectedEof.into();
                return Err(Error::Contents { source });
            }
            Ok(n) => {
                to.write_all(&buffer[..n])?;
                left -= n as u64;
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(source) => return Err(Error::Contents { source }),
        }
    }
    Ok(())
}

fn archive_error(source: fsmerge::Error) -> Error {
    Error::Archive {
        source: Box::new(source),
    }
}

fn metadata(metadata: &fsmerge::Metadata) -> Metadata {
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
