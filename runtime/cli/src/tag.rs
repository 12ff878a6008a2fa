//! `blockbox tag`

use blockbox::image::Image;
use blockbox::store::{Reference, Store};
use clap::Args;

/// Give an image another name. If another image has that name, the name moves to this one.
#[derive(Debug, Args)]
pub(super) struct Tag {
    /// The image's name, or the beginning of its manifest digest
    #[arg(value_name = "SOURCE")]
    source: String,
    /// The new name: `HOST/REPO[:TAG]`, or a short name as docker resolves it
    #[arg(value_name = "TARGET")]
    target: ocipull::Reference,
}

impl Tag {
    pub(super) fn execute(self, store: &Store) -> anyhow::Result<()> {
        let named = matches!(
            &self.target,
            ocipull::Reference::Registry { digest: None, .. }
        );
        anyhow::ensure!(
            named,
            "{} cannot be given to an image: use REPO[:TAG]",
            self.target
        );
        // No other process removes the image meanwhile.
        let _access = store.share()?;
        let digest = Image::resolve(store, &self.source)?;
        store.references().update(|table| {
            table.insert(self.target.to_string(), Reference::now(&digest));
        })?;
        Ok(())
    }
}
