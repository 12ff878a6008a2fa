//! The builder of sandboxes.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use blockbox_convert::image::Image;
use blockbox_convert::patch::Patch;
use blockbox_net::Publish;
use blockbox_store::spec::{
    Arch, ImageSource, Machine, Mount, Network, RestartPolicy, RootDisk, Secret, Spec, Ulimit,
    VmmChoice,
};
use blockbox_store::{Lock, Store};

use crate::boot;
use crate::create;
use crate::error::Result;
use crate::launched::Boot;
use crate::process::{self, Overrides};
use crate::root::{Root, SHELL};
use crate::sandbox::Sandbox;
use crate::secrets::{self, Value};
use crate::snapshot::pool;

/// Describes a sandbox. Defaults are docker's, in a machine of two CPUs and
/// 1 GiB.
///
/// ```no_run
/// use blockbox::{Sandbox, image::Image, store::Store};
///
/// let store = Store::open("/var/lib/blockbox")?;
/// let image = Image::find(&store, "debian:bookworm")?;
/// let sandbox = Sandbox::builder(&store, "debian:bookworm", &image)
///     .name("build")
///     .memory(2 << 30)
///     .command(["sleep", "infinity"])
///     .create()?;
/// # Ok::<(), blockbox::Error>(())
/// ```
#[derive(Clone, Debug)]
#[must_use = "a builder makes nothing until `create` or `launch`"]
pub struct Builder<'a> {
    store: &'a Store,
    root: Root,
    spec: Spec,
    overrides: Overrides,
    patches: Vec<Patch>,
    secrets: Vec<Value>,
    from_pool: bool,
}

impl Sandbox {
    /// Returns a builder of a sandbox over `image`, which the user calls `name`.
    pub fn builder<'a>(store: &'a Store, name: &str, image: &Image) -> Builder<'a> {
        Builder::new(store, name, Root::Image(Box::new(image.clone())))
    }

    /// Returns a builder of a sandbox whose root is a disk of the host. A disk has no
    /// configuration: the command is a shell, unless another is set.
    pub fn on_disk(store: &Store, disk: RootDisk) -> Builder<'_> {
        Builder::new(store, "", Root::Disk(disk))
    }
}

impl<'a> Builder<'a> {
    fn new(store: &'a Store, name: &str, root: Root) -> Self {
        Self {
            store,
            root,
            spec: Spec::new(String::new(), ImageSource::new(name, String::new())),
            overrides: Overrides::default(),
            patches: Vec::new(),
            secrets: Vec::new(),
            from_pool: false,
        }
    }

    /// Sets the sandbox's name, unique in its store: letters, digits, `_`, `.` and `-`. The default
    /// is the beginning of its id.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.spec.name = name.into();
        self
    }

    /// Sets the arguments of the main command, instead of the image's `Cmd`.
    pub fn command(
        mut self,
        args: impl IntoIterator<Item = impl Into<std::ffi::OsString>>,
    ) -> Self {
        self.overrides.arguments = args.into_iter().map(Into::into).collect();
        self
    }

    /// Sets all overrides of the image's command.
    pub fn process(mut self, overrides: Overrides) -> Self {
        self.overrides = overrides;
        self
    }

    /// Sets a variable of the main command's environment.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.overrides.env.push(format!("{name}={value}").into());
        self
    }

    /// Sets the size of the writable disk in bytes.
    pub fn upper_size(mut self, bytes: u64) -> Self {
        self.spec.upper_size = bytes;
        self
    }

    /// Sets the processor architecture, from [`check_platform`](crate::check_platform). If it is
    /// not the host's, `None`, QEMU emulates it in software.
    pub fn arch(mut self, arch: Option<Arch>) -> Self {
        self.spec.machine.arch = arch;
        self
    }

    /// Sets the number of virtual CPUs.
    pub fn cpus(mut self, cpus: u8) -> Self {
        self.spec.machine.cpus = cpus;
        self
    }

    /// Sets the guest's memory in bytes, which is rounded down to whole MiB.
    pub fn memory(mut self, bytes: u64) -> Self {
        self.spec.machine.memory = bytes;
        self
    }

    /// Sets the virtual machine monitor.
    pub fn vmm(mut self, vmm: VmmChoice) -> Self {
        self.spec.machine.vmm = vmm;
        self
    }

    /// Sets the guest kernel: an ELF vmlinux or a libkrunfw.
    pub fn kernel(mut self, path: impl Into<PathBuf>) -> Self {
        self.spec.machine.kernel = Some(path.into());
        self
    }

    /// Sets all options of the machine.
    pub fn machine(mut self, machine: Machine) -> Self {
        self.spec.machine = machine;
        self
    }

    /// Sets the guest's host name; the default is the sandbox's name.
    pub fn hostname(mut self, name: impl Into<String>) -> Self {
        self.spec.hostname = Some(name.into());
        self
    }

    /// Keeps folders that are a tmpfs by default (`/tmp`, `/run`) on the writable disk.
    pub fn on_disk(mut self, folders: Vec<String>) -> Self {
        self.spec.on_disk = folders;
        self
    }

    /// Adds a label: a name and a value for the user's own purposes.
    pub fn label(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.spec.labels.insert(name.into(), value.into());
        self
    }

    /// Sets all labels.
    pub fn labels(mut self, labels: BTreeMap<String, String>) -> Self {
        self.spec.labels = labels;
        self
    }

    /// Sets whether the main command is restarted after it ends.
    pub fn restart(mut self, policy: RestartPolicy) -> Self {
        self.spec.restart = policy;
        self
    }

    /// Sets whether the sandbox is removed when its main command has ended.
    pub fn remove_on_exit(mut self, remove: bool) -> Self {
        self.spec.remove_on_exit = remove;
        self
    }

    /// Sets whether the root is read-only, except for what is mounted there. Such a sandbox has no
    /// writable disk, unless [`patches`](Self::patches), [`disk_dirs`](Self::disk_dirs) or a
    /// machine that can be forked need one.
    pub fn read_only(mut self, read_only: bool) -> Self {
        self.spec.read_only = read_only;
        self
    }

    /// Mounts a folder of the writable disk itself at each of these absolute paths, with the
    /// image's files: ext4, not an overlay as the root is.
    pub fn disk_dirs(mut self, paths: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.spec.disk_dirs = paths.into_iter().map(Into::into).collect();
        self
    }

    /// Sets the resource limits of every command.
    pub fn ulimits(mut self, limits: Vec<Ulimit>) -> Self {
        self.spec.ulimits = limits;
        self
    }

    /// Sets how long the sandbox may run before it is stopped.
    pub fn timeout(mut self, limit: Duration) -> Self {
        self.spec.timeout_ms = Some(u64::try_from(limit.as_millis()).unwrap_or(u64::MAX));
        self
    }

    /// Sets what the sandbox can reach, and what can reach it. The default is the internet, and no
    /// published port.
    pub fn network(mut self, network: Network) -> Self {
        self.spec.network = network;
        self
    }

    /// Publishes ports of the guest on the host.
    pub fn publish(mut self, ports: Publish) -> Self {
        self.spec.network.publish.push(ports);
        self
    }

    /// Adds a mount: a folder or file of the host, a volume, another image, or a tmpfs.
    pub fn mount(mut self, mount: Mount) -> Self {
        self.spec.mounts.push(mount);
        self
    }

    /// Adds a secret, a file in `/run/secrets` whose value is read at every start and is on no
    /// disk.
    pub fn secret(mut self, secret: Secret) -> Self {
        self.spec.secrets.push(secret);
        self
    }

    /// Sets the value of a secret for [`launch`](Self::launch), instead of reading its source.
    pub fn secret_value(mut self, name: &str, value: impl Into<Vec<u8>>) -> Self {
        self.secrets.push(Value::new(name, value.into()));
        self
    }

    /// Adds changes to the image's tree, which are made on the sandbox's disk before the first
    /// boot.
    pub fn patches(mut self, patches: impl IntoIterator<Item = Patch>) -> Self {
        self.patches.extend(patches);
        self
    }

    /// Sets whether [`launch`](Self::launch) starts the sandbox as a copy of a machine in the
    /// [pool](Self::launch_to_warm), instead of booting. If the pool has no suitable machine, the
    /// sandbox boots, and [`Booted::warning`](crate::Booted::warning) is the reason.
    pub fn from_pool(mut self, from_pool: bool) -> Self {
        self.from_pool = from_pool;
        self
    }

    /// Makes the sandbox without starting it.
    ///
    /// # Errors
    ///
    /// [`Error::SandboxName`](crate::Error::SandboxName),
    /// [`Error::SandboxExists`](crate::Error::SandboxExists),
    /// [`Error::NoCommand`](crate::Error::NoCommand); nothing is left behind.
    pub fn create(self) -> Result<Sandbox> {
        let store = self.store;
        let (spec, _lock) = self.make(false)?;
        Ok(Sandbox::new(store.clone(), spec.name))
    }

    /// Makes the sandbox and starts to boot it, holding its lock all the time. It is removed if its
    /// main command never runs.
    ///
    /// # Errors
    ///
    /// As [`create`](Self::create); a sandbox that is known not to boot is not made.
    pub fn launch(self) -> Result<(Sandbox, Boot)> {
        let store = self.store;
        boot::check(store, &self.spec.machine)?;
        let cold = match self.from_pool {
            true => match self.clone().launch_warm()? {
                Ok(launched) => return Ok(launched),
                Err(reason) => Some(format!("{reason}; it boots")),
            },
            false => None,
        };
        let secrets = secrets::read(&self.spec.secrets, &self.secrets)?;
        let (spec, lock) = self.make(true)?;
        let sandbox = Sandbox::new(store.clone(), spec.name);
        let boot = Boot::launch(&sandbox, lock, None, secrets, None)?;
        Ok((sandbox, boot.warn(cold)))
    }

    /// Starts to boot a machine for the pool, in a sandbox that is not kept. Once it is up,
    /// [`Booted::warm_up`](crate::Booted::warm_up) runs its command there, and
    /// [`Booted::into_pool`](crate::Booted::into_pool) adds the machine to the pool.
    ///
    /// # Errors
    ///
    /// As [`launch`](Self::launch); [`Error::NotPooled`](crate::Error::NotPooled).
    pub fn launch_to_warm(mut self) -> Result<(Sandbox, Boot)> {
        pool::check(&self.root, &self.spec, !self.patches.is_empty())?;
        self.spec.machine.forkable = true;
        self.from_pool = false;
        self.launch()
    }

    /// Launches the sandbox as a copy of a machine in the pool, or returns why it must boot.
    fn launch_warm(mut self) -> Result<std::result::Result<(Sandbox, Boot), String>> {
        if !self.patches.is_empty() {
            return Ok(Err("a machine in the pool has no patches".to_owned()));
        }
        // The machine in the pool is forkable, too.
        self.spec.machine.forkable = true;
        self.settle()?;
        pool::launch(self.store, &self.root, self.spec)
    }

    fn make(mut self, discard: bool) -> Result<(Spec, Lock)> {
        self.settle()?;
        create::create(self.store, &self.root, self.spec, &self.patches, discard)
    }

    /// Sets the fields that depend on others.
    fn settle(&mut self) -> Result<()> {
        let mut overrides = std::mem::take(&mut self.overrides);
        if let (Root::Disk(_), None, []) =
            (&self.root, &overrides.entrypoint, &overrides.arguments[..])
        {
            overrides.arguments.push(SHELL.into());
        }
        let config = self.root.config();
        self.spec.process = Some(process::resolve(config, overrides)?);
        // Patches and folders need a disk; and copying the machine includes copying its disk.
        let needs_disk = !self.patches.is_empty()
            || !self.spec.disk_dirs.is_empty()
            || self.spec.machine.forkable;
        self.spec.diskless = self.spec.read_only && !needs_disk;
        Ok(())
    }
}
