//! `blockbox exec`

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use blockbox::guest::GuestError;
use blockbox::store::Store;
use blockbox::{Error, ExecOptions, Sandbox};
use clap::Args;

use super::env_file;
use super::signals::Watcher;
use super::streams::{Connected, Left, connect};
use super::terminal::{DetachKeys, is_interactive, window_size};

/// Run a command in a running sandbox. Its exit status is as for `run`.
#[derive(Debug, Args)]
pub(super) struct Exec {
    /// The sandbox's name or id
    #[arg(value_name = "NAME")]
    name: String,
    /// The command and its arguments
    #[arg(
        required = true,
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "COMMAND"
    )]
    command: Vec<OsString>,
    /// Leave the command running
    #[arg(short, long)]
    detach: bool,
    /// Pass standard input to the command [default: with a terminal]
    #[arg(short, long)]
    interactive: bool,
    /// Give the command a terminal [default: if input and output are terminals]
    #[arg(short, long, conflicts_with = "no_tty")]
    tty: bool,
    /// Do not give the command a terminal
    #[arg(long)]
    no_tty: bool,
    /// Set a variable (KEY=VALUE), or copy it from this environment (KEY)
    #[arg(short, long, value_name = "KEY[=VALUE]", value_parser = env_file::variable())]
    env: Vec<OsString>,
    /// Set the variables that a file lists, a line each
    #[arg(long, value_name = "FILE")]
    env_file: Vec<PathBuf>,
    /// The working directory, which must exist [default: the sandbox's]
    #[arg(short, long, value_name = "DIR", value_parser = env_file::directory())]
    workdir: Option<OsString>,
    /// The user [default: the sandbox's]
    #[arg(short, long, value_name = "NAME|UID[:GROUP|GID]")]
    user: Option<String>,
    /// The keys that leave the command running: `a` or `ctrl-a`, separated by commas
    #[arg(long, default_value = "ctrl-p,ctrl-q", value_name = "KEYS")]
    detach_keys: DetachKeys,
}

impl Exec {
    pub(super) fn execute(self, store: &Store) -> anyhow::Result<ExitCode> {
        let watcher = Watcher::new()?;
        let sandbox = Sandbox::open(store, &self.name)?;
        let tty = !self.no_tty && (self.tty || !self.detach && is_interactive());
        let input = !self.detach && (self.interactive || tty && is_interactive());
        let mut env = env_file::read(&self.env_file)?;
        env.extend(self.env);
        let mut options = ExecOptions::new(self.command).env(env).stdin(input);
        if let Some(workdir) = self.workdir {
            options = options.workdir(workdir);
        }
        if let Some(user) = self.user {
            options = options.user(user);
        }
        if tty {
            options = options.tty(window_size());
        }
        let child = match sandbox.exec(&options) {
            Err(Error::Guest(GuestError::SpawnFailed { code, message })) => {
                eprintln!("blockbox: {message}");
                return Ok(ExitCode::from(code));
            }
            child => child?,
        };
        if self.detach {
            child.detach();
            return Ok(ExitCode::SUCCESS);
        }
        let connected = Connected {
            tty,
            detach_keys: self.detach_keys,
            signals: true,
        };
        Ok(match connect(child, connected, &watcher)? {
            Left::Ended(status) => ExitCode::from(status.code()),
            Left::Detached => ExitCode::SUCCESS,
        })
    }
}
