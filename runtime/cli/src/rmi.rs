//! `blockbox rmi`

use std::process::ExitCode;

use blockbox::store::Store;
use blockbox::{Error, convert};
use clap::Args;

use super::each::each;

/// Remove images: their names and, if no other name or sandbox needs them, their disks.
#[derive(Debug, Args)]
pub(super) struct Rmi {
    /// The images
    #[arg(required = true, value_name = "REFERENCE")]
    references: Vec<String>,
    /// Do not report images that do not exist
    #[arg(short, long)]
    force: bool,
}

impl Rmi {
    pub(super) fn execute(self, store: &Store) -> anyhow::Result<ExitCode> {
        each(&self.references, |name| {
            let removed = match blockbox::remove::image(store, name) {
                Err(Error::Convert(convert::Error::NoImage(_))) if self.force => Vec::new(),
                removed => removed?,
            };
            removed.iter().for_each(|name| println!("{name}"));
            Ok(())
        })
    }
}
