//! The `blockbox` command with a separate store.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::{setup, shell};

/// The command and its store.
pub(crate) struct Blockbox {
    program: PathBuf,
    home: PathBuf,
}

impl Blockbox {
    /// Uses the store in `home`, and installs the guest kernel that setup found.
    pub(crate) fn prepare(program: &Path, home: PathBuf) -> Result<Self> {
        let kernel = setup::guest_kernel();
        let name = kernel.file_name().context("a file")?;
        let placed = home.join("kernel").join(name);
        if kernel.exists() && !placed.exists() {
            fs::create_dir_all(home.join("kernel"))?;
            fs::copy(&kernel, &placed)?;
        }
        Ok(Self {
            program: program.to_owned(),
            home,
        })
    }

    /// Returns the command with these arguments.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(args).env("BLOCKBOX_HOME", &self.home);
        command
    }

    /// Prints and runs the command.
    pub(crate) fn show(&self, args: &[&str]) -> Result<()> {
        let mut shown = Command::new("blockbox");
        println!("$ {}", shell::line(shown.args(args)));
        shell::run(&mut self.command(args))
    }

    /// Returns what the command writes to stdout.
    pub(crate) fn output(&self, args: &[&str]) -> Result<String> {
        shell::output(&mut self.command(args))
    }
}
