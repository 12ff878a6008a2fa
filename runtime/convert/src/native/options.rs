//! Options of native images.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::path::PathBuf;

use erofs_writer::{BlockSize, Compression};
use ocipull::Platform;

/// Options of native images.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct NativeOptions {
    /// How to access the source.
    pub source: ocipull::Options,
    /// How to access the target.
    pub target: ocipull::Options,
    /// The block size of the EROFS images. Default: 4096 bytes, which every kernel and containerd
    /// support.
    pub block_size: BlockSize,
    /// How files are compressed inside the images. Default: not at all.
    pub compression: Option<Compression>,
    /// Which layers are merged. Default: none.
    pub grouping: Grouping,
    /// How each image is wrapped.
    pub wrap: Wrap,
    /// Whether the merged metadata is added next to the image, in an index. Compressed images have
    /// none.
    pub merged: bool,
    /// Whether to keep the source's own manifests, in one index with the native ones, which follow
    /// them.
    pub keep_tar: bool,
    /// The platforms whose images are converted. Default: all of the source.
    pub platforms: Vec<Platform>,
    /// Annotations of the manifests.
    pub annotations: BTreeMap<String, String>,
    /// Which description of native images the layers follow.
    pub format: Format,
    /// The media type of plain layers of [`Format::Layer`]. containerd before 2.3 accepts only
    /// types that end in `.erofs`.
    pub media_type: String,
    /// How many layers are processed at once.
    pub jobs: NonZeroUsize,
    /// The folder in which layers are made before they are pushed. Default: the system's folder for
    /// temporary files.
    pub staging: PathBuf,
}

impl Default for NativeOptions {
    fn default() -> Self {
        Self {
            source: ocipull::Options::default(),
            target: ocipull::Options::default(),
            block_size: BlockSize::B4096,
            compression: None,
            grouping: Grouping::Source,
            wrap: Wrap::None,
            merged: false,
            keep_tar: false,
            platforms: Vec::new(),
            annotations: BTreeMap::new(),
            format: Format::Layer,
            media_type: ocipull::EROFS_LAYER.to_owned(),
            jobs: std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN),
            staging: std::env::temp_dir(),
        }
    }
}

/// A description of native images: media types, annotations, and the index of zstd frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Format {
    /// `application/vnd.erofs.layer.v1`, which containerd reads from 2.3 on, and the first draft of
    /// the index.
    #[default]
    Layer,
    /// The draft specification of EROFS images: <https://github.com/erofs/erofs-image-spec>. It may
    /// change. It has no merged metadata.
    ImageSpec,
}

/// Which layers of the source are merged into one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Grouping {
    /// None.
    #[default]
    Source,
    /// Small adjacent layers, from the lowest on, until their images have at least this many bytes
    /// together. Larger layers stay as they are, so that images share them.
    Least(u64),
    /// All.
    One,
}

/// The wrapping of a layer's EROFS image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Wrap {
    /// Nothing.
    #[default]
    None,
    /// zstd frames, one for each 4 MiB of the image.
    Zstd {
        /// The level, 1 to 22.
        level: i32,
        /// Whether the frames are followed by their [index](super::chunks).
        index: bool,
    },
}
