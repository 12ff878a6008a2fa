//! What can go wrong, in terms a caller can act on.

use std::io;
use std::path::{Path, PathBuf};

/// The result of everything in this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of the conversion or the merge.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file of an image or of the host could not be read or written.
    #[error("{}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The store could not be read or written.
    #[error(transparent)]
    Store(#[from] blockbox_store::Error),
    /// A sandbox has no writable disk to copy to.
    #[error("the sandbox has no writable disk")]
    Diskless,
    /// An image could not be got from where its reference points.
    #[error(transparent)]
    Pull(#[from] ocipull::Error),
    /// A name without a host is in none of the registries that `registries.conf` wants to be
    /// searched.
    #[error("{name:?} could be pulled as none of {}", tried.join(", "))]
    NoneOf {
        /// The name.
        name: String,
        /// What it may mean.
        tried: Vec<String>,
        /// What the last registry said.
        source: Box<ocipull::Error>,
    },
    /// An image is for another platform than the one asked for.
    #[error("{image} is for {found}, not for {wanted}")]
    OtherPlatform {
        /// The image's name.
        image: String,
        /// The platform in its configuration.
        found: Box<ocipull::Platform>,
        /// The platform asked for.
        wanted: Box<ocipull::Platform>,
    },
    /// A layer's tar could not be read, or its file data not be written.
    #[error("layer {layer}")]
    Layer {
        /// The layer's digest or file name.
        layer: String,
        /// What is wrong with it.
        source: Box<fsmerge::Error>,
    },
    /// A folder holds something that no image can.
    #[error("{}", path.display())]
    Folder {
        /// Where.
        path: PathBuf,
        /// What is wrong with it.
        source: Box<fsmerge::Error>,
    },
    /// A file's length changed while it was read.
    #[error("{} changed while it was read", path.display())]
    Changed {
        /// The file.
        path: PathBuf,
    },
    /// A layer's bytes stopped coming, or are not those that its digests name.
    #[error("layer {layer}")]
    LayerStream {
        /// The layer's digest or file name.
        layer: String,
        /// What the stream said.
        source: io::Error,
    },
    /// An EROFS image holds something that no layer image does.
    #[error("{} is no layer image: {name}: {problem}", path.display())]
    NotALayer {
        /// The image.
        path: PathBuf,
        /// The name of the inode.
        name: String,
        /// What it has.
        problem: fsmerge::Problem,
    },
    /// A file's contents lie where another image cannot point: inline, compressed, in pieces or on
    /// another device.
    #[error("{} is no layer image: no other image can address the contents of {name}", path.display())]
    NotAddressable {
        /// The image.
        path: PathBuf,
        /// The name of the file.
        name: String,
    },
    /// A disk would lack an index's archive.
    #[error("{} is an index whose tar is elsewhere", path.display())]
    Detached {
        /// The index.
        path: PathBuf,
    },
    /// An index points into its archive, and nothing can point into compressed bytes.
    #[error(
        "{} is compressed with {compression}: an index points into the plain tar, so decompress it first",
        path.display()
    )]
    CompressedTar {
        /// The archive.
        path: PathBuf,
        /// What undoes it.
        compression: &'static str,
    },
    /// A layer that came as an EROFS image is damaged, or not what a layer may be.
    #[error("layer {layer} is refused: {problem}")]
    HostileLayer {
        /// The layer's digest.
        layer: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A file that is to be a part of a disk is no whole number of units.
    #[error("{} is no multiple of {unit} bytes long", path.display())]
    Unaligned {
        /// The file.
        path: PathBuf,
        /// The unit in bytes.
        unit: u64,
    },
    /// No disk of a file system with a partition table, if it is to have one, has this size.
    #[error("a disk of {size} bytes is too small or no multiple of {unit} bytes long")]
    DiskSize {
        /// The size in bytes.
        size: u64,
        /// The unit in bytes.
        unit: u64,
    },
    /// The layers do not merge.
    #[error("cannot merge the layers")]
    Merge(#[source] Box<fsmerge::Error>),
    /// An EROFS image could not be written.
    #[error("{}", path.display())]
    Write {
        /// The image.
        path: PathBuf,
        /// What the writer said.
        source: erofs_writer::Error,
    },
    /// An EROFS image could not be read.
    #[error("{}", path.display())]
    Read {
        /// The image.
        path: PathBuf,
        /// What the reader said.
        source: erofs_reader::Error,
    },
    /// An ext4 image could not be made or read.
    #[error("{}", path.display())]
    Ext4 {
        /// The disk.
        path: PathBuf,
        /// What the writer said.
        source: ext4_writer::Error,
    },
    /// A disk descriptor could not be made or read.
    #[error("{}", path.display())]
    Vmdk {
        /// The descriptor.
        path: PathBuf,
        /// What is wrong with it.
        source: vmdk::Error,
    },
    /// A patch does not apply to the image.
    #[error("patch {patch}: {problem}")]
    Patch {
        /// Its verb and path.
        patch: String,
        /// Why.
        #[source]
        problem: crate::patch::Problem,
    },
    /// A file is not one of patches.
    #[error("{}: {reason}", path.display())]
    PatchFile {
        /// The file.
        path: PathBuf,
        /// What is wrong, and where.
        reason: String,
    },
    /// A change of an image's configuration is no instruction that is known.
    #[error("{0:?} is no instruction for an image's configuration")]
    Change(String),
    /// An archive could not be written to where it goes.
    #[error("cannot write the archive")]
    Output(#[source] io::Error),
    /// Contents that were put aside could not be read again.
    #[error("cannot read a file's contents")]
    Contents(#[source] io::Error),
    /// The archive to copy from could not be read.
    #[error("cannot read the archive")]
    Archive(#[source] blockbox_tar::Error),
    /// An entry of an archive cannot be copied to where it belongs.
    #[error("{}: {problem}", name.escape_ascii())]
    Entry {
        /// The entry's name.
        name: Vec<u8>,
        /// Why not.
        problem: CopyProblem,
    },
    /// Another layer of the same pull failed.
    #[error("stopped because another layer failed")]
    Stopped,
    /// A file of an image is damaged, and what would put it back cannot be had.
    #[error("{finding}, and the image has no name to get it again by")]
    Damaged {
        /// The first such file.
        finding: Box<crate::verify::Finding>,
    },
    /// The digest that an image goes by fits several.
    #[error("{0:?} is the beginning of several digests")]
    Ambiguous(String),
    /// No image goes by this name.
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
    /// A parent is a symbolic link or no directory.
    #[error("a parent is not a directory")]
    Parent,
    /// A directory is in the place of something else.
    #[error("cannot replace a directory by something else")]
    OverDirectory,
    /// A directory is to be where something else is.
    #[error("cannot replace what is not a directory by a directory")]
    OverFile,
    /// A hard link's target is not in the archive.
    #[error("the target of the hard link is not in the archive")]
    LinkTarget,
    /// The type is unknown, or a device is one that overlayfs uses itself.
    #[error("cannot copy an entry of this type")]
    Type,
    /// An attribute is malformed.
    #[error("malformed attributes")]
    Attributes,
}

impl Error {
    /// Names the layer that an error is about.
    pub(crate) fn layer(layer: &str, source: fsmerge::Error) -> Self {
        Self::Layer {
            layer: layer.to_owned(),
            source: Box::new(source),
        }
    }

    /// Names the file an I/O error is about: `.map_err(Error::io(path))`.
    pub fn io(path: impl AsRef<Path>) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io {
            path: path.as_ref().to_owned(),
            source,
        }
    }
}
