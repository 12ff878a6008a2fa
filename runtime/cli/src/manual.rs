//! `blockbox completion` and `blockbox man`: shell completions and man pages, generated from the
//! command's arguments.

use std::io;
use std::path::PathBuf;

use anyhow::Context;
use clap::{Args, Command};
use clap_complete::Shell;

/// Print the completions for a shell, for instance: `blockbox completion bash >
/// /etc/bash_completion.d/blockbox`
#[derive(Debug, Args)]
pub(super) struct Completion {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

/// Write the man pages: `blockbox.1`, and one for each subcommand
#[derive(Debug, Args)]
pub(super) struct Man {
    /// The folder to write to
    #[arg(value_name = "DIR")]
    folder: PathBuf,
}

impl Completion {
    pub(super) fn execute(&self, mut command: Command) -> anyhow::Result<()> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut command, "blockbox", &mut script);
        io::Write::write_all(&mut io::stdout(), &script)?;
        Ok(())
    }
}

impl Man {
    pub(super) fn execute(&self, command: Command) -> anyhow::Result<()> {
        let folder = &self.folder;
        let context = || format!("cannot write man pages to {}", folder.display());
        std::fs::create_dir_all(folder).with_context(context)?;
        clap_mangen::generate_to(command, folder).with_context(context)
    }
}
