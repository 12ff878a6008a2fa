//! Options that `run`, `create` and `start` share: the command and the machine.

use std::ffi::OsString;
use std::num::NonZeroU8;
use std::path::PathBuf;

use anyhow::Context;
use blockbox::check_hostname;
use blockbox::guest::TMPFS_DIRS;
use blockbox::process::Overrides;
use blockbox::spec::{Arch, Machine, Mount, Signal, VmmChoice};
use clap::{Args, ValueEnum};

use super::env_file;
use super::size::{cpus, size};
use super::terminal::{DetachKeys, is_interactive};

/// The variable with the monitor of new machines.
const MONITOR_VARIABLE: &str = "BLOCKBOX_VMM";

/// Options of the command to run.
#[derive(Clone, Debug, Args)]
pub(super) struct Process {
    /// The command and its arguments, in place of the image's Cmd
    #[arg(
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "COMMAND"
    )]
    pub(super) arguments: Vec<OsString>,
    /// Set a variable (KEY=VALUE), or copy it from this environment (KEY)
    #[arg(short, long, value_name = "KEY[=VALUE]", value_parser = env_file::variable())]
    env: Vec<OsString>,
    /// Set the variables that a file lists, a line each
    #[arg(long, value_name = "FILE")]
    env_file: Vec<PathBuf>,
    /// Replace the image's Entrypoint and clear its Cmd
    #[arg(long, value_name = "PROGRAM")]
    entrypoint: Option<OsString>,
    /// Replace the image's WorkingDir
    #[arg(short, long, value_name = "DIR", value_parser = env_file::directory())]
    workdir: Option<OsString>,
    /// Replace the image's User
    #[arg(short, long, value_name = "NAME|UID[:GROUP|GID]")]
    user: Option<String>,
    #[command(flatten)]
    pub(super) terminal: Terminal,
    /// The signal that asks the command to stop [default: the image's, else SIGTERM]
    #[arg(long, value_name = "SIGNAL")]
    stop_signal: Option<Signal>,
    /// How many seconds the command has to stop before it is killed [default: 10]
    #[arg(long, value_name = "SECONDS")]
    stop_timeout: Option<u32>,
    /// Whether the command runs as process 1, as systemd needs: true if its name, or the name after
    /// an entrypoint, is init or systemd; false never; always
    #[arg(long, value_enum, default_value_t, value_name = "WHEN")]
    systemd: Systemd,
}

/// When a command is process 1, with podman's values.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
enum Systemd {
    #[default]
    True,
    False,
    Always,
}

/// How a command is connected to this process.
#[derive(Clone, Debug, Args)]
pub(super) struct Terminal {
    /// Give the command a terminal [default: if input and output are terminals]
    #[arg(short, long, conflicts_with = "no_tty")]
    tty: bool,
    /// Do not give the command a terminal
    #[arg(long)]
    no_tty: bool,
    /// Keep the command's input open
    #[arg(short, long)]
    pub(super) interactive: bool,
    /// The keys that leave the command running: `a` or `ctrl-a`, separated by commas
    #[arg(long, default_value = "ctrl-p,ctrl-q", value_name = "KEYS")]
    pub(super) detach_keys: DetachKeys,
}

impl Terminal {
    /// Returns whether the command gets a terminal; in the background, only if requested.
    pub(super) fn tty(&self, background: bool) -> bool {
        !self.no_tty && (self.tty || !background && is_interactive())
    }

    /// Returns whether no option was given.
    pub(super) fn is_default(&self) -> bool {
        !self.tty && !self.no_tty && !self.interactive
    }
}

/// Options of the machine that runs the command.
#[derive(Debug, Args)]
pub(super) struct Options {
    /// The virtual machine monitor [default: $BLOCKBOX_VMM, else auto]
    #[arg(long, value_enum)]
    vmm: Option<Monitor>,
    /// How many virtual CPUs; fractions are rounded up [default: 2]
    #[arg(long, value_parser = cpus, value_name = "N")]
    cpus: Option<NonZeroU8>,
    /// The guest's memory [default: 1G]
    #[arg(short, long, value_parser = size, value_name = "SIZE")]
    memory: Option<u64>,
    /// Mount an empty tmpfs at a folder, with size= and mode= after a colon if wanted; `/tmp` and
    /// `/run` are a tmpfs unless off, which keeps them on the writable disk
    #[arg(long, value_parser = tmpfs, value_name = "DIR[:OPTIONS]|DIR=on|off")]
    tmpfs: Vec<Tmpfs>,
    /// Keep the guest's memory in a file that `snapshot create --memory` and `fork --memory` can
    /// copy; needs QEMU
    #[arg(long)]
    forkable: bool,
    /// Do not confine the virtual machine's process, to debug it
    #[arg(long)]
    no_confine: bool,
    /// The guest kernel: an ELF vmlinux or libkrunfw [default: the one `doctor` finds]
    #[arg(long, value_name = "FILE")]
    kernel: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Monitor {
    /// libkrun where hardware virtualisation works, else QEMU
    Auto,
    /// libkrun
    Libkrun,
    /// QEMU, without hardware virtualisation where there is none
    Qemu,
}

/// A tmpfs that the command line adds or turns off.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Tmpfs {
    /// One of the folders that are a tmpfs by default, and whether it stays one.
    Own(&'static str, bool),
    /// A tmpfs at any other folder.
    Mount(Mount),
}

impl From<Monitor> for VmmChoice {
    fn from(monitor: Monitor) -> Self {
        match monitor {
            Monitor::Auto => Self::Auto,
            Monitor::Libkrun => Self::Libkrun,
            Monitor::Qemu => Self::Qemu,
        }
    }
}

impl Process {
    /// Returns what the command line overrides of the command. In the background its input is open
    /// only if requested.
    pub(super) fn overrides(&self, background: bool) -> anyhow::Result<Overrides> {
        let mut env = env_file::read(&self.env_file)?;
        env.extend(self.env.iter().cloned());
        Ok(Overrides {
            arguments: self.arguments.clone(),
            entrypoint: self.entrypoint.clone(),
            env,
            workdir: self.workdir.clone(),
            user: self.user.clone(),
            tty: self.terminal.tty(background),
            stdin: self.terminal.interactive,
            stop_signal: self.stop_signal,
            stop_timeout_ms: self.stop_timeout.map(|seconds| u64::from(seconds) * 1000),
            init: match self.systemd {
                Systemd::True => None,
                Systemd::False => Some(false),
                Systemd::Always => Some(true),
            },
        })
    }

    /// Returns whether the command line names a command, or changes how it runs.
    pub(super) fn is_given(&self) -> bool {
        !self.arguments.is_empty() || self.entrypoint.is_some()
    }

    /// Returns the variables of the command line and of its files.
    pub(super) fn env(&self) -> anyhow::Result<Vec<OsString>> {
        let mut env = env_file::read(&self.env_file)?;
        env.extend(self.env.iter().cloned());
        Ok(env)
    }

    /// Returns the working directory and the user of the command line.
    pub(super) fn place(&self) -> (Option<&OsString>, Option<&String>) {
        (self.workdir.as_ref(), self.user.as_ref())
    }
}

impl Options {
    /// Returns a new machine, of a processor or of the host's, with the options of the command
    /// line. The variable is for the host's: only QEMU has others.
    pub(super) fn machine(&self, arch: Option<Arch>) -> anyhow::Result<Machine> {
        let mut machine = Machine::default();
        machine.arch = arch;
        if self.vmm.is_none() && arch.is_none() {
            machine.vmm = default_monitor(std::env::var_os(MONITOR_VARIABLE))?.into();
        }
        self.change(&mut machine);
        Ok(machine)
    }

    /// Applies the machine options of the command line.
    pub(super) fn change(&self, machine: &mut Machine) {
        if let Some(vmm) = self.vmm {
            machine.vmm = vmm.into();
        }
        if let Some(cpus) = self.cpus {
            machine.cpus = cpus.get();
        }
        if let Some(memory) = self.memory {
            machine.memory = memory;
        }
        if self.forkable {
            machine.forkable = true;
        }
        if self.no_confine {
            machine.confine = false;
        }
        if let Some(kernel) = &self.kernel {
            // The monitor's process runs in another folder.
            machine.kernel = Some(std::path::absolute(kernel).unwrap_or_else(|_| kernel.clone()));
        }
    }

    /// Returns whether the machine is to be copied while it runs.
    pub(super) fn is_forkable(&self) -> bool {
        self.forkable
    }

    /// Returns the folders to keep on the writable disk, if `--tmpfs` turns any off.
    pub(super) fn on_disk(&self) -> Option<Vec<String>> {
        let own = |tmpfs: &Tmpfs| matches!(tmpfs, Tmpfs::Own(..));
        self.tmpfs.iter().any(own).then(|| on_disk(&self.tmpfs))
    }

    /// Returns the tmpfs mounts that the command line adds.
    pub(super) fn tmpfs_mounts(&self) -> impl Iterator<Item = Mount> {
        self.tmpfs.iter().filter_map(|tmpfs| match tmpfs {
            Tmpfs::Own(..) => None,
            Tmpfs::Mount(mount) => Some(mount.clone()),
        })
    }
}

/// Returns the monitor that a variable names; an empty one is as if it were not set.
fn default_monitor(variable: Option<OsString>) -> anyhow::Result<Monitor> {
    let Some(name) = variable.filter(|name| !name.is_empty()) else {
        return Ok(Monitor::Auto);
    };
    let monitor = name
        .to_str()
        .and_then(|name| Monitor::from_str(name, false).ok());
    monitor.with_context(|| {
        let name = name.display();
        format!("{MONITOR_VARIABLE}: {name} is none of auto, libkrun and qemu")
    })
}

pub(super) fn hostname(text: &str) -> blockbox::Result<String> {
    check_hostname(text)?;
    Ok(text.to_owned())
}

fn tmpfs(text: &str) -> Result<Tmpfs, String> {
    let (folder, state) = text.split_once('=').unwrap_or((text, "on"));
    let known = TMPFS_DIRS.map(|(folder, _)| folder);
    let Some(folder) = known.into_iter().find(|known| *known == folder) else {
        if state == "off" && !folder.contains(':') {
            return Err(format!("only {} can be off", known.join(" and ")));
        }
        let mount = Mount::from_tmpfs_option(text).map_err(|error| error.to_string())?;
        return match mount.target.starts_with('/') {
            true => Ok(Tmpfs::Mount(mount)),
            false => Err("use an absolute path".to_owned()),
        };
    };
    match state {
        "on" => Ok(Tmpfs::Own(folder, true)),
        "off" => Ok(Tmpfs::Own(folder, false)),
        other => Err(format!("{other:?} is neither on nor off")),
    }
}

/// Returns the folders that are turned off; if a folder is given twice, the last value counts.
fn on_disk(given: &[Tmpfs]) -> Vec<String> {
    let last = |folder: &&str| {
        let named = |tmpfs: &&Tmpfs| matches!(tmpfs, Tmpfs::Own(name, _) if name == folder);
        given.iter().rfind(named)
    };
    TMPFS_DIRS
        .map(|(folder, _)| folder)
        .into_iter()
        .filter(|folder| matches!(last(folder), Some(Tmpfs::Own(_, false))))
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_variable_names_no_monitor_and_a_wrong_one_is_an_error() {
        let named = |name: &str| default_monitor(Some(name.into()));
        assert_eq!(default_monitor(None).expect("no variable"), Monitor::Auto);
        assert_eq!(named("").expect("an empty variable"), Monitor::Auto);
        assert_eq!(named("libkrun").expect("a monitor"), Monitor::Libkrun);
        let error = named("kvm").expect_err("no monitor").to_string();
        assert_eq!(error, "BLOCKBOX_VMM: kvm is none of auto, libkrun and qemu");
    }

    #[test]
    fn the_last_value_given_for_a_folder_counts() {
        let given = ["/tmp=off", "/run=off", "/run=on"].map(|text| tmpfs(text).expect("valid"));
        assert_eq!(on_disk(&given), ["/tmp"]);
        assert!(on_disk(&[]).is_empty());
    }

    #[test]
    fn only_folders_that_are_a_tmpfs_by_default_can_be_off() {
        for wrong in ["/srv=off", "/tmp=maybe", "tmp", "", "/srv:size=x"] {
            assert!(tmpfs(wrong).is_err(), "{wrong}");
        }
    }
}
