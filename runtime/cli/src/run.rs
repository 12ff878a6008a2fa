//! `blockbox run`

use std::process::ExitCode;

use blockbox::guest::GuestError;
use blockbox::store::Store;
use clap::Args;

use super::create::NewSandbox;
use super::foreground::{self, Boots};
use super::network;
use super::signals::Watcher;
use super::streams::Connected;

/// Run a command in a new sandbox. The exit status is the command's: 127 if there is no such
/// command, 126 if it cannot be executed, 128 plus the signal's number if a signal ended it, 125 if
/// blockbox failed.
#[derive(Debug, Args)]
#[command(disable_help_flag = true)]
pub(super) struct Run {
    /// Leave the sandbox running, and print its id
    #[arg(short, long)]
    detach: bool,
    /// Start as a copy of a machine that `warm` made of the image, instead of booting. If there is
    /// none with the same CPUs, memory and other options, it boots, and reports why
    #[arg(long, conflicts_with = "snapshot")]
    from_pool: bool,
    #[command(flatten)]
    options: NewSandbox,
}

impl Run {
    pub(super) fn execute(self, store: &Store) -> anyhow::Result<ExitCode> {
        // Watch for signals before there is anything to clean up.
        let watcher = Watcher::new()?;
        let options = &self.options;
        let mut id_file = options.id_file()?;
        let (sandbox, boot) = match options.of_snapshot(store, self.detach)? {
            Some((snapshot, options, work)) => {
                watcher.launch();
                let launched = snapshot.launch(&options)?;
                work.finish();
                launched
            }
            None => {
                let root = options.root(store)?;
                let builder = options.builder(store, &root, self.detach)?;
                watcher.launch();
                builder.from_pool(self.from_pool).launch()?
            }
        };
        let spec = sandbox.info()?.spec;
        let booted = match foreground::wait(&sandbox, boot, &watcher)? {
            Boots::Up(booted) => booted,
            Boots::GivenUp(code) => return Ok(code),
        };
        id_file.write(&spec.id)?;
        network::announce(&spec, &sandbox.info()?.state.ports);
        if !self.detach {
            let terminal = &options.process.terminal;
            let connected = Connected {
                tty: terminal.tty(false),
                detach_keys: terminal.detach_keys.clone(),
                signals: true,
            };
            return foreground::run(booted, true, connected, &watcher);
        }
        watcher.over();
        match booted.start() {
            Ok(_) => println!("{}", spec.id),
            Err(blockbox::Error::Guest(GuestError::SpawnFailed { code, message })) => {
                eprintln!("blockbox: {message}");
                return Ok(ExitCode::from(code));
            }
            Err(error) => return Err(error.into()),
        }
        Ok(ExitCode::SUCCESS)
    }
}
