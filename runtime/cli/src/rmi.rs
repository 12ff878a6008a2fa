//! `blockbox rmi`

use std::process::ExitCode;

use blockbox::store::Store;
use clap::Args;

use super::each::each;

/// Remove images: their names and, where no other name or sandbox needs them, their disks.
#[derive(Debug, Args)]
pub(super) struct Rmi {
    /// The images
    #[arg(required = true, value_name = "REFERENCE")]
    references: Vec<String>,
}

impl Rmi {
    pub(super) fn execute(self, store: &Store) -> anyhow::Result<ExitCode> {
        each(&self.references, |name| {
            for removed in blockbox::remove::image(store, name)? {
                println!("{removed}");
            }
            Ok(())
        })
    }
}
