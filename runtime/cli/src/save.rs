//! `blockbox save`

use std::path::PathBuf;

use blockbox::image::Image;
use blockbox::save::{self, Named};
use blockbox::store::Store;
use clap::Args;

use super::outfile::to_file;
use super::progress::Shown;

/// Write images to an archive that docker, podman and skopeo load: an OCI layout in a tar.
///
/// Layers are generated from the store, so the saved image holds the same files, but has other
/// digests than the pulled one.
#[derive(Debug, Args)]
pub(super) struct Save {
    /// The images' names, or the beginnings of their manifest digests
    #[arg(value_name = "IMAGE", required = true)]
    images: Vec<String>,
    /// Where to write to; `-` is standard output
    #[arg(short, long, value_name = "FILE", default_value = "-")]
    output: PathBuf,
    #[command(flatten)]
    shown: Shown,
}

impl Save {
    pub(super) fn execute(self, store: &Store) -> anyhow::Result<()> {
        // No other process removes the images meanwhile.
        let _access = store.share()?;
        let mut images = Vec::new();
        for name in &self.images {
            let image = Image::find(store, name)?;
            // Anything that is not a name is the beginning of a digest.
            let known = Image::entry(store, name)?;
            images.push((image, known.map(|(name, _)| name)));
        }
        let named: Vec<_> = images
            .iter()
            .map(|(image, name)| Named {
                image,
                name: name.as_deref(),
            })
            .collect();
        let bars = self.shown.bars();
        to_file(&self.output, |out| {
            Ok(save::to_archive(&named, out, &bars)?)
        })
    }
}
