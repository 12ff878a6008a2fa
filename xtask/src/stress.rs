//! `cargo xtask stress`: kills processes at random moments, and runs many at once, as long as that
//! takes.

mod mount;

use anyhow::Result;

use self::mount::{FileSystem, Mount};
use crate::{setup, shell};

/// Options of the stress test.
#[derive(clap::Args, Debug)]
pub(crate) struct Stress {
    /// How many clients and monitors are killed
    #[arg(long, default_value = "200")]
    kills: u64,
    /// How many sandboxes each of eight processes makes, uses and removes
    #[arg(long, default_value = "100")]
    rounds: u64,
    /// Every how many of these is booted
    #[arg(long, default_value = "10", value_parser = clap::value_parser!(u64).range(1..))]
    boots: u64,
    /// How many copies are made of a sandbox that writes and syncs
    #[arg(long, default_value = "100")]
    forks: u64,
    /// How busy this machine is otherwise, which decides how many of these copies may hold the
    /// sandbox up for more than 100 ms
    #[arg(long, value_enum, default_value = "busy")]
    load: Load,
    /// How many copies resume from one memory
    #[arg(long, default_value = "20")]
    clones: u64,
    /// How many sources, clones and copying programs are killed
    #[arg(long, default_value = "40")]
    clone_kills: u64,
    /// Only the tests whose names contain this
    #[arg(long, default_value = "")]
    only: String,
    /// A file system of the host for the stores: a separate mount (as root) instead of the
    /// temporary folder
    #[arg(long, value_enum)]
    host: Option<FileSystem>,
}

/// How busy the machine is.
#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
enum Load {
    /// Half of the copies of a disk are in time
    Busy,
    /// 99% of the copies of a disk are in time, and half of those with memory
    Idle,
}

/// Runs the tests that `cargo xtask test` leaves out because they take minutes.
pub(crate) fn run(options: &Stress) -> Result<()> {
    setup::run()?;
    let host = options.host.map(Mount::new).transpose()?;
    let mut cargo = shell::cargo();
    cargo
        .args([
            "test",
            "--package",
            "blockbox-cli",
            "--test",
            "stress",
            "--",
        ])
        .args(["--ignored", "--nocapture", "--test-threads", "1"])
        .arg(&options.only)
        .env("BLOCKBOX_KILLS", options.kills.to_string())
        .env("BLOCKBOX_ROUNDS", options.rounds.to_string())
        .env("BLOCKBOX_BOOTS", options.boots.to_string())
        .env("BLOCKBOX_FORKS", options.forks.to_string())
        .env(
            "BLOCKBOX_IDLE",
            u64::from(options.load == Load::Idle).to_string(),
        )
        .env("BLOCKBOX_CLONES", options.clones.to_string())
        .env("BLOCKBOX_CLONE_KILLS", options.clone_kills.to_string());
    if let Some(host) = &host {
        cargo.env("TMPDIR", host.path());
    }
    shell::run(&mut cargo)
}
