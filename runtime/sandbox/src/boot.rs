//! Boots a sandbox: from its specification to a guest that accepts commands.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::bounds::{LEAST_MEMORY, MOST_MEMORY};
use crate::choice;
use crate::error::{Error, Result};
use crate::mounts::Lowered;
use crate::network::{self, Gateway};
use crate::platform;
use crate::root::{Held, Root};
use crate::secrets::Value;
use blockbox_convert::path;
use blockbox_store::spec::{self, Machine, Spec};
use blockbox_store::{CONSOLE, INIT_DISK, Store, UPPER, atomic};
use blockbox_vmm::guest::{
    self, Adoption, Boot, Exec, Folder, MAX_HOSTNAME, Mount, MountSource, Session, Ulimit,
};
use blockbox_vmm::hypervisor::Wait;
use blockbox_vmm::{Arch, MemoryBacking, SharedMemory, Vm, VmConfig, Vmm, VmmError, kernel};

/// How long a guest may take to boot. Under nested emulation it takes half a minute.
const BOOT_TIME: Duration = Duration::from_secs(120);

/// How long QEMU may take to read the state of a machine.
const RESTORE_TIME: Duration = Duration::from_secs(30);

/// The most CPUs of a guest on hosts that have fewer.
const CPUS: usize = 16;

/// Checks a machine before it boots, and finds its kernel.
///
/// # Errors
///
/// [`Error::Memory`], [`Error::TooMuchMemory`], [`Error::Cpus`]; [`Error::Vmm`] if there is no
/// kernel, no init, or no monitor to boot them.
pub fn check(store: &Store, machine: &Machine) -> Result<PathBuf> {
    if machine.memory < LEAST_MEMORY {
        return Err(Error::Memory(machine.memory));
    }
    if machine.memory > MOST_MEMORY {
        return Err(Error::TooMuchMemory(machine.memory));
    }
    let most = std::thread::available_parallelism().map_or(CPUS, |cpus| CPUS.max(cpus.get()));
    if usize::from(machine.cpus) > most {
        let asked = machine.cpus;
        return Err(Error::Cpus { asked, most });
    }
    let arch = platform::arch(machine);
    Vmm::check(choice::named(machine.vmm), arch)?;
    guest::init(arch)?;
    let kernel = machine.kernel.as_deref();
    let cache = store.kernels();
    Ok(kernel::locate(kernel, store.root(), &cache, arch)?)
}

/// A machine that is ready to start.
#[derive(Debug)]
pub(crate) struct Plan {
    vmm: Vmm,
    config: VmConfig,
    boot: Boot,
    gateway: Option<Arc<Gateway>>,
    /// Locks that are held while the machine runs.
    held: Vec<Held>,
}

impl Plan {
    /// Plans how the sandbox whose disks are in `folder` boots. This may test whether hardware
    /// virtualisation works, which takes half a minute if it does not.
    pub(crate) fn new(
        store: &Store,
        folder: &Path,
        spec: &Spec,
        root: &Root,
        secrets: Vec<Value>,
        notice: &dyn Fn(&str),
    ) -> Result<Self> {
        let kernel = check(store, &spec.machine)?;
        root.check(&spec.image.asked)?;
        platform::check(&spec.image, &spec.machine)?;
        let arch = platform::arch(&spec.machine);
        let mut held: Vec<_> = root.hold()?.into_iter().collect();
        let mut on_wait = |wait| {
            if let Wait::Trial(time) = wait {
                let seconds = time.as_secs();
                notice(&format!(
                    "trying whether hardware virtualisation works ({seconds} s at most)"
                ));
            }
        };
        // Reports a port that is in use before anything that takes long.
        let connected = spec.network.is_connected();
        let publishes = !spec.network.publish.is_empty();
        let gateway = connected
            .then(|| Gateway::start(&spec.network))
            .transpose()?;
        if let Some((gateway, _)) = gateway.as_ref().filter(|_| publishes) {
            gateway.started()?;
        }
        let choice = choice::of(&spec.machine);
        let vmm = Vmm::choose_telling(choice, arch, &kernel, &store.kernels(), None, &mut on_wait)?;
        let disk = root.path();
        let mut config = if spec.diskless {
            VmConfig::without_upper(kernel, disk, init_disk(folder, arch)?)
        } else {
            VmConfig::new(kernel, disk, folder.join(UPPER))
        };
        config.arch = arch;
        root.describe(&mut config);
        config.cpus = spec.machine.cpus;
        config.memory_mib = u32::try_from(spec.machine.memory >> 20).unwrap_or(u32::MAX);
        config.console_log = Some(folder.join(CONSOLE));
        if spec.machine.forkable {
            let memory = SharedMemory::new(config.memory_mib).map_err(Error::io("memory"))?;
            config.memory = MemoryBacking::Shared(memory);
        }
        let mut boot = boot_message(root, spec);
        let (gateway, card) = gateway.unzip();
        config.networks.extend(card);
        let search = gateway.as_ref().map(|gateway| gateway.search().to_vec());
        network::describe(&spec.network, search, &mut boot);
        config.confine = spec.machine.confine;
        let mut mounts = Lowered::new(store, folder, spec)?;
        mounts.apply(&mut config, &mut boot);
        boot.secrets = secrets.into_iter().map(Value::into_file).collect();
        config.check(vmm)?;
        held.extend(mounts.locks.into_iter().map(Held::Volume));
        Ok(Self {
            vmm,
            config,
            boot,
            gateway: gateway.map(Arc::new),
            held,
        })
    }

    /// Returns the monitor that will run the machine.
    pub(crate) fn vmm(&self) -> Vmm {
        self.vmm
    }

    /// Returns the gateway of the machine's network.
    pub(crate) fn gateway(&self) -> Option<&Arc<Gateway>> {
        self.gateway.as_ref()
    }

    /// Takes the locks to hold while the machine runs.
    pub(crate) fn take_held(&mut self) -> Vec<Held> {
        std::mem::take(&mut self.held)
    }

    /// Starts the machine.
    pub(crate) fn start(&self) -> Result<Vm> {
        Ok(self.vmm.start(&self.config)?)
    }

    /// Returns the memory that the machine shares with this process.
    pub(crate) fn memory(&self) -> Option<&SharedMemory> {
        match &self.config.memory {
            MemoryBacking::Shared(memory) => Some(memory),
            _ => None,
        }
    }

    /// Starts the machine as a copy of another one, which waits for [`go_on`](Self::go_on).
    pub(crate) fn start_copy(&self, memory: PathBuf) -> Result<Vm> {
        let mut config = self.config.clone();
        config.memory = MemoryBacking::CopyOf(memory);
        config.incoming = true;
        Ok(self.vmm.start(&config)?)
    }

    /// Resumes a copy as the sandbox of this specification.
    pub(crate) fn go_on(
        &self,
        vm: &Vm,
        machine: &Path,
        mut adoption: Adoption,
        spec: &Spec,
    ) -> Result<(Session, Option<Exec>)> {
        let state = File::open(machine).map_err(Error::io(machine))?;
        let qmp = vm.qmp().ok_or(VmmError::MonitorGone)?;
        qmp.restore(&state, RESTORE_TIME)?;
        let identity = &mut adoption.identity;
        identity.hostname = spec.hostname().to_owned();
        identity.machine_id = machine_id(&spec.id);
        identity.hosts.clone_from(&self.boot.hosts);
        identity.network.clone_from(&self.boot.network);
        if let (Some(network), [card]) = (&mut identity.network, &*self.config.networks) {
            // The restored card has the address of the machine that was saved.
            network.hardware_address = card.mac.to_vec();
        }
        identity.close_connections = true;
        let (session, command) = Session::adopt(vm, &adoption)?;
        let took = session.boot_times().connect;
        tracing::info!(vmm = %self.vmm, adopted = ?took, "went on as a copy");
        Ok((session, command))
    }

    /// Waits until the guest accepts commands.
    pub(crate) fn connect(&self, vm: &Vm) -> Result<Session> {
        let session = Session::connect(vm, &self.boot, BOOT_TIME)?;
        for warning in session.warnings() {
            tracing::warn!("in the guest: {warning}");
        }
        tracing::info!(
            vmm = %self.vmm,
            kernel = session.kernel_release(),
            boot = ?session.boot_times().connect,
            guest_boot = ?session.boot_times().guest,
            "booted"
        );
        Ok(session)
    }
}

/// Makes the boot disk for a sandbox without a writable disk, with this program's init.
fn init_disk(folder: &Path, arch: Arch) -> Result<PathBuf> {
    let path = folder.join(INIT_DISK);
    atomic::write_read_only(&path, |file| {
        let file = file.as_file().try_clone().map_err(Error::io(&path))?;
        Ok::<_, Error>(blockbox_vmm::write_init_disk(file, arch)?)
    })?;
    Ok(path)
}

/// Checks that a guest can use this host name unchanged.
///
/// # Errors
///
/// [`Error::Hostname`].
pub fn check_hostname(name: &str) -> Result<()> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
    if name.is_empty() || name.len() > MAX_HOSTNAME || !name.chars().all(allowed) {
        return Err(Error::Hostname(name.to_owned()));
    }
    Ok(())
}

/// Returns the boot message for the guest.
fn boot_message(root: &Root, spec: &Spec) -> Boot {
    let mut boot = Boot::new(spec.hostname());
    boot.mounts.extend(root.mount());
    for folder in &spec.on_disk {
        boot.leave_on_disk(folder);
    }
    // Parents first: a nested folder is mounted in its parent.
    let mut folders: Vec<_> = spec.disk_dirs.iter().collect();
    folders.sort();
    folders.dedup();
    let mounts = folders
        .into_iter()
        .map(|path| Mount::new(path.as_str(), MountSource::SandboxDisk).copy_up(true));
    boot.mounts.extend(mounts);
    boot.read_only_root = spec.read_only;
    if spec.forked || spec.machine.forkable {
        // The machine ID of the image, or of the original sandbox, must not be shared. A machine
        // that has one of its own has a place for a copy's, which a copy would have to make first.
        boot.machine_id = machine_id(&spec.id);
    }
    boot.ulimits = spec.ulimits.iter().map(limit).collect();
    let volumes = root.config().map_or(&[][..], |config| config.volumes());
    boot.folders
        .extend(volumes.iter().filter_map(|path| volume_folder(path)));
    boot
}

/// Returns the folder of a `VOLUME`, whose path docker cleans: `/a/../b` is `/b`. The root itself
/// needs no folder.
fn volume_folder(path: &str) -> Option<Folder> {
    let path = path::join("/", path);
    (path != "/").then(|| Folder {
        path: path.into_bytes(),
        mode: 0o755,
    })
}

/// Returns the first 16 bytes of a sandbox's id.
fn machine_id(id: &str) -> Vec<u8> {
    let digits = id.as_bytes().chunks(2).take(16);
    let byte = |pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    digits.filter_map(byte).collect()
}

fn limit(limit: &spec::Ulimit) -> Ulimit {
    Ulimit {
        resource: limit.resource,
        soft: limit.soft.unwrap_or(u64::MAX),
        hard: limit.hard.unwrap_or(u64::MAX),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_paths_of_volumes_are_cleaned_as_docker_cleans_them() {
        let path = |text| volume_folder(text).map(|folder| folder.path);
        assert_eq!(path("/a/../b"), Some(b"/b".to_vec()));
        assert_eq!(path("data//./x/"), Some(b"/data/x".to_vec()));
        assert_eq!(path("/../../etc"), Some(b"/etc".to_vec()));
        for root in ["", "/", ".", "/a/.."] {
            assert_eq!(path(root), None, "{root}");
        }
    }

    #[test]
    fn a_host_name_that_cannot_be_used_unchanged_is_rejected() {
        for name in ["web-1.example.org", "My_Host", &"h".repeat(64)] {
            assert!(check_hostname(name).is_ok(), "{name}");
        }
        for name in ["", "a b", "a init=/bin/sh", "a\nb", "ä", &"h".repeat(65)] {
            let refused = check_hostname(name);
            assert!(matches!(refused, Err(Error::Hostname(n)) if n == name));
        }
    }
}
