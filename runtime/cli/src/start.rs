//! `blockbox start`

use std::process::ExitCode;

use blockbox::guest::GuestError;
use blockbox::state::Status;
use blockbox::store::Store;
use blockbox::{Error, Sandbox, StartOptions};
use clap::Args;

use super::boot;
use super::change::changed;
use super::foreground::{self, Boots};
use super::network;
use super::signals::Watcher;
use super::storage::Secrets;
use super::streams::Connected;

/// Start a stopped sandbox with its options and all its files. With a command after `--`, it runs
/// that command in the foreground instead of its own; the exit status is then as for `run`.
#[derive(Debug, Args)]
pub(super) struct Start {
    /// The sandbox's name or id
    #[arg(value_name = "NAME")]
    name: String,
    /// Connect this terminal, or this process's streams, to the command
    #[arg(short, long)]
    attach: bool,
    /// The host name, from now on
    #[arg(long, value_parser = boot::hostname)]
    hostname: Option<String>,
    #[command(flatten)]
    process: boot::Process,
    #[command(flatten)]
    options: boot::Options,
    #[command(flatten)]
    secrets: Secrets,
}

impl Start {
    pub(super) fn execute(self, store: &Store) -> anyhow::Result<ExitCode> {
        let watcher = Watcher::new()?;
        let sandbox = Sandbox::open(store, &self.name)?;
        let info = sandbox.info()?;
        let foreground = self.attach || self.process.is_given();
        let up = matches!(
            info.state.status,
            Status::Starting | Status::Running | Status::Paused
        );
        if up && !foreground {
            println!("{}", self.name);
            return Ok(ExitCode::SUCCESS);
        }
        let spec = changed(store, info.spec, &self.process, &self.options, foreground)?;
        let tty = spec.process.as_ref().is_some_and(|process| process.tty);
        let mut spec = spec;
        if self.hostname.is_some() {
            spec.hostname = self.hostname;
        }
        let mut start = StartOptions::default();
        for (secret, value) in self.secrets.read()? {
            if let Some(value) = value {
                start = start.secret(&secret.name, value);
            }
            spec.secrets.retain(|other| other.name != secret.name);
            spec.secrets.push(secret);
        }
        watcher.launch();
        let boot = sandbox.boot(start.spec(spec))?;
        let booted = match foreground::wait(&sandbox, boot, &watcher)? {
            Boots::Up(booted) => booted,
            Boots::GivenUp(code) => return Ok(code),
        };
        let info = sandbox.info()?;
        network::announce(&info.spec, &info.state.ports);
        if foreground {
            let connected = Connected {
                tty,
                detach_keys: self.process.terminal.detach_keys.clone(),
                signals: true,
            };
            return foreground::run(booted, true, connected, &watcher);
        }
        watcher.over();
        match booted.start() {
            Ok(_) => println!("{}", self.name),
            Err(Error::Guest(GuestError::SpawnFailed { code, message })) => {
                eprintln!("blockbox: {message}");
                return Ok(ExitCode::from(code));
            }
            Err(error) => return Err(error.into()),
        }
        Ok(ExitCode::SUCCESS)
    }
}
