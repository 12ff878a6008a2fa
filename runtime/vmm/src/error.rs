//! Errors of starting and controlling a VM.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use thiserror::Error;

use super::{Arch, Vmm};

/// An error of starting or controlling a VM.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum VmmError {
    /// There is no guest kernel on this host.
    #[error(
        "no guest kernel for {arch} found (looked for {name} in {})",
        folders(searched)
    )]
    KernelNotFound {
        /// The architecture of the machine.
        arch: Arch,
        /// The file name that was searched.
        name: &'static str,
        /// The folders searched.
        searched: Vec<PathBuf>,
    },
    /// A file is not a usable kernel.
    #[error("{}: not a usable kernel: {reason}", path.display())]
    BadKernel {
        /// The file.
        path: PathBuf,
        /// The reason.
        reason: String,
    },
    /// libkrun needs hardware virtualisation, and it does not work here.
    #[error("libkrun cannot run here: {reason}")]
    NoHypervisor {
        /// The reason.
        reason: String,
    },
    /// QEMU is not installed.
    #[error("qemu-system-{arch} not found")]
    QemuNotFound {
        /// The architecture of the machine.
        arch: Arch,
    },
    /// The monitor runs machines of the host's architecture only.
    #[error("{vmm} cannot run a machine of another processor than the host's: {arch}")]
    ForeignArch {
        /// The monitor.
        vmm: Vmm,
        /// The architecture of the machine.
        arch: Arch,
    },
    /// This program was built without an init for guests of an architecture.
    #[error("this program was built without an init for {arch} guests")]
    NoInit {
        /// The architecture of the guest.
        arch: Arch,
    },
    /// There is no program to start a VM through, see [`helper::locate`](crate::helper::locate).
    #[error(
        "no program to start a virtual machine through: name one in VmConfig::helper or BLOCKBOX_HELPER, or begin this \
         program's main with helper::run_if_asked"
    )]
    NoHelper,
    /// The name of a device is invalid.
    #[error("{name:?} cannot name a {kind}: {reason}")]
    DeviceName {
        /// The kind of device.
        kind: &'static str,
        /// The serial or tag.
        name: String,
        /// The reason.
        reason: String,
    },
    /// A machine has more devices than the monitor supports.
    #[error(
        "{vmm} has room for {most} disks, network cards and shares in all, and the machine has {asked}"
    )]
    TooManyDevices {
        /// The monitor.
        vmm: Vmm,
        /// The number of devices.
        asked: usize,
        /// The largest number.
        most: usize,
    },
    /// The monitor does not support a feature.
    #[error("{vmm} does not support {what}")]
    Unsupported {
        /// The monitor.
        vmm: Vmm,
        /// The feature.
        what: &'static str,
    },
    /// A qcow2 image depends on another file in a way that is not supported.
    #[error("{}: {reason}", path.display())]
    BackingFile {
        /// The image.
        path: PathBuf,
        /// The reason.
        reason: &'static str,
    },
    /// QEMU needs virtiofsd to serve shares, and it is not installed.
    #[error("virtiofsd, which serves shared folders to QEMU, not found")]
    NoShareServer,
    /// The program that serves shares cannot be used.
    #[error("{}: {reason}", program.display())]
    ShareServer {
        /// The program.
        program: PathBuf,
        /// The reason.
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
    /// QEMU did not finish a command in time.
    #[error("QEMU did not finish `{command}` within {:.1} s", waited.as_secs_f64())]
    MonitorSilent {
        /// The QMP command.
        command: &'static str,
        /// The time waited.
        waited: Duration,
    },
    /// QEMU has ended.
    #[error("the virtual machine has ended")]
    MonitorGone,
    /// A path is not UTF-8, as libkrun and QEMU's JSON require.
    #[error("{}: the path is not UTF-8", .0.display())]
    PathNotUtf8(PathBuf),
    /// Another VM uses the disk, and does not end.
    #[error("{}: another virtual machine uses the disk", .0.display())]
    DiskInUse(PathBuf),
    /// A system call failed.
    #[error("{what}")]
    Io {
        /// The operation and its file.
        what: String,
        /// The system's error.
        source: io::Error,
    },
}

/// Formats an error and its causes in one line.
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
