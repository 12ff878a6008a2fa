//! `cargo xtask stress`: kills at random moments, and many processes at once, for as long as they take.

use anyhow::Result;

use crate::{setup, shell};

/// How much of it.
#[derive(clap::Args, Debug)]
pub(crate) struct Stress {
    /// How many clients and monitors are killed
    #[arg(long, default_value = "200")]
    kills: u64,
    /// How many sandboxes each of eight processes makes, uses and removes
    #[arg(long, default_value = "100")]
    rounds: u64,
    /// One in so many of these is booted
    #[arg(long, default_value = "10", value_parser = clap::value_parser!(u64).range(1..))]
    boots: u64,
}

/// Runs the tests that `cargo xtask test` leaves out because they take minutes.
pub(crate) fn run(options: &Stress) -> Result<()> {
    setup::run()?;
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
        .env("BLOCKBOX_KILLS", options.kills.to_string())
        .env("BLOCKBOX_ROUNDS", options.rounds.to_string())
        .env("BLOCKBOX_BOOTS", options.boots.to_string());
    shell::run(&mut cargo)
}
