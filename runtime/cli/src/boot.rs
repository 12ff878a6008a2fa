//! What `run` and `start` share: the command, the machine, and putting one into the other.

use std::ffi::OsString;
use std::io::{self, IsTerminal};
use std::num::NonZeroU8;
use std::path::PathBuf;

use blockbox::guest::{ExecSpec, TMPFS_DIRS, WindowSize};
use blockbox::image::Image;
use blockbox::process::{Overrides, exec_spec};
use blockbox::sandbox::{Machine, Running, Sandbox, check_hostname};
use blockbox::store::Store;
use blockbox::vmm;
use clap::{Args, ValueEnum};

use super::attach;
use super::size::size;

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
    #[arg(long, value_parser = hostname)]
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
    /// Whether a folder is in the guest's memory or on the writable disk: `/tmp` and `/run` are in memory
    #[arg(long, value_parser = tmpfs, value_name = "DIR=on|off")]
    tmpfs: Vec<(&'static str, bool)>,
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
    pub(super) fn spec(self, image: &Image) -> blockbox::Result<ExecSpec> {
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
    ) -> blockbox::Result<Running> {
        let machine = Machine {
            vmm: self.vmm.into(),
            cpus: self.cpus.get(),
            memory: self.memory,
            kernel: self.kernel,
            hostname: self.hostname.unwrap_or_else(|| sandbox.name().to_owned()),
            on_disk: on_disk(&self.tmpfs),
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

fn hostname(text: &str) -> blockbox::Result<String> {
    check_hostname(text)?;
    Ok(text.to_owned())
}

fn tmpfs(text: &str) -> Result<(&'static str, bool), String> {
    let (folder, state) = text.split_once('=').unwrap_or((text, "on"));
    let known = TMPFS_DIRS.map(|(folder, _)| folder);
    let folder = known.into_iter().find(|known| *known == folder);
    let folder = folder.ok_or_else(|| format!("use one of {}", known.join(", ")))?;
    match state {
        "on" => Ok((folder, true)),
        "off" => Ok((folder, false)),
        other => Err(format!("{other:?} is neither on nor off")),
    }
}

/// The folders that are off in the end: where one is given twice, the last counts.
fn on_disk(given: &[(&str, bool)]) -> Vec<String> {
    let last = |folder: &&str| given.iter().rfind(|(name, _)| name == folder);
    TMPFS_DIRS
        .map(|(folder, _)| folder)
        .into_iter()
        .filter(|folder| last(folder).is_some_and(|(_, in_memory)| !in_memory))
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_word_on_a_folder_counts() {
        let given = ["/tmp=off", "/run=off", "/run=on"].map(|text| tmpfs(text).expect("valid"));
        assert_eq!(on_disk(&given), ["/tmp"]);
        assert!(on_disk(&[]).is_empty());
    }

    #[test]
    fn only_folders_that_are_a_tmpfs_can_be_taken_off() {
        for wrong in ["/srv=off", "/tmp=maybe", "tmp", ""] {
            assert!(tmpfs(wrong).is_err(), "{wrong}");
        }
    }
}
