//! The files of a sandbox without its machine: what its writable disk changes of its image.
//!
//! The guest mounts the disk's `/upper` over the image with overlayfs, without `redirect_dir`,
//! `index` and `metacopy`. So the only marks in it are whiteouts and opaque directories, and those
//! that nothing a program sees depends on.

mod archive;
mod changes;
mod copy_in;
mod path;
mod rebuild;
mod upper;

use std::path::{Path, PathBuf};

use fsmerge::{ContentStore, LayerBuilder, LayerTree, Limits, Merge, Merged};

use crate::error::{Error, Result};
use crate::image::Image;
use crate::{populate, reader};

pub(crate) use archive::write_oci_layer;
pub use archive::{write_layer, write_tree};
pub use changes::{Change, ChangeKind, changes};
pub use copy_in::{CopyOptions, copy_in};
pub use path::{Found, find};

use upper::Upper;

/// The disks that a sandbox's files are read from.
pub struct Sources {
    lower: reader::Reader,
    lower_path: PathBuf,
    /// `None` if the sandbox has no writable disk.
    upper: Option<Upper>,
}

impl std::fmt::Debug for Sources {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sources")
            .field("lower", &self.lower_path)
            .field("upper", &self.upper.as_ref().map(|upper| &upper.path))
            .finish()
    }
}

impl Sources {
    /// Opens an image's disk, and the sandbox's disk `upper` if there is one. The latter must not
    /// change meanwhile.
    ///
    /// # Errors
    ///
    /// [`Error::Ext4`] if it was not unmounted, or is damaged; [`Error::Read`].
    pub fn open(image: &Image, upper: Option<&Path>) -> Result<Self> {
        let lower_path = image.disk();
        Ok(Self {
            lower: reader::open(&lower_path, &[])?,
            lower_path,
            upper: upper.map(Upper::open).transpose()?,
        })
    }

    /// Reads both trees, and merges them.
    ///
    /// # Errors
    ///
    /// If one is damaged, or exceeds a limit.
    pub fn view(&self) -> Result<View<'_>> {
        let mut contents = populate::new_store()?;
        let lower = populate::read_image(&mut contents, &self.lower, &self.lower_path)?;
        let upper = match &self.upper {
            Some(upper) => upper::read(upper, &mut contents)?.finish(),
            None => unchanged(&lower),
        };
        let mut merge = Merge::new(&Limits::default());
        for tree in [&lower, &upper] {
            merge
                .push(tree)
                .map_err(|source| Error::Merge(Box::new(source)))?;
        }
        Ok(View {
            lower,
            upper,
            merged: merge.finish(),
            contents,
        })
    }
}

/// Returns a layer without changes over `lower`.
fn unchanged(lower: &LayerTree) -> LayerTree {
    let mut layer = LayerBuilder::new(&Limits::default());
    layer.set_root(lower.metadata(lower.root()).clone(), false, false);
    layer.finish()
}

/// A sandbox's files: the image's tree, the changes on its disk, and the merged tree that programs
/// see.
#[derive(Debug)]
pub struct View<'a> {
    lower: LayerTree,
    upper: LayerTree,
    merged: Merged,
    contents: ContentStore<'a>,
}
