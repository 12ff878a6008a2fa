//! `blockbox stop`, `restart`, `kill`, `wait`, `rm` and `rename`

use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use blockbox::spec::Signal;
use blockbox::store::Store;
use blockbox::{Error, Sandbox};
use clap::Args;

use super::each::each;

/// Stop sandboxes: the command gets its stop signal, and SIGKILL if it does not end; then the disk
/// is unmounted.
#[derive(Debug, Args)]
pub(super) struct Stop {
    /// The sandboxes, by name or id
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,
    #[command(flatten)]
    how: How,
}

/// How to stop sandboxes.
#[derive(Debug, Args)]
struct How {
    /// How many seconds the command has to end before it is killed [default: the sandbox's, else
    /// 10]
    #[arg(short, long, visible_alias = "timeout", value_name = "SECONDS")]
    time: Option<u32>,
    /// The signal that asks the command to stop [default: the sandbox's, else SIGTERM]
    #[arg(short, long, value_name = "SIGNAL")]
    signal: Option<String>,
}

impl How {
    fn stop(&self, sandbox: &Sandbox) -> anyhow::Result<()> {
        let time = self.time.map(|time| Duration::from_secs(time.into()));
        let signal = self.signal.as_deref().map(str::parse).transpose()?;
        sandbox.stop(signal, time)?;
        Ok(())
    }
}

impl Stop {
    pub(super) fn execute(self, store: &Store) -> anyhow::Result<ExitCode> {
        each(&self.names, |name| {
            self.how.stop(&Sandbox::open(store, name)?)?;
            said(name)
        })
    }
}

/// Stop sandboxes and start them again.
#[derive(Debug, Args)]
pub(super) struct Restart {
    /// The sandboxes, by name or id
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,
    #[command(flatten)]
    how: How,
}

impl Restart {
    pub(super) fn execute(self, store: &Store) -> anyhow::Result<ExitCode> {
        each(&self.names, |name| {
            let sandbox = Sandbox::open(store, name)?;
            self.how.stop(&sandbox)?;
            sandbox.start()?;
            said(name)
        })
    }
}

/// Send a signal to the commands of running sandboxes.
#[derive(Debug, Args)]
pub(super) struct Kill {
    /// The sandboxes, by name or id
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,
    /// The signal
    #[arg(short, long, default_value = "KILL", value_name = "SIGNAL")]
    signal: String,
}

impl Kill {
    pub(super) fn execute(self, store: &Store) -> anyhow::Result<ExitCode> {
        // Parsed here, because docker's exit status for it is 1, not that of an error of usage.
        let signal: Signal = self.signal.parse()?;
        each(&self.names, |name| {
            Sandbox::open(store, name)?.kill(signal)?;
            said(name)
        })
    }
}

/// Wait until sandboxes have ended, and print their commands' exit codes.
#[derive(Debug, Args)]
pub(super) struct Wait {
    /// The sandboxes, by name or id
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,
}

impl Wait {
    pub(super) fn execute(self, store: &Store) -> anyhow::Result<ExitCode> {
        each(&self.names, |name| {
            let ended = Sandbox::open(store, name)?.wait()?;
            match (ended.exit_code, ended.error) {
                (Some(code), _) => said(&code.to_string()),
                (None, Some(error)) => anyhow::bail!("{name}: {error}"),
                // The sandbox was never started.
                (None, None) => said("0"),
            }
        })
    }
}

/// Remove sandboxes and all files in them.
#[derive(Debug, Args)]
pub(super) struct Rm {
    /// The sandboxes, by name or id
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,
    /// Kill running sandboxes, remove those whose records are damaged, and ignore names that do
    /// not exist
    #[arg(short, long)]
    force: bool,
    /// Accepted for compatibility with docker: the volumes of an image are on the sandbox's own
    /// disk, and removed with it
    #[arg(short, long)]
    volumes: bool,
}

impl Rm {
    pub(super) fn execute(self, store: &Store) -> anyhow::Result<ExitCode> {
        each(&self.names, |name| {
            let removed = Sandbox::open(store, name).and_then(|s| s.remove(self.force));
            match removed {
                Err(Error::NoSandbox(_)) if self.force => Ok(()),
                removed => {
                    removed?;
                    said(name)
                }
            }
        })
    }
}

/// Give a sandbox another name, running or not.
#[derive(Debug, Args)]
pub(super) struct Rename {
    /// The sandbox's name or id
    #[arg(value_name = "NAME")]
    name: String,
    /// Its new name
    #[arg(value_name = "NEW")]
    new: String,
}

impl Rename {
    pub(super) fn execute(self, store: &Store) -> anyhow::Result<()> {
        Sandbox::open(store, &self.name)?.rename(&self.new)?;
        Ok(())
    }
}

fn said(text: &str) -> anyhow::Result<()> {
    writeln!(std::io::stdout(), "{text}")?;
    Ok(())
}
