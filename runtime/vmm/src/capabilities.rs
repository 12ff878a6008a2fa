//! Capabilities of a monitor, and the rejection of machines that need others.

use std::path::PathBuf;

use serde::Serialize;

use super::device::{DiskFormat, MemoryBacking};
use super::qemu::share;
use super::{Accel, Arch, Choice, VmConfig, Vmm, VmmError, hypervisor, qcow2};

/// The capabilities of a monitor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Capabilities {
    /// The most disks, network cards and shares of a machine together.
    pub devices: usize,
    /// The program that serves shares; `None` if the monitor serves them itself or
    /// [`Capabilities::shares`] is false.
    pub share_server: Option<PathBuf>,
    /// Whether machines can have shares.
    pub shares: bool,
    /// Whether a running machine can be saved with its memory, and copies of it started.
    pub memory_snapshots: bool,
    /// Whether memory that the guest frees is returned to the host.
    pub free_page_reporting: bool,
    /// Whether blocks that the guest discards are freed on the host.
    pub discard: bool,
    /// Whether the machine pauses when the host's disk is full. Otherwise the guest gets an I/O
    /// error.
    pub pauses_when_full: bool,
}

/// The number of interrupt lines of libkrun for virtio devices, one for each (`IRQ_BASE` to
/// `IRQ_MAX` of krun-arch).
const KRUN_LINES: usize = if cfg!(target_arch = "x86_64") {
    11
} else {
    128
};

/// The devices of every libkrun machine: balloon, random numbers, console and control port.
const KRUN_OWN: usize = 4;

/// The devices of every QEMU machine: random numbers, and console and control port in one.
const QEMU_OWN: usize = 2;

/// Returns the number of slots for virtio-mmio devices: of `microvm` without ACPI, and of `virt`
/// (`NUM_VIRTIO_TRANSPORTS`).
fn qemu_slots(arch: Arch) -> usize {
    match arch {
        Arch::X86_64 => 8,
        Arch::Aarch64 => 32,
    }
}

impl Vmm {
    /// Returns the capabilities of this monitor on this host with machines of `arch`.
    pub fn capabilities(self, arch: Arch) -> Capabilities {
        match self {
            Vmm::Libkrun => Capabilities {
                devices: KRUN_LINES - KRUN_OWN,
                share_server: None,
                shares: true,
                memory_snapshots: false,
                free_page_reporting: true,
                discard: true,
                pauses_when_full: false,
            },
            Vmm::Qemu { .. } => {
                let share_server = share::server();
                Capabilities {
                    devices: qemu_slots(arch) - QEMU_OWN,
                    shares: share_server.is_some(),
                    share_server,
                    memory_snapshots: true,
                    free_page_reporting: true,
                    discard: true,
                    pauses_when_full: true,
                }
            }
        }
    }
}

impl Choice {
    /// Checks, without a trial boot, that a machine of `arch` can have `asked` disks, network
    /// cards and shares together under a monitor of this host.
    ///
    /// # Errors
    ///
    /// [`VmmError::TooManyDevices`].
    pub fn check_devices(self, arch: Arch, asked: usize) -> Result<(), VmmError> {
        let check = |vmm: Vmm| vmm.capabilities(arch).check_devices(vmm, asked);
        let qemu = || check(Vmm::Qemu { accel: Accel::Tcg });
        match self {
            Choice::Libkrun => check(Vmm::Libkrun),
            Choice::Auto if arch.is_host() && hypervisor::may_work() => {
                check(Vmm::Libkrun).or_else(|_| qemu())
            }
            Choice::Auto | Choice::Qemu => qemu(),
        }
    }
}

impl Capabilities {
    /// Returns an error if `config` needs what `vmm` cannot do.
    pub(super) fn check(&self, vmm: Vmm, config: &VmConfig) -> Result<(), VmmError> {
        self.check_devices(vmm, device_count(config))?;
        let unsupported = |what| Err(VmmError::Unsupported { vmm, what });
        if !config.shares.is_empty() && !self.shares {
            return Err(VmmError::NoShareServer);
        }
        if !self.memory_snapshots && (config.incoming || config.memory != MemoryBacking::Private) {
            return unsupported("snapshots of memory");
        }
        if config.incoming && !config.shares.is_empty() {
            return unsupported("a copy of a running machine with shares");
        }
        if !config.shares.is_empty() && matches!(config.memory, MemoryBacking::CopyOf(_)) {
            return unsupported("shares in a machine whose memory is a copy");
        }
        for disk in &config.disks {
            if vmm == Vmm::Libkrun
                && disk.format == DiskFormat::Qcow2
                && !qcow2::backing_files(&disk.path)?.is_empty()
            {
                return unsupported("a qcow2 image with a backing file");
            }
        }
        let writable = |disk: &&crate::Disk| disk.format == DiskFormat::Vmdk && !disk.read_only;
        if config.disks.iter().any(|disk| writable(&disk)) {
            return unsupported("a writable VMDK");
        }
        Ok(())
    }

    /// Returns an error if a machine cannot have this number of devices.
    fn check_devices(&self, vmm: Vmm, asked: usize) -> Result<(), VmmError> {
        let most = self.devices;
        match asked > most {
            true => Err(VmmError::TooManyDevices { vmm, asked, most }),
            false => Ok(()),
        }
    }

    /// Returns whether a slot is free for one more device.
    pub(super) fn has_room(&self, config: &VmConfig) -> bool {
        device_count(config) < self.devices
    }
}

fn device_count(config: &VmConfig) -> usize {
    config.disks.len() + config.networks.len() + config.shares.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Disk;

    const QEMU: Vmm = Vmm::Qemu { accel: Accel::Tcg };

    #[test]
    fn the_error_for_too_many_devices_names_the_limit() {
        for vmm in [QEMU, Vmm::Libkrun] {
            let most = vmm.capabilities(Arch::HOST).devices;
            let mut config = VmConfig::new("/kernel", "/disk", "/upper");
            for number in config.disks.len()..most {
                config = config.disk(Disk::raw(format!("d{number}"), "/extra"));
            }
            assert!(config.check(vmm).is_ok());
            let refused = config.disk(Disk::raw("last", "/extra")).check(vmm);
            match refused {
                Err(VmmError::TooManyDevices { asked, most: m, .. }) => {
                    assert_eq!((asked, m), (most + 1, most));
                }
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn only_emulation_runs_a_machine_of_another_processor() {
        let kvm = Vmm::Qemu { accel: Accel::Kvm };
        for arch in Arch::foreign() {
            let config = VmConfig::new("/kernel", "/disk", "/upper").arch(arch);
            assert!(config.check(QEMU).is_ok());
            for vmm in [kvm, Vmm::Libkrun] {
                let refused = config.check(vmm);
                assert!(
                    matches!(refused, Err(VmmError::ForeignArch { arch: a, .. }) if a == arch),
                    "{refused:?}"
                );
            }
            let refused = Vmm::check(Choice::Libkrun, arch);
            assert!(matches!(refused, Err(VmmError::ForeignArch { .. })));
        }
    }

    #[test]
    fn libkrun_refuses_snapshots_of_memory() {
        let mut config = VmConfig::new("/kernel", "/disk", "/upper");
        config.memory = MemoryBacking::File("/ram".into());
        assert!(config.check(QEMU).is_ok());
        let refused = config.check(Vmm::Libkrun);
        assert!(matches!(refused, Err(VmmError::Unsupported { .. })));
    }

    #[test]
    fn a_share_that_is_not_a_folder_is_refused() {
        let config = VmConfig::new("/kernel", "/disk", "/upper");
        let config = config.share(crate::Share::new("s", "/proc/version"));
        let refused = config.check(Vmm::Libkrun);
        assert!(matches!(refused, Err(VmmError::NotADirectory(_))));
    }
}
