//! Confines a VM's process on the host with Landlock and seccomp.
//!
//! A guest that takes over its monitor can read its kernel, its disks and the libraries that it
//! runs on, and write to its writable disks and shares. It cannot open sockets, execute programs,
//! or signal or trace other processes. The helper applies the rules to itself before the VM starts,
//! and they cannot be removed.
//!
//! QEMU's own filter (`-sandbox on`) also denies executing programs, which the helper must be able
//! to do to start QEMU. The servers of shares under QEMU confine themselves.

use std::fmt;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::device::{DiskFormat, MemoryBacking};
use super::qemu::program;
use super::{VmConfig, Vmm, VmmError, qcow2};

/// The confinement in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Confinement {
    /// Which rules on files, sockets and signals the kernel enforces.
    pub landlock: Landlock,
    /// Whether a seccomp filter denies system calls.
    pub seccomp: bool,
}

/// Which Landlock rules a kernel enforces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Landlock {
    /// All: Linux 6.12 and later.
    Full,
    /// Rules on files, and maybe others: Linux 5.13 and later.
    Partial,
    /// None: the kernel has no Landlock, or it is off.
    None,
}

impl Confinement {
    /// No confinement.
    pub(super) const NONE: Self = Self {
        landlock: Landlock::None,
        seccomp: false,
    };

    /// Returns the form in which a helper reports it.
    pub(super) fn to_byte(self) -> u8 {
        let landlock = match self.landlock {
            Landlock::None => 0,
            Landlock::Partial => 1,
            Landlock::Full => 2,
        };
        landlock | u8::from(self.seccomp) << 2
    }

    /// Reads what [`to_byte`](Self::to_byte) returned.
    pub(super) fn from_byte(byte: u8) -> Option<Self> {
        let landlock = match byte & 3 {
            0 => Landlock::None,
            1 => Landlock::Partial,
            2 => Landlock::Full,
            _ => return None,
        };
        Some(Self {
            landlock,
            seccomp: byte & 4 != 0,
        })
    }

    /// Returns the confinement that VMs and gateways on this host can have.
    /// [`Vm::confinement`](crate::Vm::confinement) is what one has.
    pub fn of_host() -> Self {
        enforcement::of_host()
    }
}

impl fmt::Display for Confinement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let landlock = match self.landlock {
            Landlock::Full => "Landlock",
            Landlock::Partial => "Landlock in part",
            Landlock::None => "",
        };
        f.write_str(match (landlock, self.seccomp) {
            ("", false) => "none",
            ("", true) => "seccomp",
            (landlock, false) => landlock,
            (landlock, true) => return write!(f, "{landlock}, seccomp"),
        })
    }
}

/// The rules of a process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rules {
    /// Files, and folders with their contents, that it may read.
    read: Vec<PathBuf>,
    /// Files, and folders with their contents, that it may read and write.
    write: Vec<PathBuf>,
    /// Files that it may execute.
    execute: Vec<PathBuf>,
    /// Whether system calls that execute programs are denied.
    deny_execute: bool,
}

/// Files and folders that libraries and monitors read on any system.
const SYSTEM: [&str; 6] = [
    "/usr",
    "/lib",
    "/lib64",
    "/etc/ld.so.cache",
    "/proc/self",
    "/dev/urandom",
];

/// Dynamic loaders, which are executed with dynamic programs.
const LOADERS: [&str; 4] = [
    "/lib64/ld-linux-x86-64.so.2",
    "/lib/ld-linux-aarch64.so.1",
    "/lib/ld-musl-x86_64.so.1",
    "/lib/ld-musl-aarch64.so.1",
];

/// The longest VMDK descriptor that is read for its extents, in bytes.
const MAX_DESCRIPTOR: u64 = 1 << 20;

impl Rules {
    /// Returns the rules of the process that runs `config` under `vmm`.
    ///
    /// # Errors
    ///
    /// If a VMDK descriptor cannot be read.
    pub fn of(vmm: Vmm, config: &VmConfig) -> Result<Self, VmmError> {
        let mut rules = Rules {
            read: SYSTEM.map(PathBuf::from).to_vec(),
            write: ["/dev/kvm", "/dev/null", "/dev/zero"]
                .map(PathBuf::from)
                .to_vec(),
            execute: Vec::new(),
            deny_execute: vmm == Vmm::Libkrun,
        };
        rules.read.push(config.kernel.clone());
        for disk in &config.disks {
            let list = if disk.read_only {
                &mut rules.read
            } else {
                &mut rules.write
            };
            list.push(disk.path.clone());
            match disk.format {
                DiskFormat::Raw => {}
                DiskFormat::Vmdk => rules.read.extend(extents(&disk.path)?),
                DiskFormat::Qcow2 => rules.read.extend(qcow2::backing_files(&disk.path)?),
            }
        }
        if let MemoryBacking::File(path) | MemoryBacking::CopyOf(path) = &config.memory {
            rules.write.push(path.clone());
        }
        match vmm {
            Vmm::Libkrun => {
                for share in &config.shares {
                    let list = if share.read_only {
                        &mut rules.read
                    } else {
                        &mut rules.write
                    };
                    list.push(share.path.clone());
                }
            }
            Vmm::Qemu { .. } => {
                let program = program::find(config.arch)?;
                rules.read.push(program.clone());
                rules.execute.push(program);
                rules.execute.extend(LOADERS.map(PathBuf::from));
            }
        }
        Ok(rules)
    }

    /// Applies the rules to this thread and those it starts, irrevocably. A kernel that supports
    /// only some of them enforces those.
    ///
    /// # Errors
    ///
    /// If the kernel supports a mechanism and rejects the rules.
    pub fn enforce(&self) -> io::Result<Confinement> {
        enforcement::enforce(self)
    }
}

/// Returns the files that a VMDK descriptor names; none for a file that is not a descriptor.
fn extents(path: &Path) -> Result<Vec<PathBuf>, VmmError> {
    let failed = || VmmError::io(format!("cannot read {}", path.display()));
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(failed())?;
    file.take(MAX_DESCRIPTOR)
        .read_to_end(&mut bytes)
        .map_err(failed())?;
    // A sparse extent contains its descriptor, which names the extent itself.
    let Ok(descriptor) = vmdk::Descriptor::parse(&bytes) else {
        return Ok(Vec::new());
    };
    let folder = path.parent().unwrap_or(Path::new(""));
    let files = descriptor
        .extents()
        .iter()
        .filter_map(|extent| extent.file());
    Ok(files.map(|file| folder.join(file)).collect())
}

#[cfg(target_os = "linux")]
mod enforcement {
    use std::io;

    use landlock::{
        ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, Ruleset, RulesetAttr,
        RulesetCreatedAttr, RulesetStatus, Scope, path_beneath_rules,
    };
    use nix::libc;
    use seccompiler::{
        BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
        SeccompRule,
    };

    use super::{Confinement, Landlock, Rules};

    /// The newest rules used here, from Linux 6.12.
    const NEWEST: ABI = ABI::V6;

    /// System calls that a monitor does not use while it runs.
    const DENIED: [i64; 34] = [
        libc::SYS_socket,
        libc::SYS_connect,
        libc::SYS_bind,
        libc::SYS_listen,
        libc::SYS_accept,
        libc::SYS_accept4,
        libc::SYS_ptrace,
        libc::SYS_process_vm_readv,
        libc::SYS_process_vm_writev,
        libc::SYS_process_madvise,
        libc::SYS_pidfd_getfd,
        libc::SYS_pidfd_send_signal,
        libc::SYS_kill,
        libc::SYS_tkill,
        libc::SYS_mount,
        libc::SYS_umount2,
        libc::SYS_pivot_root,
        libc::SYS_chroot,
        libc::SYS_unshare,
        libc::SYS_setns,
        libc::SYS_bpf,
        libc::SYS_perf_event_open,
        libc::SYS_userfaultfd,
        libc::SYS_keyctl,
        libc::SYS_add_key,
        libc::SYS_request_key,
        libc::SYS_init_module,
        libc::SYS_finit_module,
        libc::SYS_delete_module,
        libc::SYS_kexec_load,
        libc::SYS_reboot,
        libc::SYS_swapon,
        libc::SYS_io_uring_setup,
        libc::SYS_quotactl,
    ];

    pub(super) fn of_host() -> Confinement {
        let rules = |level| {
            Ruleset::default()
                .set_compatibility(level)
                .handle_access(AccessFs::from_all(ABI::V1))?
                .create()
        };
        let full = Ruleset::default()
            .set_compatibility(CompatLevel::HardRequirement)
            .handle_access(AccessFs::from_all(NEWEST))
            .and_then(|rules| rules.handle_access(AccessNet::from_all(NEWEST)))
            .and_then(|rules| rules.scope(Scope::from_all(NEWEST)))
            .and_then(Ruleset::create);
        let landlock = if full.is_ok() {
            Landlock::Full
        } else if rules(CompatLevel::HardRequirement).is_ok() {
            Landlock::Partial
        } else {
            Landlock::None
        };
        Confinement {
            landlock,
            seccomp: true,
        }
    }

    pub(super) fn enforce(rules: &Rules) -> io::Result<Confinement> {
        let landlock = restrict(rules).map_err(io::Error::other)?;
        let program = filter(rules.deny_execute).map_err(io::Error::other)?;
        seccompiler::apply_filter(&program).map_err(io::Error::other)?;
        Ok(Confinement {
            landlock,
            seccomp: true,
        })
    }

    fn restrict(rules: &Rules) -> Result<Landlock, landlock::RulesetError> {
        let read: BitFlags<AccessFs> = AccessFs::ReadFile | AccessFs::ReadDir | AccessFs::IoctlDev;
        let write = AccessFs::from_all(NEWEST) & !AccessFs::Execute;
        let status = Ruleset::default()
            .handle_access(AccessFs::from_all(NEWEST))?
            .handle_access(AccessNet::from_all(NEWEST))?
            .scope(Scope::from_all(NEWEST))?
            .create()?
            .add_rules(path_beneath_rules(&rules.read, read))?
            .add_rules(path_beneath_rules(&rules.write, write))?
            .add_rules(path_beneath_rules(&rules.execute, AccessFs::Execute))?
            .restrict_self()?;
        Ok(match status.ruleset {
            RulesetStatus::FullyEnforced => Landlock::Full,
            RulesetStatus::PartiallyEnforced => Landlock::Partial,
            RulesetStatus::NotEnforced => Landlock::None,
        })
    }

    fn filter(deny_execute: bool) -> Result<BpfProgram, seccompiler::BackendError> {
        let mut denied: std::collections::BTreeMap<_, _> =
            DENIED.into_iter().map(|call| (call, Vec::new())).collect();
        if deny_execute {
            denied.insert(libc::SYS_execve, Vec::new());
            denied.insert(libc::SYS_execveat, Vec::new());
        }
        // Threads of a process signal each other with this call; the process id stays the same when
        // the process becomes QEMU.
        let others = SeccompCondition::new(
            0,
            SeccompCmpArgLen::Dword,
            SeccompCmpOp::Ne,
            u64::from(std::process::id()),
        )?;
        let others = SeccompRule::new(vec![others])?;
        denied.insert(libc::SYS_tgkill, vec![others.clone()]);
        denied.insert(libc::SYS_rt_tgsigqueueinfo, vec![others.clone()]);
        denied.insert(libc::SYS_rt_sigqueueinfo, vec![others]);
        let filter = SeccompFilter::new(
            denied,
            SeccompAction::Allow,
            SeccompAction::Errno(libc::EPERM as u32),
            std::env::consts::ARCH.try_into()?,
        )?;
        filter.try_into()
    }
}

#[cfg(not(target_os = "linux"))]
mod enforcement {
    use super::{Confinement, Rules};

    pub(super) fn of_host() -> Confinement {
        Confinement::NONE
    }

    pub(super) fn enforce(_rules: &Rules) -> std::io::Result<Confinement> {
        Ok(Confinement::NONE)
    }
}
