//! Changes to the image, for `run` and `create`.

use std::path::PathBuf;

use blockbox::patch::{self, Patch};
use clap::Args;

/// Changes to the image.
#[derive(Debug, Args)]
pub(super) struct Patches {
    /// Change the image before the boot: write:PATH=TEXT, append:PATH=TEXT, copy:PATH=HOST,
    /// extract:PATH=TAR, mkdir:PATH[=MODE], symlink:PATH=TARGET, rm:PATH, chmod:PATH=MODE or
    /// chown:PATH=USER[:GROUP]
    #[arg(long, value_name = "VERB:PATH[=VALUE]")]
    patch: Vec<Patch>,
    /// Change the image as a TOML file describes; these changes come first
    #[arg(long, value_name = "FILE")]
    patch_file: Vec<PathBuf>,
}

impl Patches {
    /// Returns whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.patch.is_empty() && self.patch_file.is_empty()
    }

    /// Returns all changes in the order in which they apply.
    pub(super) fn read(&self) -> anyhow::Result<Vec<Patch>> {
        let mut patches = Vec::new();
        for file in &self.patch_file {
            patches.extend(patch::read_file(file)?);
        }
        patches.extend(self.patch.iter().cloned());
        Ok(patches)
    }
}
