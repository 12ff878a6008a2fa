//! `blockbox start`

use std::process::ExitCode;

use blockbox::sandbox::Sandbox;
use blockbox::store::Store;
use clap::Args;

use super::boot;

/// Run a command in a sandbox that an earlier `run` left, with everything that was written there. Its exit status is as
/// for `run`.
#[derive(Debug, Args)]
pub(super) struct Start {
    /// The sandbox's name
    #[arg(value_name = "NAME")]
    name: String,
    #[command(flatten)]
    process: boot::Process,
    #[command(flatten)]
    options: boot::Options,
}

impl Start {
    pub(super) fn execute(self, store: &Store) -> anyhow::Result<ExitCode> {
        let (sandbox, image) = Sandbox::open(store, &self.name)?;
        let spec = self.process.spec(&image)?;
        let running = self.options.start(store, &sandbox, &image)?;
        Ok(ExitCode::from(boot::run(running, &spec)?))
    }
}
