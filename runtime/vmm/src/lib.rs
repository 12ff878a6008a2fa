//! Virtual machine monitors: what boots a machine that is described as data ([`VmConfig`]: a
//! kernel, memory, a list of devices) and gives it a control channel.
//!
//! Two of them, behind one [`Vm`] handle, each of which states what it can do ([`Capabilities`]):
//! libkrun, linked in, where the machine has hardware virtualisation that works ([`hypervisor`]),
//! and QEMU everywhere else. Either way the VM is a child process, started through a program that
//! can become one ([`helper`]): libkrun takes over the process it runs in, and QEMU needs
//! preparations between fork and exec.
//!
//! Once it runs, [`guest::Session`] talks to the guest's init.

mod alias;
mod capabilities;
mod config;
pub mod confine;
mod console;
mod device;
mod error;
mod events;
pub mod guest;
mod handoff;
pub mod helper;
pub mod hypervisor;
mod init_disk;
pub mod kernel;
mod krun;
mod krunfw;
mod probe;
pub mod process;
#[cfg(target_arch = "x86_64")]
mod pvh;
pub mod qcow2;
mod qemu;
mod qmp;
mod save;
mod signals;
mod vm;

use std::fmt;
use std::path::Path;

use serde::{Deserialize, Serialize};

pub use capabilities::Capabilities;
pub use config::VmConfig;
pub(crate) use console::Console;
pub use device::{Disk, DiskFormat, MacAddress, MemoryBacking, NetworkCard, Share, SharedMemory};
pub use error::{VmmError, with_causes};
pub use events::VmEvent;
pub use init_disk::write_init_disk;
pub use probe::{HostReport, probe};
pub use qmp::Qmp;
pub use save::{Difference, MachineIdentity};
pub use vm::{Vm, VmExit};

/// How QEMU runs the guest's instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Accel {
    /// Linux's hypervisor.
    Kvm,
    /// macOS's hypervisor.
    Hvf,
    /// Translation in software: slow, and works everywhere.
    Tcg,
}

impl Accel {
    /// The name QEMU's `-accel` takes.
    pub fn name(self) -> &'static str {
        match self {
            Accel::Kvm => "kvm",
            Accel::Hvf => "hvf",
            Accel::Tcg => "tcg",
        }
    }

    /// The hypervisor of this operating system.
    pub fn native() -> Option<Accel> {
        match std::env::consts::OS {
            "linux" => Some(Accel::Kvm),
            "macos" => Some(Accel::Hvf),
            _ => None,
        }
    }
}

/// A virtual machine monitor to boot with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Vmm {
    /// libkrun, in a child process of this executable.
    Libkrun,
    /// `qemu-system-…` from `PATH` (or `$BLOCKBOX_QEMU`).
    Qemu {
        /// What runs the instructions.
        accel: Accel,
    },
}

impl fmt::Display for Vmm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Vmm::Libkrun => f.write_str("libkrun"),
            Vmm::Qemu { accel } => write!(f, "qemu ({})", accel.name()),
        }
    }
}

/// Which monitor the user asks for (`--vmm`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Choice {
    /// libkrun where hardware virtualisation works, else QEMU.
    #[default]
    Auto,
    /// libkrun, or an error.
    Libkrun,
    /// QEMU with the hypervisor where it works, else in software.
    Qemu,
}

impl Vmm {
    /// Settles a choice on this host. Whether hardware virtualisation works is found out by a trial
    /// boot of `kernel` through `helper` (see [`VmConfig::helper`]), whose verdict is kept in the
    /// folder `cache`.
    ///
    /// # Errors
    ///
    /// [`VmmError::NoHypervisor`] when libkrun is asked for and cannot work here;
    /// [`VmmError::QemuNotFound`] when QEMU would be used and is not installed.
    pub fn choose(
        choice: Choice,
        kernel: &Path,
        cache: &Path,
        helper: Option<&Path>,
    ) -> Result<Vmm, VmmError> {
        Vmm::choose_telling(choice, kernel, cache, helper, &mut |_| ())
    }

    /// As [`Vmm::choose`], and calls `on_wait` before a trial, which may take seconds.
    ///
    /// # Errors
    ///
    /// As for [`Vmm::choose`].
    pub fn choose_telling(
        choice: Choice,
        kernel: &Path,
        cache: &Path,
        helper: Option<&Path>,
        on_wait: &mut hypervisor::OnWait<'_>,
    ) -> Result<Vmm, VmmError> {
        let verdict = match choice {
            Choice::Libkrun => hypervisor::verdict_anew(kernel, cache, helper, on_wait),
            Choice::Auto | Choice::Qemu => hypervisor::verdict(kernel, cache, helper, on_wait),
        };
        let qemu = |accel| qemu::find().map(|_| Vmm::Qemu { accel });
        match (choice, verdict) {
            (Choice::Auto | Choice::Libkrun, hypervisor::Verdict::Works) => Ok(Vmm::Libkrun),
            (Choice::Libkrun, hypervisor::Verdict::Fails { reason }) => {
                Err(VmmError::NoHypervisor { reason })
            }
            (Choice::Qemu, hypervisor::Verdict::Works) => {
                qemu(Accel::native().unwrap_or(Accel::Tcg))
            }
            (Choice::Auto | Choice::Qemu, hypervisor::Verdict::Fails { .. }) => qemu(Accel::Tcg),
        }
    }

    /// Checks what can be known of a choice without a trial boot.
    ///
    /// # Errors
    ///
    /// As for [`Vmm::choose`], which may fail where this does not.
    pub fn check(choice: Choice) -> Result<(), VmmError> {
        match (choice, hypervisor::device()) {
            (Choice::Libkrun, Err(reason)) => Err(VmmError::NoHypervisor { reason }),
            (Choice::Qemu, _) | (Choice::Auto, Err(_)) => qemu::find().map(drop),
            (Choice::Libkrun | Choice::Auto, Ok(())) => Ok(()),
        }
    }

    /// Starts a VM.
    ///
    /// # Errors
    ///
    /// What [`VmConfig::check`] finds; when the helper process cannot be started. A VM that starts
    /// and then fails is noticed by [`Session::connect`](crate::guest::Session::connect).
    pub fn start(self, config: &VmConfig) -> Result<Vm, VmmError> {
        Vm::start(self, config)
    }
}
