//! Changes from the kernel's root, the writable disk, to the container's root. In a machine without
//! a writable disk, whose kernel boots from a read-only one, a tmpfs replaces it.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use blockbox_protocol::{Boot, PRIVATE_DIR, UPPER_DIR, WORK_DIR};
use rustix::fs::{CWD, Mode, OFlags, StatVfsMountFlags};
use rustix::mount::{MountFlags, UnmountFlags};
use rustix::process::{Resource, Rlimit};

use super::failure::{Failure, Step, Warnings};
use super::readahead::Metadata;
use super::root::{self, Access};
use super::{clock, copy, devices, etc, kernel, mounts, network, secrets, sys};

/// The soft and hard limit of open files of a command: the kernel's maximum (`fs.nr_open`), as
/// docker sets it for containers.
const OPEN_FILES: u64 = 1_048_576;

/// Open directories that outlive the change of root.
#[derive(Debug)]
pub(crate) struct Roots {
    /// The root directory of the writable disk, or of the tmpfs that replaces it, hidden below the
    /// container's.
    pub(crate) upper: OwnedFd,
    /// The container's root directory.
    pub(crate) merged: OwnedFd,
    /// A procfs that the container cannot unmount.
    pub(crate) proc: OwnedFd,
    /// A tmpfs of init's own, hidden below the container's root: its files can be mounted in the
    /// container.
    pub(crate) memory: OwnedFd,
}

/// Mount points that only exist until the change of root.
#[derive(Debug)]
pub(crate) struct Early {
    private: PathBuf,
}

impl Early {
    /// Mounts the file systems that are needed to find devices.
    pub(crate) fn mount() -> Result<Self, Failure> {
        rustix::process::umask(Mode::empty());
        if is_read_only("/")? {
            root_in_memory()?;
        }
        let early = Early {
            private: PathBuf::from(PRIVATE_DIR),
        };
        for (name, kind) in [
            ("dev", "devtmpfs"),
            ("sys", "sysfs"),
            ("proc", "proc"),
            ("memory", "tmpfs"),
        ] {
            let target = early.directory(name)?;
            rustix::mount::mount(kind, &target, kind, MountFlags::empty(), None)
                .step(format!("mounting {kind}"))?;
        }
        Ok(early)
    }

    /// Returns the device node of the control port.
    pub(crate) fn control_port(&self) -> Result<PathBuf, Failure> {
        devices::control_port(&self.private.join("sys"), &self.private.join("dev"))
    }

    /// Sets up the container's root with the settings in `boot`, and makes it this process's root.
    /// Returns the metadata of its image, too, if it has one.
    pub(crate) fn enter_container(
        self,
        boot: &Boot,
        warnings: &mut Warnings,
    ) -> Result<(Roots, Option<Metadata>), Failure> {
        warnings.tolerate(clock::set_at_least(boot.realtime_ns).step("setting the clock"));
        if boot.hostname.is_empty() {
            return Err(Failure::new("setting the hostname", "it is empty"));
        }
        rustix::system::sethostname(boot.hostname.as_bytes()).step("setting the hostname")?;

        let upper = open_dir(Path::new("/"))?;
        let proc = open_dir(&self.private.join("proc"))?;
        let memory = open_dir(&self.private.join("memory"))?;
        let mounts = boot.mounts.iter();
        let mut disks = mounts.filter_map(|mount| Some((mount, mounts::root_partition(mount)?)));
        let mut early = vec!["sys", "dev"];
        let mut metadata = None;
        match disks.next_back() {
            None => {
                metadata = self.mount_image(warnings)?;
                self.overlay()?;
                early.push("lower");
            }
            Some((mount, partition)) if mount.read_only => {
                self.mount_disk(partition, Access::Read, "lower")?;
                self.overlay()?;
                early.push("lower");
            }
            Some((_, partition)) => self.mount_disk(partition, Access::Write, "root")?,
        }
        for name in early {
            let early = self.private.join(name);
            rustix::mount::unmount(&early, UnmountFlags::DETACH)
                .step(format!("unmounting {}", early.display()))?;
        }
        let merged = switch_root(&self.private.join("root"))?;
        let roots = Roots {
            upper,
            merged,
            proc,
            memory,
        };
        kernel::mount_filesystems(warnings)?;
        if !boot.entropy.is_empty() {
            warnings.tolerate(sys::add_entropy(&boot.entropy).step("adding entropy"));
        }
        kernel::set_defaults(warnings);
        set_limits(warnings);
        mounts::provide(&boot.mounts, &roots, warnings)?;
        for folder in &boot.folders {
            make_dir(mounts::target(&folder.path)?, folder.mode)?;
        }
        secrets::provide(&boot.secrets)?;
        network::bring_up(boot.network.as_ref(), warnings)?;
        // Set after the network, because an interface has settings of its own.
        kernel::set_all(&boot.sysctls)?;
        etc::provide(&etc::Names::of(boot), &roots.memory, warnings)?;
        if boot.read_only_root {
            mounts::read_only(Path::new("/"))?;
        }
        Ok((roots, metadata))
    }

    /// Mounts the image. Returns its metadata, unless it cannot be read ahead.
    fn mount_image(&self, warnings: &mut Warnings) -> Result<Option<Metadata>, Failure> {
        let lower = self.directory("lower")?;
        let image = devices::image_disk(&self.private.join("sys"), &self.private.join("dev"));
        rustix::mount::mount(&image, &lower, "erofs", MountFlags::RDONLY, None)
            .step(format!("mounting {} as EROFS", image.display()))?;
        // After the mount, which sets the block size of the disk's buffers and drops existing ones.
        let metadata = Metadata::read_ahead(&image);
        Ok(metadata.map_err(|failure| warnings.add(&failure)).ok())
    }

    /// Mounts the file system of a disk that does not belong to an image.
    fn mount_disk(&self, partition: u32, access: Access, name: &str) -> Result<(), Failure> {
        let target = self.directory(name)?;
        let early = |name: &str| self.private.join(name);
        let disk = devices::image_disk(&early("sys"), &early("dev"));
        root::mount(&disk, partition, access, &early("proc"), &target)
    }

    fn overlay(&self) -> Result<(), Failure> {
        let lower = self.directory("lower")?;
        let root = self.directory("root")?;
        if !Path::new(UPPER_DIR).is_dir() {
            make_dir(Path::new(UPPER_DIR), 0o755)?;
            // The root of an overlay has the attributes of its upperdir.
            let step = || format!("giving {UPPER_DIR} the attributes of the lower root");
            let root = fs::metadata(&lower).step(step())?;
            copy::attributes(&lower, Path::new(UPPER_DIR), &root).step(step())?;
        }
        make_dir(Path::new(WORK_DIR), 0o755)?;
        // As docker mounts overlays: without features that leave marks in the upperdir which other
        // kernels may not support.
        let options = format!(
            "lowerdir={},upperdir={UPPER_DIR},workdir={WORK_DIR},redirect_dir=off,index=off,metacopy=off\0",
            lower.display()
        );
        let options = std::ffi::CString::from_vec_with_nul(options.into_bytes())
            .map_err(|error| Failure::new("the overlay's options", error.to_string()))?;
        rustix::mount::mount(
            "overlay",
            &root,
            "overlay",
            MountFlags::empty(),
            options.as_c_str(),
        )
        .step("mounting the overlay")
    }

    fn directory(&self, name: &str) -> Result<PathBuf, Failure> {
        let path = self.private.join(name);
        make_dir(&path, 0o755)?;
        Ok(path)
    }
}

/// Moves the mount at `root` to `/`, as `switch_root(8)` does: unlike after `pivot_root`, the
/// writable disk stays mounted below it, and can be remounted read-only at the end.
fn switch_root(root: &Path) -> Result<OwnedFd, Failure> {
    let step = "changing to the container's root";
    rustix::process::chdir(root).step(step)?;
    rustix::mount::mount_move(".", "/").step(step)?;
    rustix::process::chroot(".").step(step)?;
    rustix::process::chdir("/").step(step)?;
    open_dir(Path::new("/"))
}

fn is_read_only(path: &str) -> Result<bool, Failure> {
    let found = rustix::fs::statvfs(path).step("looking at the kernel's root")?;
    Ok(found.f_flag.contains(StatVfsMountFlags::RDONLY))
}

/// Changes to a tmpfs, which replaces the writable disk.
fn root_in_memory() -> Result<(), Failure> {
    // The only folder that the read-only disk certainly has. The running init stays open below the
    // mount.
    let target = Path::new(PRIVATE_DIR);
    rustix::mount::mount("tmpfs", target, "tmpfs", MountFlags::empty(), c"mode=0755")
        .step("mounting a tmpfs in the place of the writable disk")?;
    switch_root(target).map(drop)
}

fn set_limits(warnings: &mut Warnings) {
    let limit = Rlimit {
        current: Some(OPEN_FILES),
        maximum: Some(OPEN_FILES),
    };
    let set = rustix::process::setrlimit(Resource::Nofile, limit);
    warnings.tolerate(set.step("setting the limit of open files"));
}

/// The most symbolic links that are followed to a directory, as in the kernel.
const MAX_LINKS: u32 = 40;

/// Creates a directory and its parents, if they do not exist. Symbolic links are followed, even to
/// paths that do not exist yet.
pub(crate) fn make_dir(path: &Path, mode: u32) -> Result<(), Failure> {
    make_dir_behind(path, mode, MAX_LINKS).step(format!("making the directory {}", path.display()))
}

fn make_dir_behind(path: &Path, mode: u32, links: u32) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;

    if path.is_dir() {
        return Ok(());
    }
    let parent = path.parent().unwrap_or(Path::new("/"));
    if let Ok(target) = fs::read_link(path) {
        let links = links
            .checked_sub(1)
            .ok_or_else(|| io::Error::from(rustix::io::Errno::LOOP))?;
        return make_dir_behind(&parent.join(target), mode, links);
    }
    if parent != path {
        make_dir_behind(parent, mode, links)?;
    }
    match fs::DirBuilder::new().mode(mode).create(path) {
        // Another process created it meanwhile.
        Err(_) if path.is_dir() => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            Err(rustix::io::Errno::NOTDIR.into())
        }
        made => made,
    }
}

pub(crate) fn open_dir(path: &Path) -> Result<OwnedFd, Failure> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat(CWD, path, flags, Mode::empty()).step(format!("opening {}", path.display()))
}
