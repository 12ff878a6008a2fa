//! Virtual machine monitors: what boots a kernel with two disks and a control channel.
//!
//! Two of them, behind one [`Vm`] handle: libkrun, linked in, where the machine has hardware virtualisation that works
//! ([`hypervisor`]), and QEMU everywhere else. Either way the VM is a child process, started through a program that can
//! become one ([`helper`]): libkrun takes over the process it runs in, and QEMU needs preparations between fork and exec.
//!
//! Once it runs, [`guest::Session`] talks to the guest's init.

mod console;
mod error;
pub mod guest;
pub mod helper;
pub mod hypervisor;
pub mod kernel;
mod krun;
mod krunfw;
mod probe;
mod process;
#[cfg(target_arch = "x86_64")]
mod pvh;
mod qemu;
mod vm;

use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub(crate) use console::Console;
pub use error::VmmError;
pub use probe::{HostReport, probe};
pub use vm::{Vm, VmExit};

/// What to boot.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct VmConfig {
    /// The kernel, as [`kernel::locate`] returns it.
    pub kernel: PathBuf,
    /// The read-only disk, `/dev/vda`: a flat VMDK descriptor.
    pub disk: PathBuf,
    /// The writable disk, `/dev/vdb`: a raw ext4 image.
    pub upper: PathBuf,
    /// Virtual CPUs.
    pub cpus: u8,
    /// The guest's memory in MiB.
    pub memory_mib: u32,
    /// Kernel parameters added after blockbox's own, so that they win.
    pub kernel_args: Vec<String>,
    /// The executable to start the VM through: one whose `main` begins with [`helper::run_if_asked`]. The default is what
    /// [`helper::locate`] finds.
    pub helper: Option<PathBuf>,
    /// A file that gets everything the guest's console prints; its end is kept in memory in any case.
    pub console_log: Option<PathBuf>,
}

impl VmConfig {
    /// A VM with one CPU and 512 MiB of memory.
    pub fn new(
        kernel: impl Into<PathBuf>,
        disk: impl Into<PathBuf>,
        upper: impl Into<PathBuf>,
    ) -> Self {
        VmConfig {
            kernel: kernel.into(),
            disk: disk.into(),
            upper: upper.into(),
            cpus: 1,
            memory_mib: 512,
            kernel_args: Vec::new(),
            helper: None,
            console_log: None,
        }
    }
}

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
    /// Settles a choice on this host. Whether hardware virtualisation works is found out by a trial boot of `kernel`
    /// through `helper` (see [`VmConfig::helper`]), whose verdict is kept in the folder `cache`.
    ///
    /// # Errors
    ///
    /// [`VmmError::NoHypervisor`] when libkrun is asked for and cannot work here; [`VmmError::QemuNotFound`] when QEMU
    /// would be used and is not installed.
    pub fn choose(
        choice: Choice,
        kernel: &std::path::Path,
        cache: &std::path::Path,
        helper: Option<&std::path::Path>,
    ) -> Result<Vmm, VmmError> {
        let mut verdict = hypervisor::verdict(kernel, cache, helper);
        if choice == Choice::Libkrun && verdict != hypervisor::Verdict::Works {
            verdict = hypervisor::verdict_anew(kernel, cache, helper);
        }
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

    /// Starts a VM.
    ///
    /// # Errors
    ///
    /// When the helper process cannot be started. A VM that starts and then fails is noticed by
    /// [`Session::connect`](crate::guest::Session::connect).
    pub fn start(self, config: &VmConfig) -> Result<Vm, VmmError> {
        Vm::start(self, config)
    }

    /// The kernel command line.
    fn cmdline(self, config: &VmConfig) -> String {
        let mut words = vec![
            "console=hvc0".to_owned(),
            "quiet".to_owned(),
            "panic=-1".to_owned(),
            // libkrun's x86 machine ends on the keyboard controller's reset line. QEMU's microvm has no such
            // controller, and ends on a triple fault.
            match self {
                Vmm::Libkrun => "reboot=k",
                Vmm::Qemu { .. } => "reboot=t",
            }
            .to_owned(),
            "root=/dev/vdb".to_owned(),
            "rootfstype=ext4".to_owned(),
            "rw".to_owned(),
            format!("init={}", blockbox_protocol::INIT_PATH),
        ];
        words.extend(config.kernel_args.iter().cloned());
        words.join(" ")
    }
}
