//! Virtual machine monitors, which boot a machine described as data ([`VmConfig`]: a kernel,
//! memory, a list of devices) with a control channel.
//!
//! Two monitors are used through the same [`Vm`] handle, each with its own [`Capabilities`]:
//! libkrun, which is linked in, if hardware virtualisation works on the host ([`hypervisor`]), and
//! QEMU otherwise. In both cases the VM is a child process, started through a helper program
//! ([`helper`]): libkrun takes over the process that it runs in, and QEMU needs preparations
//! between fork and exec.
//!
//! Once the VM runs, [`guest::Session`] communicates with the guest's init.

mod alias;
mod arch;
mod capabilities;
mod config;
pub mod confine;
mod console;
mod device;
mod elf;
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
mod pvh;
pub mod qcow2;
mod qemu;
mod qmp;
mod save;
mod signals;
mod streams;
mod vm;

use std::fmt;
use std::path::Path;

use serde::{Deserialize, Serialize};

pub use arch::Arch;
pub use capabilities::Capabilities;
pub use config::VmConfig;
pub(crate) use console::Console;
pub use device::{Disk, DiskFormat, MemoryBacking, NetworkCard, Share, SharedMemory};
pub use error::{VmmError, with_causes};
pub use events::VmEvent;
pub use init_disk::write_init_disk;
pub use probe::{Emulation, HostReport, probe};
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
    /// Software emulation: slow, but always available.
    Tcg,
}

impl Accel {
    /// Returns the name for QEMU's `-accel`.
    pub fn name(self) -> &'static str {
        match self {
            Accel::Kvm => "kvm",
            Accel::Hvf => "hvf",
            Accel::Tcg => "tcg",
        }
    }

    /// Returns the hypervisor of this operating system.
    pub fn native() -> Option<Accel> {
        match std::env::consts::OS {
            "linux" => Some(Accel::Kvm),
            "macos" => Some(Accel::Hvf),
            _ => None,
        }
    }
}

/// A virtual machine monitor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Vmm {
    /// libkrun, in a child process of this executable.
    Libkrun,
    /// `qemu-system-…` from `PATH` (or `$BLOCKBOX_QEMU`, for the host's architecture).
    Qemu {
        /// The accelerator.
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

/// The monitor that the user requests (`--vmm`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Choice {
    /// libkrun if hardware virtualisation works, else QEMU.
    #[default]
    Auto,
    /// libkrun, or an error.
    Libkrun,
    /// QEMU with the hypervisor if it works, else with software emulation.
    Qemu,
}

impl Vmm {
    /// Resolves a choice for machines of `arch` on this host. A trial boot of `kernel` through
    /// `helper` (see [`VmConfig::helper`]) tests whether hardware virtualisation works; its result
    /// is cached in the folder `cache`. Only QEMU runs machines of another architecture than the
    /// host's, by software emulation.
    ///
    /// # Errors
    ///
    /// [`VmmError::NoHypervisor`] if libkrun is requested and cannot work here;
    /// [`VmmError::ForeignArch`] if it is requested for another architecture;
    /// [`VmmError::QemuNotFound`] if QEMU would be used and is not installed.
    pub fn choose(
        choice: Choice,
        arch: Arch,
        kernel: &Path,
        cache: &Path,
        helper: Option<&Path>,
    ) -> Result<Vmm, VmmError> {
        Vmm::choose_telling(choice, arch, kernel, cache, helper, &mut |_| ())
    }

    /// As [`Vmm::choose`], and calls `on_wait` before a trial, which may take seconds.
    ///
    /// # Errors
    ///
    /// As for [`Vmm::choose`].
    pub fn choose_telling(
        choice: Choice,
        arch: Arch,
        kernel: &Path,
        cache: &Path,
        helper: Option<&Path>,
        on_wait: &mut hypervisor::OnWait<'_>,
    ) -> Result<Vmm, VmmError> {
        if !arch.is_host() {
            Self::check(choice, arch)?;
            return Ok(Vmm::Qemu { accel: Accel::Tcg });
        }
        let verdict = match choice {
            Choice::Libkrun => hypervisor::verdict_anew(kernel, cache, helper, on_wait),
            Choice::Auto | Choice::Qemu => hypervisor::verdict(kernel, cache, helper, on_wait),
        };
        let qemu = |accel| qemu::program::find(arch).map(|_| Vmm::Qemu { accel });
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

    /// Checks a choice for machines of `arch` as far as possible without a trial boot.
    ///
    /// # Errors
    ///
    /// As for [`Vmm::choose`], which may also fail if this does not.
    pub fn check(choice: Choice, arch: Arch) -> Result<(), VmmError> {
        if !arch.is_host() {
            return match choice {
                Choice::Libkrun => Err(VmmError::ForeignArch {
                    vmm: Vmm::Libkrun,
                    arch,
                }),
                Choice::Auto | Choice::Qemu => qemu::program::find(arch).map(drop),
            };
        }
        match (choice, hypervisor::device()) {
            (Choice::Libkrun, Err(reason)) => Err(VmmError::NoHypervisor { reason }),
            (Choice::Qemu, _) | (Choice::Auto, Err(_)) => qemu::program::find(arch).map(drop),
            (Choice::Libkrun | Choice::Auto, Ok(())) => Ok(()),
        }
    }

    /// Starts a VM.
    ///
    /// # Errors
    ///
    /// Those of [`VmConfig::check`]; if the helper process cannot be started. If the VM fails after
    /// its start, [`Session::connect`](crate::guest::Session::connect) returns the error.
    pub fn start(self, config: &VmConfig) -> Result<Vm, VmmError> {
        Vm::start(self, config)
    }
}
