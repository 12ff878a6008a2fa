//! `blockbox rm`

use blockbox::sandbox;
use blockbox::store::Store;
use clap::Args;

/// Remove sandboxes and everything that was written in them.
#[derive(Debug, Args)]
pub(super) struct Rm {
    /// The sandboxes
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,
}

impl Rm {
    pub(super) fn execute(self, store: &Store) -> anyhow::Result<()> {
        for name in &self.names {
            sandbox::remove(store, name)?;
            println!("{name}");
        }
        Ok(())
    }
}
