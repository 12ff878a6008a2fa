//! Why a VM cannot be had.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

/// Why a VM cannot be had.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum VmmError {
    /// There is no guest kernel on this machine.
    #[error(
        "no guest kernel found; {} (looked for {name} in {})",
        install_krunfw(),
        folders(searched)
    )]
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
    #[error("libkrun cannot run here: {reason}; try --vmm qemu")]
    NoHypervisor {
        /// Why not.
        reason: String,
    },
    /// QEMU is not installed.
    #[error("{program} not found; {}", install_qemu())]
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
    /// A path that the monitor's interface cannot take (libkrun and QEMU's JSON want UTF-8).
    #[error("{}: the path is not UTF-8", .0.display())]
    PathNotUtf8(PathBuf),
    /// Another VM has the disk, and does not end.
    #[error("{}: another virtual machine uses the disk", .0.display())]
    DiskInUse(PathBuf),
    /// The operating system refused something.
    #[error("{what}: {source}")]
    Io {
        /// What was being done, with the file it was done to.
        what: String,
        /// The refusal.
        source: io::Error,
    },
}

impl VmmError {
    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> VmmError {
        let what = what.into();
        move |source| VmmError::Io { what, source }
    }
}

/// How to get the guest kernel on this kind of machine.
pub(crate) fn install_krunfw() -> &'static str {
    if cfg!(target_os = "macos") {
        "install it with `brew install slp/krun/libkrunfw`, or name a kernel with --kernel"
    } else {
        "install the package libkrunfw (Fedora, Debian 13 and later), or name a kernel with --kernel or \
         $BLOCKBOX_KERNEL"
    }
}

/// How to get QEMU on this kind of machine.
pub(crate) fn install_qemu() -> &'static str {
    if cfg!(target_os = "macos") {
        "install it with `brew install qemu`"
    } else if cfg!(target_arch = "aarch64") {
        "install the package qemu-system-arm (Debian) or qemu-system-aarch64 (Fedora)"
    } else {
        "install the package qemu-system-x86 (Debian, Fedora)"
    }
}

fn folders(list: &[PathBuf]) -> String {
    let names: Vec<_> = list.iter().map(|path| path.display().to_string()).collect();
    names.join(", ")
}
