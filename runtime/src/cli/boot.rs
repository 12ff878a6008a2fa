//! What `run` and `start` share: the command, the machine, and putting one into the other.

use std::ffi::OsString;
use std::io::{self, IsTerminal};
use std::num::NonZeroU8;
use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::attach;
use super::size::size;
use crate::guest::{ExecSpec, WindowSize};
use crate::image::Image;
use crate::process::{Overrides, exec_spec};
use crate::sandbox::{Machine, Running, Sandbox};
use crate::store::Store;
use crate::vmm;

/// What to execute.
#[derive(Debug, Args)]
pub(super) struct Process {
    /// The command and its arguments, in place of the image's Cmd
    #[arg(
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "COMMAND"
    )]
    arguments: Vec<OsString>,
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
    /// Give the command a terminal [default: where input and output are terminals]
    #[arg(short, long, overrides_with = "no_tty")]
    tty: bool,
    /// Give the command no terminal
    #[arg(long)]
    no_tty: bool,
    /// Accepted as docker's: the input always reaches the command
    #[arg(short, long)]
    interactive: bool,
}

/// What to execute it in.
#[derive(Debug, Args)]
pub(super) struct Options {
    /// The host name [default: the sandbox's name]
    #[arg(long)]
    hostname: Option<String>,
    /// The virtual machine monitor
    #[arg(long, value_enum, default_value_t)]
    vmm: Monitor,
    /// How many virtual CPUs
    #[arg(long, default_value = "2", value_name = "N")]
    cpus: NonZeroU8,
    /// The guest's memory
    #[arg(short, long, default_value = "1G", value_parser = size, value_name = "SIZE")]
    memory: u64,
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

impl Process {
    /// Combines the command line with the image's configuration.
    pub(super) fn spec(self, image: &Image) -> crate::Result<ExecSpec> {
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
        exec_spec(image.config().config().as_ref(), overrides)
    }
}

impl Options {
    /// Boots the sandbox.
    pub(super) fn start(
        self,
        store: &Store,
        sandbox: &Sandbox,
        image: &Image,
    ) -> crate::Result<Running> {
        let machine = Machine {
            vmm: self.vmm.into(),
            cpus: self.cpus.get(),
            memory: self.memory,
            kernel: self.kernel,
            hostname: self.hostname.unwrap_or_else(|| sandbox.name().to_owned()),
        };
        sandbox.start(store, image, &machine)
    }
}

/// Runs the command to its end, switches the machine off, and gives the exit code that a shell would.
pub(super) fn run(running: Running, spec: &ExecSpec) -> anyhow::Result<u8> {
    let status = attach::run(&running, spec);
    let stopped = running.stop();
    let status = status?;
    stopped?;
    Ok(status)
}
