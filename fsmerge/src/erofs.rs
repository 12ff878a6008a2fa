//! A layer from an EROFS image with overlayfs's whiteouts and marks.

use crate::error::{Error, Problem, ReadError};
use crate::layer::{BuilderNodeId, LayerBuilder, LayerTree};
use crate::limits::Limits;
use crate::metadata::{DeviceNumber, Metadata};
use crate::overlay;
use crate::progress::Meter;
use crate::stored::Stored;
use crate::tar::{Content, Sink, Stats};
use crate::timestamp::Timestamp;
use crate::tree::{DataId, Kind};
use erofs_reader::{Buffered, Extent, FileType, Image, Inode, Nid, ReadAt, Source};
use std::collections::HashMap;

/// Reads the tree of a layer image. `file` is asked where the contents of each regular file that is
/// not empty are, once however many names it has: it gets the path, the inode and where in the
/// image they lie.
///
/// ```no_run
/// use std::convert::Infallible;
/// use erofs_reader::{Buffered, Image};
/// use fsmerge::{DataId, Limits, read_erofs};
///
/// let image = Image::open(Buffered::new(std::fs::File::open("layer.erofs")?))?;
/// let mut extents = Vec::new();
/// let layer = read_erofs(
///     &image,
///     |_, _, of_file| {
///         extents.push(of_file);
///         Ok::<_, Infallible>(Some(DataId(extents.len() as u64 - 1)))
///     },
///     &Limits::default(),
/// )?;
/// println!("{} names", layer.names());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
///
/// [`ReadError::Layer`] where the image is damaged, an inode carries a mark that
/// [`overlay::decode`] does not know, or a limit is passed; [`ReadError::Sink`] where `file`
/// failed.
pub fn read_erofs<R: ReadAt, E>(
    image: &Image<R>,
    file: impl FnMut(&[u8], &Inode, Vec<Extent>) -> Result<Option<DataId>, E>,
    limits: &Limits,
) -> Result<LayerTree, ReadError<E>> {
    /// A function that is asked for the contents of each file.
    struct Closure<F>(F);
    impl<E, F> Files<E> for Closure<F>
    where
        F: FnMut(&[u8], &Inode, Vec<Extent>) -> Result<Option<DataId>, E>,
    {
        fn file(
            &mut self,
            path: &[u8],
            inode: &Inode,
            extents: Vec<Extent>,
        ) -> Result<Option<DataId>, E> {
            (self.0)(path, inode, extents)
        }

        fn entry(&mut self) {}
    }
    read(image, &mut Closure(file), limits)
}

/// Receives the files of an image.
trait Files<E> {
    /// Returns the id of a file's contents.
    fn file(
        &mut self,
        path: &[u8],
        inode: &Inode,
        extents: Vec<Extent>,
    ) -> Result<Option<DataId>, E>;

    /// Is called after each name.
    fn entry(&mut self);
}

fn read<R: ReadAt, E>(
    image: &Image<R>,
    files: &mut impl Files<E>,
    limits: &Limits,
) -> Result<LayerTree, ReadError<E>> {
    let mut layer = LayerBuilder::new(limits);
    let root = image.root().map_err(damaged(b""))?;
    let of_root = attributes(image, &root, b"")?;
    let decoded = overlay::decode(&of_root, directory()).map_err(refused(b""))?;
    if let (attributes, Kind::Directory { opaque, implied }) = decoded {
        layer.set_root(attributes, opaque, implied);
    }
    // The nodes that may get further names.
    let mut links: HashMap<Nid, BuilderNodeId> = HashMap::new();
    let mut pending = vec![(root, Vec::new(), layer.root())];
    while let Some((inode, path, parent)) = pending.pop() {
        for entry in image.read_dir(&inode).map_err(damaged(&path))? {
            let entry = entry.map_err(damaged(&path))?;
            let separator: &[u8] = if path.is_empty() { b"" } else { b"/" };
            let path = [&path, separator, &entry.name].concat();
            if let Some(&node) = links.get(&entry.nid) {
                layer.link(parent, &entry.name, node)?;
                files.entry();
                continue;
            }
            let inode = image.inode(entry.nid).map_err(damaged(&path))?;
            let (major, minor) = inode.rdev().into();
            let target;
            let kind = match inode.file_type() {
                FileType::Directory => directory(),
                FileType::Regular => Kind::File {
                    size: inode.size(),
                    data: match inode.size() {
                        0 => None,
                        _ => {
                            let extents = image.extents(&inode).map_err(damaged(&path))?;
                            let file = files.file(&path, &inode, extents);
                            file.map_err(|source| ReadError::Sink {
                                path: path.clone().into(),
                                source,
                            })?
                        }
                    },
                },
                FileType::Symlink => {
                    target = image.read_link(&inode).map_err(damaged(&path))?;
                    Kind::Symlink(&target)
                }
                FileType::CharDevice => Kind::CharDevice(DeviceNumber { major, minor }),
                FileType::BlockDevice => Kind::BlockDevice(DeviceNumber { major, minor }),
                FileType::Fifo => Kind::Fifo,
                FileType::Socket => Kind::Socket,
            };
            let attributes = attributes(image, &inode, &path)?;
            let (attributes, kind) = overlay::decode(&attributes, kind).map_err(refused(&path))?;
            let node = layer.add(parent, &entry.name, attributes, kind)?;
            if inode.is_dir() {
                pending.push((inode, path, node));
            } else if inode.nlink() > 1 {
                links.insert(entry.nid, node);
            }
            files.entry();
        }
    }
    Ok(layer.finish())
}

fn directory() -> Kind<'static> {
    Kind::Directory {
        opaque: false,
        implied: false,
    }
}

fn attributes<R: ReadAt>(image: &Image<R>, inode: &Inode, path: &[u8]) -> Result<Metadata, Error> {
    let (secs, nanos) = inode.mtime().into();
    let xattrs = image.xattrs(inode).map_err(damaged(path))?;
    Ok(Metadata {
        mode: inode.mode(),
        uid: inode.uid(),
        gid: inode.gid(),
        mtime: Timestamp { secs, nanos },
        xattrs: xattrs.into_iter().collect(),
    })
}

fn damaged(path: &[u8]) -> impl FnOnce(erofs_reader::Error) -> Error {
    |source| Error::Image {
        path: path.into(),
        source,
    }
}

fn refused(path: &[u8]) -> impl FnOnce(Problem) -> Error {
    |problem| Error::Node {
        path: path.into(),
        problem,
    }
}

/// Why contents could not be passed to a sink.
enum Stop<E> {
    Image(Error),
    Sink(E),
}

/// Passes contents to a sink.
struct SinkFiles<'a, R, S> {
    image: &'a Image<R>,
    sink: &'a mut S,
    stats: Stats,
    meter: Meter,
    /// Bytes of the contents that belong to the current name.
    bytes: u64,
}

impl<R: ReadAt, S: Sink> Files<Stop<S::Error>> for SinkFiles<'_, R, S> {
    fn file(
        &mut self,
        path: &[u8],
        inode: &Inode,
        extents: Vec<Extent>,
    ) -> Result<Option<DataId>, Stop<S::Error>> {
        let ranges = ranges(&extents);
        let contents = self
            .image
            .file(inode)
            .map_err(|source| Stop::Image(damaged(path)(source)))?;
        let stored = Stored::new(&ranges, |buffer, at| Ok(contents.read_at(buffer, at)?));
        let mut stored = stored.buffered(inode.size());
        let content = Content::new(inode.size(), &ranges, &mut stored);
        let data = self.sink.file(path, content);
        let stored = stored.into_inner();
        // The sink's error does not contain the cause of a failed read, so it is taken from the
        // image.
        if let Some(source) = stored.failure {
            let path = path.to_vec();
            return Err(Stop::Image(Error::Read {
                path: path.into(),
                source,
            }));
        }
        self.bytes = inode.size();
        self.stats.files += 1;
        self.stats.content_bytes = self.stats.content_bytes.saturating_add(self.bytes);
        data.map(Some).map_err(Stop::Sink)
    }

    fn entry(&mut self) {
        self.stats.entries += 1;
        if let Some(new) = self.meter.entry(std::mem::take(&mut self.bytes)) {
            self.sink.progress(new);
        }
    }
}

/// Reads the tree of a layer image, and the contents of its files through it.
pub(crate) fn read_with_contents<S: Sink>(
    image: impl ReadAt,
    sink: &mut S,
    limits: &Limits,
) -> Result<(LayerTree, Stats), ReadError<S::Error>> {
    let image = Image::open(Buffered::new(image)).map_err(damaged(b""))?;
    let mut files = SinkFiles {
        image: &image,
        sink,
        stats: Stats::default(),
        meter: Meter::default(),
        bytes: 0,
    };
    let layer = read(&image, &mut files, limits).map_err(|error| match error {
        ReadError::Layer(error)
        | ReadError::Sink {
            source: Stop::Image(error),
            ..
        } => ReadError::Layer(error),
        ReadError::Sink {
            path,
            source: Stop::Sink(source),
        } => ReadError::Sink { path, source },
    })?;
    let SinkFiles {
        sink,
        stats,
        mut meter,
        ..
    } = files;
    sink.progress(meter.rest());
    Ok((layer, stats))
}

/// Where a file has data, as offsets and lengths.
fn ranges(extents: &[Extent]) -> Vec<(u64, u64)> {
    let mut ranges: Vec<(u64, u64)> = Vec::new();
    for extent in extents {
        if extent.source == Source::Hole || extent.length == 0 {
            continue;
        }
        match ranges.last_mut() {
            Some((start, len)) if *start + *len == extent.logical => *len += extent.length,
            _ => ranges.push((extent.logical, extent.length)),
        }
    }
    ranges
}
