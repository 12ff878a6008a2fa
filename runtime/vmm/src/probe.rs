//! Reports the capabilities of this host, for `blockbox doctor`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::confine::Confinement;
use super::hypervisor::{self, Verdict};
use super::qemu::program;
use super::{Accel, Arch, Capabilities, Vmm, VmmError, guest, kernel, with_causes};

/// The capabilities of this host.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct HostReport {
    /// The operating system, in Rust's naming.
    pub os: &'static str,
    /// The processor architecture.
    pub arch: Arch,
    /// The hypervisor's name: KVM or HVF.
    pub hypervisor_name: &'static str,
    /// Whether hardware virtualisation works, with the reason if it does not.
    pub hypervisor: Verdict,
    /// The file of the guest kernel (a kernel or a libkrunfw), if there is one.
    pub kernel: Option<PathBuf>,
    /// Why the guest kernel cannot be used, if it cannot.
    pub kernel_problem: Option<String>,
    /// The folders that were searched for a guest kernel.
    pub kernel_searched: Vec<PathBuf>,
    /// The QEMU program, if there is one.
    pub qemu: Option<PathBuf>,
    /// The first line of its `--version`.
    pub qemu_version: Option<String>,
    /// The monitor that `--vmm auto` chooses; `None` if no guest can boot.
    pub chosen: Option<String>,
    /// The capabilities of each available monitor.
    pub capabilities: BTreeMap<&'static str, Capabilities>,
    /// How the processes of VMs and gateways can be confined.
    pub confinement: Confinement,
    /// What there is to emulate machines of other architectures with.
    pub emulated: Vec<Emulation>,
}

/// What there is to emulate machines of an architecture with.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct Emulation {
    /// The architecture.
    pub arch: Arch,
    /// The QEMU program, if there is one.
    pub qemu: Option<PathBuf>,
    /// The file of the guest kernel, if there is one.
    pub kernel: Option<PathBuf>,
    /// Whether this program has an init for such guests.
    pub init: bool,
    /// Why no such machine can boot, if so.
    pub problem: Option<String>,
}

impl Emulation {
    fn of(arch: Arch, home: &Path, cache: &Path) -> Self {
        let qemu = program::find(arch);
        let source = kernel::find(None, home, arch);
        let init = guest::init(arch).map(drop);
        let mut report = Self {
            arch,
            qemu: qemu.as_ref().ok().cloned(),
            kernel: source.as_ref().ok().map(|source| source.path().to_owned()),
            init: init.is_ok(),
            problem: None,
        };
        let complete = || -> Result<(), VmmError> {
            qemu?;
            kernel::prepare(&source?, cache, arch)?;
            init
        };
        report.problem = complete().err().map(|error| with_causes(&error));
        report
    }
}

/// Determines the capabilities of this host. `kernel`, `home`, `cache` and `helper` are those of
/// [`kernel::locate`] and [`Vmm::choose`](super::Vmm::choose); a trial boot may take some seconds.
pub fn probe(
    kernel: Option<&Path>,
    home: &Path,
    cache: &Path,
    helper: Option<&Path>,
) -> HostReport {
    let source = kernel::find(kernel, home, Arch::HOST);
    let prepared = source
        .as_ref()
        .ok()
        .map(|source| kernel::prepare(source, cache, Arch::HOST));
    let hypervisor = match &prepared {
        Some(Ok(kernel)) => hypervisor::verdict(kernel, cache, helper, &mut |_| ()),
        _ => match hypervisor::device() {
            Err(reason) => Verdict::Fails { reason },
            Ok(()) => Verdict::Fails {
                reason: "untried: there is no guest kernel to try it with".to_owned(),
            },
        },
    };
    let qemu = program::find(Arch::HOST).ok();
    let kernel_usable = matches!(prepared, Some(Ok(_)));
    let kernel_problem = match &prepared {
        Some(Err(error)) => Some(with_causes(error)),
        _ => None,
    };
    let chosen = match (&hypervisor, &qemu) {
        _ if !kernel_usable => None,
        (Verdict::Works, _) => Some("libkrun".to_owned()),
        (Verdict::Fails { .. }, Some(_)) => Some("qemu (tcg)".to_owned()),
        (Verdict::Fails { .. }, None) => None,
    };
    let mut capabilities = BTreeMap::from([("libkrun", Vmm::Libkrun.capabilities(Arch::HOST))]);
    if qemu.is_some() {
        let accel = Accel::Tcg;
        let qemu = Vmm::Qemu { accel };
        capabilities.insert("qemu", qemu.capabilities(Arch::HOST));
    }
    HostReport {
        os: std::env::consts::OS,
        arch: Arch::HOST,
        hypervisor_name: if cfg!(target_os = "macos") {
            "HVF"
        } else {
            "KVM"
        },
        hypervisor,
        kernel: source.ok().map(|source| source.path().to_owned()),
        kernel_problem,
        kernel_searched: kernel::search_path(home, Arch::HOST),
        qemu_version: qemu.as_deref().and_then(|qemu| program::version(qemu).ok()),
        qemu,
        chosen,
        capabilities,
        confinement: Confinement::of_host(),
        emulated: Arch::foreign()
            .map(|arch| Emulation::of(arch, home, cache))
            .collect(),
    }
}
