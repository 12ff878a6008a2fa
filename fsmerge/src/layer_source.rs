//! Merging layers of any kind in one call.

use crate::error::{MergeError, ReadError};
use crate::layer::LayerTree;
use crate::limits::Limits;
use crate::merge::{Merge, Merged};
use crate::tar::{Sink, Stats, read_tar};
use std::io::BufRead;

/// The source of a layer.
#[non_exhaustive]
pub enum LayerSource<'a> {
    /// An archive, decompressed, which [`read_tar`] reads.
    Tar(Box<dyn BufRead + 'a>),
    /// A directory of this host, which [`read_dir`](crate::read_dir) reads.
    #[cfg(all(feature = "dir", unix))]
    Directory(std::path::PathBuf),
    /// An EROFS image, which [`read_erofs`](crate::read_erofs) reads. Contents are read through it,
    /// so that compressed ones need erofs-reader's features for them.
    #[cfg(feature = "erofs")]
    Erofs(Box<dyn erofs_reader::ReadAt + 'a>),
    /// A layer that was read before, with content ids of the same sink.
    Layer(LayerTree),
}

impl<'a> LayerSource<'a> {
    /// An archive.
    pub fn tar(tar: impl BufRead + 'a) -> Self {
        Self::Tar(Box::new(tar))
    }

    /// An EROFS image.
    #[cfg(feature = "erofs")]
    pub fn erofs(image: impl erofs_reader::ReadAt + 'a) -> Self {
        Self::Erofs(Box::new(image))
    }

    /// Reads the layer. Contents go to `sink`.
    ///
    /// ```
    /// use fsmerge::{ContentStore, LayerSource, Limits};
    ///
    /// # let tar = &[0; 1024][..];
    /// let mut contents = ContentStore::in_memory();
    /// let source = LayerSource::tar(tar);
    /// let (layer, stats) = source.read(&mut contents, &Limits::default())?;
    /// println!("{} names, {} warnings", layer.names(), stats.warning_count);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`read_tar`], `read_dir` and `read_erofs`.
    pub fn read<S: Sink>(
        self,
        sink: &mut S,
        limits: &Limits,
    ) -> Result<(LayerTree, Stats), ReadError<S::Error>> {
        match self {
            Self::Tar(tar) => read_tar(tar, sink, limits),
            #[cfg(all(feature = "dir", unix))]
            Self::Directory(root) => crate::read_dir(&root, sink, limits),
            #[cfg(feature = "erofs")]
            Self::Erofs(image) => crate::erofs::read_with_contents(image, sink, limits),
            Self::Layer(layer) => Ok((layer, Stats::default())),
        }
    }
}

impl std::fmt::Debug for LayerSource<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let name = match self {
            Self::Tar(_) => "Tar",
            #[cfg(all(feature = "dir", unix))]
            Self::Directory(root) => return f.debug_tuple("Directory").field(root).finish(),
            #[cfg(feature = "erofs")]
            Self::Erofs(_) => "Erofs",
            Self::Layer(_) => "Layer",
        };
        f.debug_tuple(name).finish_non_exhaustive()
    }
}

/// Merges layers of any kind, lowest first. All contents go to `sink`; those of files that higher
/// layers replace do too. Returns the merged tree, and the counts and warnings of each layer.
///
/// ```
/// use fsmerge::{ContentStore, LayerSource, Limits};
///
/// # let (lower, upper) = (&[0; 1024][..], &[0; 1024][..]);
/// let mut contents = ContentStore::in_memory();
/// let layers = [LayerSource::tar(lower), LayerSource::tar(upper)];
/// let (tree, _) = fsmerge::merge(layers, &mut contents, &Limits::default())?;
/// for (path, _) in tree.walk() {
///     println!("{path}");
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
///
/// [`MergeError`]: a layer could not be read, does not fit on those below it, or the sink failed.
pub fn merge<'a, S: Sink>(
    layers: impl IntoIterator<Item = LayerSource<'a>>,
    sink: &mut S,
    limits: &Limits,
) -> Result<(Merged, Vec<Stats>), MergeError<S::Error>>
where
    S::Error: std::error::Error + 'static,
{
    let mut merge = Merge::new(limits);
    let mut all = Vec::new();
    for (number, layer) in layers.into_iter().enumerate() {
        let read = layer.read(sink, limits).and_then(|(layer, stats)| {
            merge.push(&layer)?;
            Ok(stats)
        });
        all.push(read.map_err(|source| MergeError {
            layer: number,
            source,
        })?);
    }
    Ok((merge.finish(), all))
}
