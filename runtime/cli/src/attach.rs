//! `blockbox attach`

use std::process::ExitCode;

use blockbox::Sandbox;
use blockbox::store::Store;
use clap::Args;

use super::signals::Watcher;
use super::streams::{Connected, Left, connect};
use super::terminal::{DetachKeys, window_size};

/// Connect this terminal, or this process's streams, to the command of a running sandbox. The exit
/// status is the command's.
#[derive(Debug, Args)]
pub(super) struct Attach {
    /// The sandbox's name or id
    #[arg(value_name = "NAME")]
    name: String,
    /// The keys that leave the command running: `a` or `ctrl-a`, separated by commas
    #[arg(long, default_value = "ctrl-p,ctrl-q", value_name = "KEYS")]
    detach_keys: DetachKeys,
    /// Do not pass standard input to the command
    #[arg(long)]
    no_stdin: bool,
    /// Pass signals to the command
    #[arg(
        long,
        default_value = "true",
        action = clap::ArgAction::Set,
        value_name = "true|false"
    )]
    sig_proxy: bool,
}

impl Attach {
    pub(super) fn execute(self, store: &Store) -> anyhow::Result<ExitCode> {
        let watcher = Watcher::new()?;
        let sandbox = Sandbox::open(store, &self.name)?;
        let spec = sandbox.info()?.spec;
        let tty = spec.process.is_some_and(|process| process.tty);
        let child = sandbox.attach(!self.no_stdin)?;
        if let Some(size) = window_size().filter(|_| tty) {
            child.control().resize(size)?;
        }
        let connected = Connected {
            tty,
            detach_keys: self.detach_keys,
            signals: self.sig_proxy,
        };
        Ok(match connect(child, connected, &watcher)? {
            Left::Ended(status) => ExitCode::from(status.code()),
            Left::Detached => ExitCode::SUCCESS,
        })
    }
}
