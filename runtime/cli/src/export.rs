//! `blockbox export`

use std::path::PathBuf;

use blockbox::Sandbox;
use blockbox::store::Store;
use clap::{Args, Subcommand};

use super::convert::ContainerdCache;
use super::outfile::to_file;
use super::progress::Shown;

/// Write all files of a sandbox, running or not, as a tar archive. The disk of a running sandbox is
/// frozen meanwhile.
///
/// To export a sandbox that has the name of a subcommand, put `--` before the name.
#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    disable_help_subcommand = true
)]
pub(super) struct Export {
    #[command(subcommand)]
    images: Option<Images>,
    /// The sandbox's name, or the beginning of its id
    #[arg(value_name = "NAME", required = true)]
    name: Option<String>,
    /// Where to write to; `-` is standard output
    #[arg(short, long, value_name = "FILE", default_value = "-")]
    output: PathBuf,
    #[command(flatten)]
    shown: Shown,
}

/// Subcommands that export images, not a sandbox.
#[derive(Debug, Subcommand)]
enum Images {
    ContainerdCache(ContainerdCache),
}

impl Export {
    pub(super) fn execute(self, store: &Store) -> anyhow::Result<()> {
        if let Some(Images::ContainerdCache(cache)) = self.images {
            return cache.execute(store);
        }
        let name = self.name.unwrap_or_default();
        let sandbox = Sandbox::open(store, &name)?;
        let work = self.shown.work(format!("exporting {name}"), None);
        let meter = work.meter();
        to_file(&self.output, |out| Ok(sandbox.export(meter.measure(out))?))?;
        work.finish();
        Ok(())
    }
}
