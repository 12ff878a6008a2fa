//! The files of a sandbox without its machine: what its writable disk changes of its image.
//!
//! The guest mounts the disk's `/upper` over the image with overlayfs, without `redirect_dir`, `index` and `metacopy`. So the
//! only marks in it are whiteouts and opaque directories, and those that nothing a program sees depends on.

mod archive;
mod changes;
mod copy_in;
mod path;
mod rebuild;
mod upper;

use std::fs::File;
use std::path::{Path, PathBuf};

use fsmerge::{ContentStore, LayerTree, Limits, Merge, Merged};

use crate::error::{Error, Result};
use crate::image::Image;
use crate::{populate, reader};

pub(crate) use archive::write_oci_layer;
pub use archive::{write_layer, write_tree};
pub use changes::{Change, ChangeKind, changes};
pub use copy_in::{CopyOptions, copy_in};
pub use path::{Found, find};

/// What a sandbox's files come from.
pub struct Sources {
    lower: reader::Reader,
    lower_path: PathBuf,
    upper: ext4_writer::Reader<File>,
    upper_path: PathBuf,
}

impl std::fmt::Debug for Sources {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sources")
            .field("lower", &self.lower_path)
            .field("upper", &self.upper_path)
            .finish()
    }
}

impl Sources {
    /// Opens an image's disk and, in `upper`, a sandbox's. Nobody may change that meanwhile.
    ///
    /// # Errors
    ///
    /// [`Error::Ext4`] where it was not unmounted, or is damaged; [`Error::Read`].
    pub fn open(image: &Image, upper: &Path) -> Result<Self> {
        let lower_path = image.disk();
        let file = File::open(upper).map_err(Error::io(upper))?;
        let failed = |source| Error::Ext4 {
            path: upper.to_owned(),
            source,
        };
        Ok(Self {
            lower: reader::open(&lower_path, &[])?,
            lower_path,
            upper: ext4_writer::Reader::open(file).map_err(failed)?,
            upper_path: upper.to_owned(),
        })
    }

    /// Reads both trees, and merges them.
    ///
    /// # Errors
    ///
    /// Where one is damaged, or passes a limit.
    pub fn view(&self) -> Result<View<'_>> {
        let mut contents = populate::new_store()?;
        let lower = populate::read_image(&mut contents, &self.lower, &self.lower_path)?;
        let upper = upper::read(&self.upper, &self.upper_path, &mut contents)?.finish();
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

/// A sandbox's files: the image's, what its disk changes of them, and what a program sees.
#[derive(Debug)]
pub struct View<'a> {
    lower: LayerTree,
    upper: LayerTree,
    merged: Merged,
    contents: ContentStore<'a>,
}
