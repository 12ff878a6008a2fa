//! Errors of this crate.

use std::io;
use std::path::{Path, PathBuf};

use fsmerge::BytePath;

/// The result type of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of a conversion or a merge.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file of an image or of the host could not be read or written.
    #[error("{}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The store could not be read or written.
    #[error(transparent)]
    Store(#[from] blockbox_store::Error),
    /// A sandbox has no writable disk to copy to.
    #[error("the sandbox has no writable disk")]
    Diskless,
    /// An image could not be fetched from the place that its reference names.
    #[error(transparent)]
    Pull(#[from] ocipull::Error),
    /// None of the registries that `registries.conf` lists for a name without a host has the image.
    #[error("{name:?} could be pulled as none of {}", tried.join(", "))]
    NoneOf {
        /// The name.
        name: String,
        /// The references that were tried.
        tried: Vec<String>,
        /// The error of the last registry.
        source: Box<ocipull::Error>,
    },
    /// An image is for another platform than the requested one.
    #[error("{image} is for {found}, not for {wanted}")]
    OtherPlatform {
        /// The image's name.
        image: String,
        /// The platform in its configuration.
        found: Box<ocipull::Platform>,
        /// The requested platform.
        wanted: Box<ocipull::Platform>,
    },
    /// A layer's tar could not be read, or the data of its files could not be written.
    #[error("layer {layer}")]
    Layer {
        /// The layer's digest or file name.
        layer: String,
        /// The cause.
        source: Box<fsmerge::Error>,
    },
    /// A folder holds something that an image cannot hold.
    #[error("{}", path.display())]
    Folder {
        /// The path of the file.
        path: PathBuf,
        /// The cause.
        source: Box<fsmerge::Error>,
    },
    /// A file's length changed while it was read.
    #[error("{} changed while it was read", path.display())]
    Changed {
        /// The file.
        path: PathBuf,
    },
    /// The stream of a layer failed, or its bytes do not match its digests.
    #[error("layer {layer}")]
    LayerStream {
        /// The layer's digest or file name.
        layer: String,
        /// The error of the stream.
        source: io::Error,
    },
    /// An EROFS image holds something that a layer image cannot hold.
    #[error("{} is not a layer image: {name}: {problem}", path.display())]
    NotALayer {
        /// The image.
        path: PathBuf,
        /// The name of the inode.
        name: String,
        /// What is wrong with the inode.
        problem: fsmerge::Problem,
    },
    /// Another image cannot address the contents of a file: they are inline, compressed, in several
    /// extents or on another device.
    #[error("{} is not a layer image: no other image can address the contents of {name}", path.display())]
    NotAddressable {
        /// The image.
        path: PathBuf,
        /// The name of the file.
        name: String,
    },
    /// A disk would lack the tar of an index.
    #[error("{} is an index whose tar is elsewhere", path.display())]
    Detached {
        /// The index.
        path: PathBuf,
    },
    /// The tar of an index is compressed. An index points into its tar, and cannot point into
    /// compressed bytes.
    #[error(
        "{} is compressed with {compression}: an index points into the plain tar, so decompress it first",
        path.display()
    )]
    CompressedTar {
        /// The archive.
        path: PathBuf,
        /// The name of the compression.
        compression: &'static str,
    },
    /// A layer that was pulled as an EROFS image is damaged, or holds what a layer must not hold.
    #[error("layer {layer} is refused: {problem}")]
    HostileLayer {
        /// The layer's digest.
        layer: String,
        /// What is wrong with the layer.
        problem: String,
    },
    /// The length of a file that becomes a part of a disk is not a multiple of the unit.
    #[error("{} has a length that is not a multiple of {unit} bytes", path.display())]
    Unaligned {
        /// The file.
        path: PathBuf,
        /// The unit in bytes.
        unit: u64,
    },
    /// A disk cannot have this size, with its file system and its partition table, if it has one.
    #[error("the disk size of {size} bytes is too small or not a multiple of {unit}")]
    DiskSize {
        /// The size in bytes.
        size: u64,
        /// The unit in bytes.
        unit: u64,
    },
    /// The layers cannot be merged.
    #[error("cannot merge the layers")]
    Merge(#[source] Box<fsmerge::Error>),
    /// An EROFS image could not be written.
    #[error("{}", path.display())]
    Write {
        /// The image.
        path: PathBuf,
        /// The error of the writer.
        source: erofs_writer::Error,
    },
    /// An EROFS image could not be read.
    #[error("{}", path.display())]
    Read {
        /// The image.
        path: PathBuf,
        /// The error of the reader.
        source: erofs_reader::Error,
    },
    /// An ext4 image could not be made or read.
    #[error("{}", path.display())]
    Ext4 {
        /// The disk.
        path: PathBuf,
        /// The error of the writer or reader.
        source: ext4_writer::Error,
    },
    /// A disk descriptor could not be made or read.
    #[error("{}", path.display())]
    Vmdk {
        /// The descriptor.
        path: PathBuf,
        /// The cause.
        source: vmdk::Error,
    },
    /// A patch does not apply to the image.
    #[error("patch {patch}")]
    Patch {
        /// The patch's verb and path.
        patch: String,
        /// The reason.
        #[source]
        problem: crate::patch::Problem,
    },
    /// A file does not hold valid patches.
    #[error("{}: {reason}", path.display())]
    PatchFile {
        /// The file.
        path: PathBuf,
        /// The reason and the place.
        reason: String,
    },
    /// A change of an image's configuration is not a known instruction.
    #[error("{0:?} is not an instruction for an image's configuration")]
    Change(String),
    /// An archive could not be written to its output.
    #[error("cannot write the archive")]
    Output(#[source] io::Error),
    /// Contents that were stored temporarily could not be read back.
    #[error("cannot read a file's contents")]
    Contents(#[source] io::Error),
    /// The archive to copy from could not be read.
    #[error("cannot read the archive")]
    Archive(#[source] blockbox_tar::Error),
    /// An entry of an archive cannot be copied.
    #[error("{name}: {problem}")]
    Entry {
        /// The entry's name.
        name: BytePath,
        /// The reason.
        problem: CopyProblem,
    },
    /// Another layer of the same pull failed.
    #[error("stopped because another layer failed")]
    Stopped,
    /// A file of an image is damaged, and cannot be restored because no name of the image is known.
    #[error("{finding}, and the image has no name to fetch it by")]
    Damaged {
        /// The first such file.
        finding: Box<crate::damage::Finding>,
    },
    /// A short digest matches several images.
    #[error("{0:?} is the beginning of several digests")]
    Ambiguous(String),
    /// The store has no image with this name or digest.
    #[error("no image {0:?} in the store")]
    NoImage(String),
}

/// Why an entry of an archive cannot be copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CopyProblem {
    /// The name, or a hard link's target, has a `..` or a NUL in it.
    #[error("the name leads out of the archive")]
    Escape,
    /// A parent is a symbolic link, or not a directory.
    #[error("a parent is not a directory")]
    Parent,
    /// A directory would be replaced by something else.
    #[error("cannot replace a directory with something else")]
    OverDirectory,
    /// Something else would be replaced by a directory.
    #[error("cannot replace something else with a directory")]
    OverFile,
    /// A hard link's target is not in the archive.
    #[error("the target of the hard link is not in the archive")]
    LinkTarget,
    /// The type is unknown, or the entry is a device that overlayfs uses as a mark.
    #[error("cannot copy an entry of this type")]
    Type,
    /// An attribute is malformed.
    #[error("malformed attributes")]
    Attributes,
}

impl Error {
    /// Adds the layer that an error is about.
    pub(crate) fn layer(layer: &str, source: fsmerge::Error) -> Self {
        Self::Layer {
            layer: layer.to_owned(),
            source: Box::new(source),
        }
    }

    /// Adds the path that an I/O error is about: `.map_err(Error::io(path))`.
    pub fn io(path: impl AsRef<Path>) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io {
            path: path.as_ref().to_owned(),
            source,
        }
    }
}
