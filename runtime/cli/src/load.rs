//! `blockbox load`

use std::io::{self, IsTerminal};
use std::path::PathBuf;

use anyhow::Context;
use blockbox::load;
use blockbox::pull::PullOptions;
use blockbox::store::Store;
use blockbox::store::atomic::NewFile;
use clap::Args;

use super::progress::Shown;
use super::signals;

/// Load all images of an archive: one that `save`, `docker save` or `podman save` wrote, or an OCI
/// layout in a tar, compressed or not.
#[derive(Debug, Args)]
pub(super) struct Load {
    /// The archive; `-` is standard input
    #[arg(short, long, value_name = "FILE", default_value = "-")]
    input: PathBuf,
    #[command(flatten)]
    shown: Shown,
}

impl Load {
    pub(super) fn execute(self, store: &Store) -> anyhow::Result<()> {
        let bars = self.shown.bars();
        // The archive is read more than once.
        let mut spool = None;
        let path = if self.input.as_os_str() == "-" {
            anyhow::ensure!(
                !io::stdin().is_terminal(),
                "standard input is a terminal: use -i FILE, or a pipe"
            );
            signals::clean_up();
            let folder = std::env::temp_dir();
            let mut file = NewFile::create_in(&folder, 0o600)
                .with_context(|| format!("a temporary file in {}", folder.display()))?;
            let work = bars.work("reading standard input", None);
            let mut input = work.meter().measure(io::stdin().lock());
            io::copy(&mut input, &mut file).context("standard input")?;
            work.finish();
            spool.insert(file).path()
        } else {
            self.input.clone()
        };
        let mut options = PullOptions::default();
        options.source.events = Some(bars.events());
        let loaded = load::load(store, &path, &options, &bars)?;
        for one in loaded {
            match one.name {
                Some(name) => println!("{name}"),
                None => println!("{}", one.image.digest()),
            }
        }
        Ok(())
    }
}
