//! A stack of layers as one self-contained image.
//!
//! ```no_run
//! use std::fs::File;
//! use std::path::Path;
//!
//! use blockbox_convert::layer::BuildOptions;
//! use blockbox_convert::squash::{self, Layer};
//!
//! let layers = [
//!     Layer::open(Path::new("base.erofs"))?,
//!     Layer::open(Path::new("packages.tar.gz"))?,
//!     Layer::open(Path::new("./configuration"))?,
//! ];
//! let path = Path::new("whole.erofs");
//! let out = File::options().read(true).write(true).create(true).truncate(true).open(path)?;
//! squash::write(&layers, &out, BuildOptions::default(), path)?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::convert::Infallible;
use std::fmt;
use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::{Path, PathBuf};

use erofs_reader::Nid;
use erofs_writer::FileData;
use fsmerge::{Content, DataId, Kind, Limits, Merge, Merged, ReadError, Sink, Stats};

use crate::error::{Error, Result};
use crate::layer::{self, BuildOptions, Contents, Form, Output, Summary};
use crate::reader::{self, Reader};
use crate::{folder, rebuild};

/// The source of a layer.
#[non_exhaustive]
pub enum Layer {
    /// An OCI layer's tar, which may be compressed with gzip or zstd. It is read twice.
    Tar(PathBuf),
    /// A folder of this host.
    Folder(PathBuf),
    /// An EROFS image of any writer, with overlayfs's whiteouts and marks.
    Image {
        /// Its path.
        path: PathBuf,
        /// Its reader.
        image: Box<Reader>,
    },
}

impl Layer {
    /// Opens the layer at `path`: a folder, an EROFS image, a disk's VMDK, or else a tar.
    ///
    /// # Errors
    ///
    /// If it cannot be read, or has an image's magic number and is not a valid image.
    pub fn open(path: &Path) -> Result<Self> {
        if fs::metadata(path).map_err(Error::io(path))?.is_dir() {
            return Ok(Self::Folder(path.to_owned()));
        }
        if reader::is_vmdk(path) || has_magic(path).map_err(Error::io(path))? {
            return Self::image(path, &[]);
        }
        Ok(Self::Tar(path.to_owned()))
    }

    /// Opens the image at `path`, which may have devices: see [`reader::open`].
    ///
    /// # Errors
    ///
    /// As for [`reader::open`].
    pub fn image(path: &Path, devices: &[PathBuf]) -> Result<Self> {
        Ok(Self::Image {
            image: Box::new(reader::open(path, devices)?),
            path: path.to_owned(),
        })
    }

    /// Returns the layer's path.
    pub fn path(&self) -> &Path {
        match self {
            Self::Tar(path) | Self::Folder(path) | Self::Image { path, .. } => path,
        }
    }
}

impl fmt::Debug for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self {
            Self::Tar(_) => "Tar",
            Self::Folder(_) => "Folder",
            Self::Image { .. } => "Image",
        };
        f.debug_tuple(name).field(&self.path()).finish()
    }
}

/// Returns whether a file has `EROFS_SUPER_MAGIC_V1` at the offset of a superblock.
fn has_magic(path: &Path) -> std::io::Result<bool> {
    const OFFSET: u64 = 1024;
    const MAGIC: [u8; 4] = 0xe0f5_e1e2_u32.to_le_bytes();
    let mut file = File::open(path)?;
    let mut found = Vec::new();
    file.seek(SeekFrom::Start(OFFSET))?;
    file.take(4).read_to_end(&mut found)?;
    Ok(found == MAGIC)
}

/// Merges `layers`, lowest first, to a self-contained image in `out`, which will be at `path`: the
/// tree that a container sees. Only visible contents are copied, equal ones once.
///
/// Escaped extended attributes (`trusted.overlay.overlay.X`) are copied unchanged, so that the
/// image can be the lower layer of an overlay, like the merged metadata of
/// [`stack::write`](crate::stack::write).
///
/// # Errors
///
/// If a layer is invalid, or does not fit those below it; [`Error::Changed`] if a layer changed
/// before its contents were copied; [`Error::Write`].
pub fn write(
    layers: &[Layer],
    out: &File,
    options: impl Into<BuildOptions>,
    path: &Path,
) -> Result<(Merged, Summary)> {
    write_to(layers, Output::new(out), &options.into(), path)
}

/// As [`write`](write()), to any output.
pub(crate) fn write_to(
    layers: &[Layer],
    out: Output<'_>,
    options: &BuildOptions,
    path: &Path,
) -> Result<(Merged, Summary)> {
    let failed = |source| Error::Write {
        path: path.to_owned(),
        source,
    };
    let mut merge = Merge::new(&Limits::default());
    let mut surveys = Vec::new();
    let mut warnings = Vec::new();
    let mut end = 0;
    for layer in layers {
        let (survey, tree) = Survey::of(layer, end, &mut warnings)?;
        end = survey.ids.end;
        surveys.push(survey);
        let merged = merge.push(&tree);
        merged.map_err(|source| Error::Merge(Box::new(source)))?;
    }
    let merged = merge.finish();

    let mut wanted = vec![false; end];
    for node in merged.nodes() {
        if let Kind::File {
            data: Some(DataId(id)),
            ..
        } = merged.kind(node)
        {
            wanted[id as usize] = true;
        }
    }
    let mut copy = Copy {
        contents: Contents::of(out, options).map_err(failed)?,
        wanted,
        path,
    };
    copy.contents.files = vec![FileData::EMPTY; end];
    for survey in &surveys {
        copy.layer(survey)?;
    }
    let Contents {
        mut image, files, ..
    } = copy.contents;
    let find = |DataId(id): DataId| files[id as usize];
    layer::emit(&merged, find, &mut image, Form::Merged, options.times).map_err(failed)?;
    let (_, summary) = image.finish().map_err(failed)?;
    let summary = Summary {
        image: summary,
        warnings,
    };
    Ok((merged, summary))
}

/// A layer that is read sequentially.
#[derive(Clone, Copy)]
enum Stream<'a> {
    Tar(&'a Path),
    Folder(&'a Path),
}

impl Stream<'_> {
    fn path(&self) -> &Path {
        match self {
            Self::Tar(path) | Self::Folder(path) => path,
        }
    }

    /// Passes the contents of each file to `sink`, always in the same order.
    fn read<S: Sink>(
        &self,
        sink: &mut S,
        failed: impl FnOnce(S::Error) -> Error,
    ) -> Result<(fsmerge::LayerTree, Stats)> {
        let path = match *self {
            Self::Folder(root) => return folder::read(root, sink, |_, error| failed(error)),
            Self::Tar(path) => path,
        };
        let mut tar = ocipull::decompress(File::open(path).map_err(Error::io(path))?)?;
        let read = fsmerge::read_tar(&mut tar, sink, &Limits::default());
        let read = read.map_err(|error| match error {
            ReadError::Sink { source, .. } => failed(source),
            ReadError::Layer(source) => Error::layer(&path.display().to_string(), source),
        })?;
        tar.finish()?;
        Ok(read)
    }
}

/// The contents of a layer.
struct Survey<'a> {
    /// Their ids, in the order in which they are read.
    ids: Range<usize>,
    files: Files<'a>,
}

/// How to read the contents in the second pass.
enum Files<'a> {
    /// By inode.
    OfImage {
        path: &'a Path,
        image: &'a Reader,
        nids: Vec<Nid>,
    },
    /// By reading the layer again; each file is identified by a hash of its path and length.
    Streamed {
        stream: Stream<'a>,
        hashes: Vec<u64>,
    },
}

impl<'a> Survey<'a> {
    /// Reads a layer's tree; its contents get ids from `first` on.
    fn of(
        layer: &'a Layer,
        first: usize,
        warnings: &mut Vec<String>,
    ) -> Result<(Self, fsmerge::LayerTree)> {
        let stream = match layer {
            Layer::Tar(path) => Stream::Tar(path),
            Layer::Folder(path) => Stream::Folder(path),
            Layer::Image { path, image } => {
                let mut nids = Vec::new();
                let tree = layer::tree(image, path, |_, inode, _| {
                    nids.push(inode.nid());
                    Ok(Some(DataId((first + nids.len() - 1) as u64)))
                })?;
                let survey = Self {
                    ids: first..first + nids.len(),
                    files: Files::OfImage { path, image, nids },
                };
                return Ok((survey, tree));
            }
        };
        let mut first_pass = FirstPass {
            first,
            hashes: Vec::new(),
        };
        let (tree, stats) = stream.read(&mut first_pass, |never| match never {})?;
        let said = layer::warnings(&stats).into_iter();
        let name = stream.path().display();
        warnings.extend(said.map(|warning| format!("{name}: {warning}")));
        let hashes = first_pass.hashes;
        let survey = Self {
            ids: first..first + hashes.len(),
            files: Files::Streamed { stream, hashes },
        };
        Ok((survey, tree))
    }
}

/// Returns the hash that identifies a file in the second pass.
fn hash(path: &[u8], size: u64) -> u64 {
    let mut hasher = DefaultHasher::new();
    (path, size).hash(&mut hasher);
    hasher.finish()
}

/// Skips all contents, and records their hashes.
struct FirstPass {
    first: usize,
    hashes: Vec<u64>,
}

impl Sink for FirstPass {
    type Error = Infallible;

    fn file(&mut self, path: &[u8], content: Content<'_>) -> Result<DataId, Infallible> {
        self.hashes.push(hash(path, content.size()));
        Ok(DataId((self.first + self.hashes.len() - 1) as u64))
    }
}

/// Copies the visible contents.
struct Copy<'a> {
    contents: Contents<Output<'a>>,
    /// Whether the contents with an id are visible.
    wanted: Vec<bool>,
    /// The path of the image.
    path: &'a Path,
}

impl Copy<'_> {
    fn layer(&mut self, survey: &Survey<'_>) -> Result<()> {
        let ids = survey.ids.clone();
        if !self.wanted[ids.clone()].contains(&true) {
            return Ok(());
        }
        match &survey.files {
            Files::OfImage { path, image, nids } => {
                for (id, &nid) in ids.zip(nids) {
                    if !self.wanted[id] {
                        continue;
                    }
                    let inode = image.inode(nid).map_err(|source| Error::Read {
                        path: path.to_path_buf(),
                        source,
                    })?;
                    let contents = &mut self.contents;
                    let data = rebuild::copy_file(image, &inode, contents, path, self.path)?;
                    contents.files[id] = data;
                }
            }
            Files::Streamed { stream, hashes } => {
                let mut second_pass = SecondPass {
                    copy: self,
                    source: stream.path(),
                    expected: ids.zip(hashes),
                };
                stream.read(&mut second_pass, |error| error)?;
                if second_pass.expected.next().is_some() {
                    return Err(Error::Changed {
                        path: stream.path().to_owned(),
                    });
                }
            }
        }
        Ok(())
    }
}

/// Copies the visible contents of a layer that is read for the second time.
struct SecondPass<'a, 'c, I> {
    copy: &'a mut Copy<'c>,
    source: &'a Path,
    /// The ids and hashes of the contents that follow.
    expected: I,
}

impl<'a, I: Iterator<Item = (usize, &'a u64)>> Sink for SecondPass<'_, '_, I> {
    type Error = Error;

    fn file(&mut self, path: &[u8], mut content: Content<'_>) -> Result<DataId> {
        let found = hash(path, content.size());
        let Some((id, _)) = self.expected.next().filter(|(_, hash)| **hash == found) else {
            return Err(Error::Changed {
                path: self.source.to_owned(),
            });
        };
        if self.copy.wanted[id] {
            let stored = self.copy.contents.store(&mut content);
            self.copy.contents.files[id] = stored.map_err(|source| Error::Write {
                path: self.copy.path.to_owned(),
                source,
            })?;
        }
        Ok(DataId(id as u64))
    }
}

#[cfg(test)]
mod tests {
    use erofs_writer::Builder;

    use super::*;

    #[test]
    fn the_kind_of_a_layer_is_detected_by_its_contents_not_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let put = |name: &str, bytes: &[u8]| {
            let path = dir.path().join(name);
            fs::write(&path, bytes).unwrap();
            path
        };
        let image = dir.path().join("image.tar");
        let out = File::create_new(&image).unwrap();
        let builder = Builder::new(&out, erofs_writer::Options::default()).unwrap();
        builder.finish().unwrap();
        let kind = |path: &Path| Layer::open(path);
        assert!(matches!(kind(dir.path()), Ok(Layer::Folder(_))));
        assert!(matches!(kind(&image), Ok(Layer::Image { .. })));
        assert!(matches!(kind(&put("x.erofs", b"short")), Ok(Layer::Tar(_))));
        let mut damaged = fs::read(&image).unwrap();
        damaged[1100] ^= 1;
        assert!(kind(&put("damaged", &damaged)).is_err());
    }

    #[test]
    fn a_layer_that_changes_while_it_is_read_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let tar = dir.path().join("tar");
        let archive = |name: &str| testkit::TarBuilder::new().file(name, "text").finish();
        fs::write(&tar, archive("a")).unwrap();
        let layer = Layer::open(&tar).unwrap();
        let (survey, _) = Survey::of(&layer, 0, &mut Vec::new()).unwrap();
        let out = tempfile::tempfile().unwrap();
        let mut copy = Copy {
            contents: Contents::new(&out, &BuildOptions::default()).unwrap(),
            wanted: vec![true],
            path: Path::new("image"),
        };
        copy.contents.files = vec![FileData::EMPTY];
        fs::write(&tar, archive("b")).unwrap();
        assert!(matches!(copy.layer(&survey), Err(Error::Changed { .. })));
    }
}
