//! `blockbox export`

use std::path::PathBuf;

use blockbox::Sandbox;
use blockbox::store::Store;
use clap::Args;

use super::outfile::to_file;
use super::progress::Shown;

/// Write all files of a sandbox, running or not, as a tar archive. The disk of a running sandbox is
/// frozen meanwhile.
#[derive(Debug, Args)]
pub(super) struct Export {
    /// The sandbox's name, or the beginning of its id
    #[arg(value_name = "NAME")]
    name: String,
    /// Where to write to; `-` is standard output
    #[arg(short, long, value_name = "FILE", default_value = "-")]
    output: PathBuf,
    #[command(flatten)]
    shown: Shown,
}

impl Export {
    pub(super) fn execute(self, store: &Store) -> anyhow::Result<()> {
        let sandbox = Sandbox::open(store, &self.name)?;
        let work = self.shown.work(format!("exporting {}", self.name), None);
        let meter = work.meter();
        to_file(&self.output, |out| Ok(sandbox.export(meter.measure(out))?))?;
        work.finish();
        Ok(())
    }
}
