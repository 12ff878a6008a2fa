//! `blockbox image prune`

use blockbox::store::Store;
use clap::Args;

use super::gc;
use super::template::Output;

/// Remove images that have no name and that no sandbox uses.
#[derive(Debug, Args)]
pub(super) struct Prune {
    /// Also remove images that have a name and that no sandbox uses
    #[arg(short, long)]
    all: bool,
    /// Accepted for compatibility with docker: no question is asked
    #[arg(short, long, hide = true)]
    force: bool,
    /// How to print what was removed: table, json, or a template such as `{{.Bytes}}`
    #[arg(long, default_value = "table")]
    format: Output,
}

impl Prune {
    pub(super) fn execute(self, store: &Store) -> anyhow::Result<()> {
        gc::print(&blockbox::collect::prune(store, self.all)?, &self.format)
    }
}
