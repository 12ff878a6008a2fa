//! Why a VM cannot be had.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use thiserror::Error;

use super::Vmm;

/// Why a VM cannot be had.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum VmmError {
    /// There is no guest kernel on this machine.
    #[error("no guest kernel found (looked for {name} in {})", folders(searched))]
    KernelNotFound {
        /// The file name looked for.
        name: &'static str,
        /// The folders searched.
        searched: Vec<PathBuf>,
    },
    /// A file given as kernel is none.
    #[error("{}: no kernel: {reason}", path.display())]
    BadKernel {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// libkrun needs hardware virtualisation, and it does not work here.
    #[error("libkrun cannot run here: {reason}")]
    NoHypervisor {
        /// Why not.
        reason: String,
    },
    /// QEMU is not installed.
    #[error("{program} not found")]
    QemuNotFound {
        /// The program looked for in `PATH`.
        program: String,
    },
    /// There is no program to start a VM through, see [`helper::locate`](crate::helper::locate).
    #[error(
        "no program to start a virtual machine through: name one in VmConfig::helper or BLOCKBOX_HELPER, or begin this \
         program's main with helper::run_if_asked"
    )]
    NoHelper,
    /// The name of a device cannot be used.
    #[error("{name:?} cannot name a {kind}: {reason}")]
    DeviceName {
        /// The kind of device.
        kind: &'static str,
        /// The serial or tag.
        name: String,
        /// Why not.
        reason: String,
    },
    /// A machine has more devices than the monitor has room for.
    #[error(
        "{vmm} has room for {most} disks, network cards and shares in all, and the machine has {asked}"
    )]
    TooManyDevices {
        /// The monitor.
        vmm: Vmm,
        /// How many there are.
        asked: usize,
        /// How many there can be.
        most: usize,
    },
    /// The monitor cannot do this.
    #[error("{vmm} does not support {what}")]
    Unsupported {
        /// The monitor.
        vmm: Vmm,
        /// What is asked for.
        what: &'static str,
    },
    /// A qcow2 image is based on what is no file, or what cannot be known to be one.
    #[error("{}: {reason}", path.display())]
    BackingFile {
        /// The image.
        path: PathBuf,
        /// What is wrong.
        reason: &'static str,
    },
    /// QEMU needs a program to serve shares, and it is not installed.
    #[error("virtiofsd, which serves shared folders to QEMU, not found")]
    NoShareServer,
    /// The program that serves shares cannot be used.
    #[error("{}: {reason}", program.display())]
    ShareServer {
        /// The program.
        program: PathBuf,
        /// Why not.
        reason: &'static str,
    },
    /// A share is not a folder.
    #[error("{}: not a folder", .0.display())]
    NotADirectory(PathBuf),
    /// QEMU refused a command.
    #[error("QEMU refused `{command}`: {reason}")]
    MonitorRefused {
        /// The QMP command.
        command: &'static str,
        /// QEMU's reason.
        reason: String,
    },
    /// QEMU did not do a command in time.
    #[error("QEMU did not do `{command}` within {:.1} s", waited.as_secs_f64())]
    MonitorSilent {
        /// The QMP command.
        command: &'static str,
        /// How long it was waited for.
        waited: Duration,
    },
    /// QEMU has ended.
    #[error("the virtual machine has ended")]
    MonitorGone,
    /// A path that the monitor's interface cannot take (libkrun and QEMU's JSON want UTF-8).
    #[error("{}: the path is not UTF-8", .0.display())]
    PathNotUtf8(PathBuf),
    /// Another VM has the disk, and does not end.
    #[error("{}: another virtual machine uses the disk", .0.display())]
    DiskInUse(PathBuf),
    /// The operating system refused something.
    #[error("{what}")]
    Io {
        /// What was being done, with the file it was done to.
        what: String,
        /// The refusal.
        source: io::Error,
    },
}

/// An error and its causes in one line.
pub fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

impl VmmError {
    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> VmmError {
        let what = what.into();
        move |source| VmmError::Io { what, source }
    }
}

fn folders(list: &[PathBuf]) -> String {
    let names: Vec<_> = list.iter().map(|path| path.display().to_string()).collect();
    names.join(", ")
}
