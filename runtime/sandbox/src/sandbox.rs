//! Sandboxes: a writable disk over an image, and the virtual machine that boots both.

use std::fs::File;
use std::hash::{BuildHasher, Hasher};
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

use blockbox_convert::{self as convert, image::Image};
pub use blockbox_store::Record;
use blockbox_store::{CONSOLE, Lock, Store, UPPER, atomic, remove as remove_tree};
use blockbox_vmm::guest::{
    Boot, Exec, ExecSpec, INIT, INIT_PATH, MAX_HOSTNAME, PRIVATE_DIR, Session, UPPER_DIR, WORK_DIR,
};
use blockbox_vmm::{Choice, Vm, VmConfig, Vmm, kernel};
use erofs_reader::Buffered;

use crate::error::{Error, Result};

/// How long a guest may take to come up. Emulated inside an emulated machine it takes half a minute.
const BOOT_TIME: Duration = Duration::from_secs(120);

/// How long the processes that a command leaves behind have to end.
const GRACE: Duration = Duration::from_secs(1);

/// The least memory a guest can have, in bytes: what the kernel needs for itself, and a little.
pub const LEAST_MEMORY: u64 = 64 << 20;

/// All sandboxes, by name.
pub fn list(store: &Store) -> Result<Vec<Record>> {
    Ok(Record::list(store)?)
}

/// Removes the sandbox `name` and what was written in it.
///
/// # Errors
///
/// [`Error::SandboxRunning`], [`Error::NoSandbox`].
pub fn remove(store: &Store, name: &str) -> Result<()> {
    check_name(name)?;
    let folder = store.sandbox(name);
    if !folder.is_dir() {
        return Err(Error::NoSandbox(name.to_owned()));
    }
    let _lock = store
        .lock_sandbox(name)?
        .ok_or_else(|| Error::SandboxRunning(name.to_owned()))?;
    Ok(remove_tree(&folder)?)
}

/// A sandbox that this process holds.
#[derive(Debug)]
pub struct Sandbox {
    name: String,
    folder: PathBuf,
    _lock: Lock,
}

/// The virtual machine to run a sandbox in.
#[derive(Clone, Debug)]
pub struct Machine {
    /// Which monitor.
    pub vmm: Choice,
    /// Virtual CPUs.
    pub cpus: u8,
    /// Memory in bytes; whole MiB count.
    pub memory: u64,
    /// The guest kernel, if not the one that is found.
    pub kernel: Option<PathBuf>,
    /// The guest's host name.
    pub hostname: String,
    /// Folders that would be a tmpfs (`/tmp`, `/run`) and are to be on the writable disk.
    pub on_disk: Vec<String>,
}

/// The writable disk of a new sandbox.
#[derive(Clone, Copy, Debug)]
pub struct Upper<'a> {
    /// Its size in bytes.
    pub size: u64,
    /// Programs that the sandbox has besides what the image has: absolute paths in folders that the image may lack, and
    /// contents.
    pub programs: &'a [(&'a str, &'a [u8])],
}

impl Sandbox {
    /// Makes a sandbox over `image`, which the user calls `image_name`. Without a name it gets a random one. Its writable
    /// disk has `upper_size` bytes.
    ///
    /// # Errors
    ///
    /// [`Error::SandboxName`], [`Error::SandboxExists`]; nothing is left behind.
    pub fn create(
        store: &Store,
        name: Option<&str>,
        image_name: &str,
        image: &Image,
        upper_size: u64,
    ) -> Result<Self> {
        let upper = Upper {
            size: upper_size,
            programs: &[],
        };
        Self::create_with(store, name, image_name, image, upper)
    }

    /// Makes a sandbox as [`create`](Self::create) does, on any writable disk.
    ///
    /// # Errors
    ///
    /// As [`create`](Self::create).
    pub fn create_with(
        store: &Store,
        name: Option<&str>,
        image_name: &str,
        image: &Image,
        upper: Upper<'_>,
    ) -> Result<Self> {
        // Until the record says that the image is used, nobody may remove it.
        let _access = store.share()?;
        let name = name.map_or_else(random_name, str::to_owned);
        check_name(&name)?;
        let exists = || Error::SandboxExists(name.clone());
        let lock = store.lock_sandbox(&name)?.ok_or_else(exists)?;
        let folder = store.sandbox(&name);
        if folder.exists() {
            return Err(exists());
        }
        let now = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        let record = Record {
            name: name.clone(),
            image: image_name.to_owned(),
            manifest_digest: image.digest().to_string(),
            created: now.as_secs(),
        };
        atomic::write_folder(&folder, |folder| {
            write_upper(image, folder.join(UPPER), upper)?;
            Ok::<_, Error>(record.write(folder)?)
        })?;
        Ok(Self {
            name,
            folder,
            _lock: lock,
        })
    }

    /// Takes hold of the sandbox called `name`, and opens its image.
    ///
    /// # Errors
    ///
    /// [`Error::NoSandbox`], [`Error::SandboxRunning`].
    pub fn open(store: &Store, name: &str) -> Result<(Self, Image)> {
        check_name(name)?;
        let lock = store
            .lock_sandbox(name)?
            .ok_or_else(|| Error::SandboxRunning(name.to_owned()))?;
        let folder = store.sandbox(name);
        let record = Record::read(&folder)?.ok_or_else(|| Error::NoSandbox(name.to_owned()))?;
        let digest = record
            .manifest_digest
            .parse()
            .map_err(convert::Error::from)?;
        let image = Image::open(store, &digest)?.ok_or(convert::Error::NoImage(record.image))?;
        Ok((
            Self {
                name: name.to_owned(),
                folder,
                _lock: lock,
            },
            image,
        ))
    }

    /// The sandbox's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Removes the sandbox and what was written in it.
    pub fn remove(self) -> Result<()> {
        Ok(remove_tree(&self.folder)?)
    }

    /// Boots the sandbox and waits until its guest takes commands.
    pub fn start(&self, store: &Store, image: &Image, machine: &Machine) -> Result<Running> {
        let started = Instant::now();
        if machine.memory < LEAST_MEMORY {
            return Err(Error::Memory(machine.memory));
        }
        check_hostname(&machine.hostname)?;
        // A layer that lost bytes would give the guest zeros: monitors do not look at the length of files.
        vmdk::Disk::open(image.disk()).map_err(|source| convert::Error::Vmdk {
            path: image.disk(),
            source,
        })?;
        let kernels = store.kernels();
        let kernel = kernel::locate(machine.kernel.as_deref(), store.root(), &kernels)?;
        let vmm = Vmm::choose(machine.vmm, &kernel, &kernels, None)?;
        let mut config = VmConfig::new(kernel, image.disk(), self.folder.join(UPPER));
        config.cpus = machine.cpus;
        config.memory_mib = u32::try_from(machine.memory >> 20).unwrap_or(u32::MAX);
        config.console_log = Some(self.folder.join(CONSOLE));
        let vm = vmm.start(&config)?;
        let session = Session::connect(&vm, &boot_message(image, machine), BOOT_TIME)?;
        for warning in session.warnings() {
            tracing::warn!("in the guest: {warning}");
        }
        tracing::info!(
            %vmm,
            kernel = session.kernel_release(),
            boot = ?started.elapsed(),
            guest_boot = ?session.boot_times().guest,
            "booted"
        );
        Ok(Running { vm, session })
    }
}

/// Checks that a guest can have this host name as it is.
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

/// What the guest is told at its start.
fn boot_message(image: &Image, machine: &Machine) -> Boot {
    let mut boot = Boot::new(&machine.hostname);
    for folder in &machine.on_disk {
        boot.leave_on_disk(folder);
    }
    let config = image.config().config().as_ref();
    let volumes = config.and_then(|config| config.volumes().as_ref());
    boot.folders = volumes
        .into_iter()
        .flatten()
        .map(|path| [b"/", path.trim_start_matches('/').as_bytes()].concat())
        .collect();
    boot
}

/// A sandbox whose guest takes commands. Dropped without [`stop`](Self::stop), it is switched off.
#[derive(Debug)]
pub struct Running {
    vm: Vm,
    session: Session,
}

impl Running {
    /// The monitor that runs it.
    pub fn vmm(&self) -> Vmm {
        self.vm.vmm()
    }

    /// Starts a command.
    pub fn exec(&self, spec: &ExecSpec) -> Result<Exec> {
        Ok(self.session.exec(spec)?)
    }

    /// Ends every process, unmounts the writable disk and powers off.
    pub fn stop(self) -> Result<()> {
        Ok(self.session.shutdown(&self.vm, GRACE)?)
    }
}

/// Makes the disk that the guest's kernel starts from: init, and overlayfs's two folders.
fn write_upper(image: &Image, path: PathBuf, upper: Upper<'_>) -> convert::Result<()> {
    let Upper { size, programs } = upper;
    let failed = |source| convert::Error::Ext4 {
        path: path.clone(),
        source,
    };
    let file = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(&path)
        .map_err(convert::Error::io(&path))?;
    // Made longer by a byte written at its end, it would take a block more.
    file.set_len(size).map_err(convert::Error::io(&path))?;
    let mut disk =
        ext4_writer::Builder::new(file, ext4_writer::Options::new(size)).map_err(failed)?;
    let ours = ext4_writer::Metadata::new(0o755);
    let name = |path: &'static str| path.trim_start_matches('/').as_bytes();
    let root = disk.root();
    disk.add_dir(root, name(PRIVATE_DIR), ours.clone())
        .map_err(failed)?;
    let (private, init) = disk
        .make_parents(INIT_PATH.as_bytes(), &ours)
        .map_err(failed)?;
    let size = Some(INIT.len() as u64);
    disk.add_file(private, init, ours.clone(), INIT, size)
        .map_err(failed)?;
    // The root of an overlay has the attributes of its upperdir.
    disk.add_dir(root, name(UPPER_DIR), root_metadata(image)?)
        .map_err(failed)?;
    for (path, program) in programs {
        let path = format!("{UPPER_DIR}{path}");
        let (folder, name) = disk.make_parents(path.as_bytes(), &ours).map_err(failed)?;
        let size = Some(program.len() as u64);
        disk.add_file(folder, name, ours.clone(), *program, size)
            .map_err(failed)?;
    }
    disk.add_dir(root, name(WORK_DIR), ours).map_err(failed)?;
    disk.finish().map_err(failed)?;
    Ok(())
}

/// The attributes of an image's root directory.
fn root_metadata(image: &Image) -> convert::Result<ext4_writer::Metadata> {
    let path = image.fsmeta();
    let failed = |source| convert::Error::Read {
        path: path.clone(),
        source,
    };
    let file = File::open(&path).map_err(convert::Error::io(&path))?;
    let fsmeta = erofs_reader::Image::open(Buffered::new(file)).map_err(failed)?;
    let root = fsmeta.root().map_err(failed)?;
    let (secs, nanos) = root.mtime().into();
    Ok(ext4_writer::Metadata::new(root.mode())
        .owner(root.uid(), root.gid())
        .mtime(ext4_writer::Timestamp { secs, nanos })
        .xattrs(fsmeta.xattrs(&root).map_err(failed)?))
}

fn check_name(name: &str) -> Result<()> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    // A leading dot is the store's own; a name is also the guest's host name.
    if name.is_empty() || name.len() > 63 || name.starts_with('.') || !name.chars().all(allowed) {
        return Err(Error::SandboxName(name.to_owned()));
    }
    Ok(())
}

/// Twelve hexadecimal digits, as docker names containers by.
fn random_name() -> String {
    let random = std::hash::RandomState::new().build_hasher().finish();
    format!("{:012x}", random & 0xffff_ffff_ffff)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_name_is_exact_or_refused() {
        for name in ["web-1.example.org", "My_Host", &"h".repeat(64)] {
            assert!(check_hostname(name).is_ok(), "{name}");
        }
        for name in ["", "a b", "a init=/bin/sh", "a\nb", "ä", &"h".repeat(65)] {
            let refused = check_hostname(name);
            assert!(matches!(refused, Err(Error::Hostname(n)) if n == name));
        }
    }

    #[test]
    fn a_name_is_one_plain_folder_name() {
        for name in ["a", "web-1", "a.b_c", &random_name()] {
            assert!(check_name(name).is_ok(), "{name}");
        }
        for name in ["", ".", "..", ".tmp-x", "a/b", "ä", "a b", &"x".repeat(64)] {
            assert!(
                matches!(check_name(name), Err(Error::SandboxName(_))),
                "{name}"
            );
        }
    }
}
