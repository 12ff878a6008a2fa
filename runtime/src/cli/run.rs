//! `blockbox run`

use std::ffi::OsString;
use std::io::{self, IsTerminal};
use std::num::NonZeroU8;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, ValueEnum};

use super::attach;
use super::progress::Bars;
use super::pull::Source;
use super::size::size;
use crate::error::Error;
use crate::guest::WindowSize;
use crate::image::Image;
use crate::process::{Overrides, exec_spec};
use crate::pull::pull;
use crate::sandbox::{Machine, Sandbox};
use crate::store::Store;
use crate::vmm;

/// Run a command in a new sandbox. Its exit status is the command's: 127 where there is no such command, 126 where it cannot be
/// executed, 128 and the signal's number where a signal ended it, 125 where blockbox failed.
#[derive(Debug, Args)]
pub(super) struct Run {
    /// The image: its name, as for `pull`
    #[arg(value_name = "REFERENCE")]
    reference: String,
    /// The command and its arguments, in place of the image's Cmd
    #[arg(
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "COMMAND"
    )]
    arguments: Vec<OsString>,

    /// The sandbox's name [default: a random one]
    #[arg(long)]
    name: Option<String>,
    /// Remove the sandbox when the command ends
    #[arg(long)]
    rm: bool,
    /// When to get the image
    #[arg(long, value_enum, default_value_t)]
    pull: Pull,
    #[command(flatten)]
    source: Source,

    /// Set a variable (KEY=VALUE), or take over this environment's (KEY)
    #[arg(short, long, value_name = "KEY[=VALUE]")]
    env: Vec<OsString>,
    /// Replace the image's Entrypoint and clear its Cmd
    #[arg(long, value_name = "PROGRAM")]
    entrypoint: Option<OsString>,
    /// Replace the image's WorkingDir
    #[arg(short, long, value_name = "DIR")]
    workdir: Option<OsString>,
    /// Replace the image's User
    #[arg(short, long, value_name = "NAME|UID[:GROUP|GID]")]
    user: Option<String>,
    /// The host name [default: the sandbox's name]
    #[arg(long)]
    hostname: Option<String>,
    /// Give the command a terminal [default: where input and output are terminals]
    #[arg(short, long, overrides_with = "no_tty")]
    tty: bool,
    /// Give the command no terminal
    #[arg(long)]
    no_tty: bool,
    /// Accepted as docker's: the input always reaches the command
    #[arg(short, long)]
    interactive: bool,

    /// The virtual machine monitor
    #[arg(long, value_enum, default_value_t)]
    vmm: Monitor,
    /// How many virtual CPUs
    #[arg(long, default_value = "2", value_name = "N")]
    cpus: NonZeroU8,
    /// The guest's memory
    #[arg(short, long, default_value = "1G", value_parser = size, value_name = "SIZE")]
    memory: u64,
    /// The size of the writable disk; it takes room on the host only as it is written
    #[arg(long, default_value = "4G", value_parser = size, value_name = "SIZE")]
    upper_size: u64,
    /// The guest kernel: an ELF vmlinux or libkrunfw [default: what `doctor` finds]
    #[arg(long, value_name = "FILE")]
    kernel: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Monitor {
    /// libkrun where hardware virtualisation works, else QEMU
    #[default]
    Auto,
    /// libkrun
    Libkrun,
    /// QEMU, without hardware virtualisation where there is none
    Qemu,
}

impl From<Monitor> for vmm::Choice {
    fn from(monitor: Monitor) -> Self {
        match monitor {
            Monitor::Auto => Self::Auto,
            Monitor::Libkrun => Self::Libkrun,
            Monitor::Qemu => Self::Qemu,
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Pull {
    /// Where the store has none of this name
    #[default]
    Missing,
    /// Every time
    Always,
    /// Use the store only
    Never,
}

impl Run {
    pub(super) fn execute(self, store: &Store) -> anyhow::Result<ExitCode> {
        let image = self.image(store)?;
        let terminal = io::stdin().is_terminal() && io::stdout().is_terminal();
        let tty = !self.no_tty && (self.tty || terminal);
        let overrides = Overrides {
            arguments: self.arguments,
            entrypoint: self.entrypoint,
            env: self.env,
            workdir: self.workdir,
            user: self.user,
            tty: tty.then(|| attach::window_size().unwrap_or(WindowSize { rows: 24, cols: 80 })),
        };
        let spec = exec_spec(image.config().config().as_ref(), overrides)?;
        let name = self.name.as_deref();
        let sandbox = Sandbox::create(store, name, &self.reference, &image, self.upper_size)?;
        let machine = Machine {
            vmm: self.vmm.into(),
            cpus: self.cpus.get(),
            memory: self.memory,
            kernel: self.kernel,
            hostname: self.hostname.unwrap_or_else(|| sandbox.name().to_owned()),
        };
        let running = match sandbox.start(store, &image, &machine) {
            Ok(running) => running,
            Err(error) => {
                // Its command never ran, so it holds nothing worth keeping.
                sandbox.remove()?;
                return Err(error.into());
            }
        };
        let status = attach::run(&running, &spec);
        let stopped = running.stop();
        if self.rm {
            sandbox.remove()?;
        }
        let status = status?;
        stopped?;
        Ok(ExitCode::from(status))
    }

    fn image(&self, store: &Store) -> anyhow::Result<Image> {
        if self.pull != Pull::Always {
            match Image::find(store, &self.reference) {
                Err(Error::NoImage(_)) if self.pull == Pull::Missing => {}
                found => return Ok(found?),
            }
        }
        let reference: ocipull::Reference = self.reference.parse()?;
        Ok(pull(
            store,
            &reference,
            &self.source.options(),
            &Bars::new(),
        )?)
    }
}
