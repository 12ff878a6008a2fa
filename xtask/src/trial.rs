//! `cargo xtask trial`: tests that take too long for every run of the tests.

mod files;
mod images;
mod services;

use std::process::ExitCode;

use anyhow::Result;
use clap::Subcommand;

#[derive(Subcommand)]
pub(crate) enum Trial {
    /// Run services as their official images configure and start them
    Images(images::Images),
    /// Run other projects' file system tests, fsx and pjdfstest, on a sandbox's root, share and
    /// volume
    Files(files::Files),
}

pub(crate) fn run(trial: Trial) -> Result<ExitCode> {
    match trial {
        Trial::Images(options) => images::run(options),
        Trial::Files(options) => files::run(&options),
    }
}
