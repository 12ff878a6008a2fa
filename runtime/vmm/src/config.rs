//! The configuration of a machine.

use std::path::PathBuf;

use blockbox_protocol::{IMAGE_SERIAL, INIT_SERIAL, UPPER_SERIAL};

use super::device::{Disk, DiskFormat, MemoryBacking, NetworkCard, Share};
use super::{Accel, Arch, Vmm, VmmError, device};

/// The configuration of a machine.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct VmConfig {
    /// The processor architecture. Default: the host's. The kernel and init are for it.
    pub arch: Arch,
    /// The kernel, as [`kernel::locate`](crate::kernel::locate) returns it.
    pub kernel: PathBuf,
    /// The disks, `/dev/vda` first.
    pub disks: Vec<Disk>,
    /// The network cards, `eth0` first.
    pub networks: Vec<NetworkCard>,
    /// The folders of the host that the guest can mount.
    pub shares: Vec<Share>,
    /// The number of virtual CPUs.
    pub cpus: u8,
    /// The guest's memory in MiB.
    pub memory_mib: u32,
    /// The storage of the guest's memory.
    pub memory: MemoryBacking,
    /// Whether the machine waits for [`Qmp::restore`](crate::Qmp::restore) instead of booting the
    /// kernel.
    pub incoming: bool,
    /// Kernel parameters that are appended to blockbox's own, so that they take precedence.
    pub kernel_args: Vec<String>,
    /// Whether the VM's process is [confined](crate::confine). Default: if the operating system
    /// supports it.
    pub confine: bool,
    /// The executable that the VM is started through: its `main` begins with
    /// [`helper::run_if_asked`](crate::helper::run_if_asked). Default: the one that
    /// [`helper::locate`](crate::helper::locate) finds.
    pub helper: Option<PathBuf>,
    /// A file for all output of the guest's console; its end is kept in memory in any case.
    pub console_log: Option<PathBuf>,
}

impl VmConfig {
    /// Returns a sandbox's machine with one CPU and 512 MiB of memory. `disk`, a flat VMDK
    /// descriptor, is the read-only `/dev/vda`; `upper`, a raw ext4 image, is the writable
    /// `/dev/vdb`, which the kernel boots from.
    pub fn new(
        kernel: impl Into<PathBuf>,
        disk: impl Into<PathBuf>,
        upper: impl Into<PathBuf>,
    ) -> Self {
        Self::with_root(kernel, disk, Disk::raw(UPPER_SERIAL, upper))
    }

    /// As [`new`](Self::new), without a writable disk: the kernel boots from the read-only
    /// `init_disk`, as [`write_init_disk`](crate::write_init_disk) makes it, and changes to the
    /// image are in the guest's memory.
    pub fn without_upper(
        kernel: impl Into<PathBuf>,
        disk: impl Into<PathBuf>,
        init_disk: impl Into<PathBuf>,
    ) -> Self {
        let root = Disk::raw(INIT_SERIAL, init_disk).read_only();
        Self::with_root(kernel, disk, root)
    }

    fn with_root(kernel: impl Into<PathBuf>, disk: impl Into<PathBuf>, root: Disk) -> Self {
        VmConfig {
            arch: Arch::HOST,
            kernel: kernel.into(),
            disks: vec![Disk::vmdk(IMAGE_SERIAL, disk), root],
            networks: Vec::new(),
            shares: Vec::new(),
            cpus: 1,
            memory_mib: 512,
            memory: MemoryBacking::Private,
            incoming: false,
            kernel_args: Vec::new(),
            confine: true,
            helper: None,
            console_log: None,
        }
    }

    /// Sets the processor architecture.
    #[must_use]
    pub fn arch(mut self, arch: Arch) -> Self {
        self.arch = arch;
        self
    }

    /// Adds a disk, `/dev/vdc` and so on.
    #[must_use]
    pub fn disk(mut self, disk: Disk) -> Self {
        self.disks.push(disk);
        self
    }

    /// Adds a network card.
    #[must_use]
    pub fn network(mut self, card: NetworkCard) -> Self {
        self.networks.push(card);
        self
    }

    /// Adds a share.
    #[must_use]
    pub fn share(mut self, share: Share) -> Self {
        self.shares.push(share);
        self
    }

    /// Returns whether [`Vm::save`](crate::Vm::save) detaches a disk: QEMU cannot save a machine
    /// with a VMDK.
    pub(super) fn is_removable(&self, disk: &Disk) -> bool {
        disk.format == DiskFormat::Vmdk && self.memory != MemoryBacking::Private
    }

    /// Checks the machine, as far as possible before its boot.
    ///
    /// # Errors
    ///
    /// [`VmmError::DeviceName`]; [`VmmError::ForeignArch`]; [`VmmError::TooManyDevices`] and
    /// [`VmmError::Unsupported`] if the monitor cannot run it; [`VmmError::NotADirectory`] if a
    /// share is not a folder.
    pub fn check(&self, vmm: Vmm) -> Result<(), VmmError> {
        device::check_names(&self.disks, &self.shares)?;
        for share in &self.shares {
            if !share.path.is_dir() {
                return Err(VmmError::NotADirectory(share.path.clone()));
            }
        }
        if !self.arch.is_host() && vmm != (Vmm::Qemu { accel: Accel::Tcg }) {
            let arch = self.arch;
            return Err(VmmError::ForeignArch { vmm, arch });
        }
        vmm.capabilities(self.arch).check(vmm, self)
    }

    /// Returns the kernel command line.
    pub(super) fn cmdline(&self, vmm: Vmm) -> String {
        let mut words = vec![
            "console=hvc0".to_owned(),
            "quiet".to_owned(),
            "panic=-1".to_owned(),
            // libkrun's x86 machine ends on the keyboard controller's reset line. QEMU's microvm
            // has no such controller, and ends on a triple fault. Arm machines end on a call of
            // their firmware (PSCI), whatever this says.
            match vmm {
                Vmm::Libkrun => "reboot=k",
                Vmm::Qemu { .. } => "reboot=t",
            }
            .to_owned(),
            "root=/dev/vdb".to_owned(),
            "rootfstype=ext4".to_owned(),
            match self.disks.get(1).is_some_and(|root| root.read_only) {
                true => "ro",
                false => "rw",
            }
            .to_owned(),
            format!("init={}", blockbox_protocol::INIT_PATH),
        ];
        words.extend(self.kernel_args.iter().cloned());
        words.join(" ")
    }
}
