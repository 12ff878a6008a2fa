//! From the kernel's root, the writable disk, to the container's.

use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use blockbox_protocol::{
    HOSTNAME_PARAMETER, ON_DISK_PARAMETER, PRIVATE_DIR, TMPFS_DIRS, UPPER_DIR, WORK_DIR,
};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::mount::{MountFlags, UnmountFlags};
use rustix::process::{Resource, Rlimit};

use super::failure::{Failure, Step, tolerate};
use super::{devices, etc, memory, readahead, sys, sysctl};

/// Open files a command may have, soft and hard: the kernel's most (`fs.nr_open`), as docker gives containers.
const OPEN_FILES: u64 = 1_048_576;

/// What outlives the change of root.
#[derive(Debug)]
pub(crate) struct Roots {
    /// The writable disk's root directory, hidden below the container's.
    pub(crate) upper: OwnedFd,
    /// The container's root directory.
    pub(crate) merged: OwnedFd,
    /// A procfs that the container cannot unmount.
    pub(crate) proc: OwnedFd,
}

/// Mount points that exist only until the change of root.
#[derive(Debug)]
pub(crate) struct Early {
    private: PathBuf,
}

impl Early {
    /// Mounts what is needed to find devices.
    pub(crate) fn mount() -> Result<Self, Failure> {
        rustix::process::umask(Mode::empty());
        let early = Early {
            private: PathBuf::from(PRIVATE_DIR),
        };
        for (name, kind) in [("dev", "devtmpfs"), ("sys", "sysfs"), ("proc", "proc")] {
            let target = early.directory(name)?;
            rustix::mount::mount(kind, &target, kind, MountFlags::empty(), None)
                .step(format!("mounting {kind}"))?;
        }
        Ok(early)
    }

    /// The device node of the control port.
    pub(crate) fn control_port(&self) -> Result<PathBuf, Failure> {
        devices::control_port(&self.private.join("sys"), &self.private.join("dev"))
    }

    /// Builds the container's root and makes it this process's.
    pub(crate) fn enter_container(self) -> Result<Roots, Failure> {
        let cmdline = self.private.join("proc/cmdline");
        let on_disk = parameter(&cmdline, ON_DISK_PARAMETER).unwrap_or_default();
        let hostname = parameter(&cmdline, HOSTNAME_PARAMETER);
        let hostname = hostname.unwrap_or_else(|| "blockbox".to_owned());
        tolerate(rustix::system::sethostname(hostname.as_bytes()).step("setting the hostname"));

        let upper = open_dir(Path::new("/"))?;
        let proc = open_dir(&self.private.join("proc"))?;
        self.overlay()?;
        for name in ["sys", "dev", "lower"] {
            let early = self.private.join(name);
            rustix::mount::unmount(&early, UnmountFlags::DETACH)
                .step(format!("unmounting {}", early.display()))?;
        }
        let merged = switch_root(&self.private.join("root"))?;
        kernel_filesystems()?;
        sysctl::set_defaults();
        scratch_folders(&on_disk);
        tolerate(etc::provide(&hostname));
        tolerate(sys::loopback_up().step("bringing the loopback interface up"));
        let limit = Rlimit {
            current: Some(OPEN_FILES),
            maximum: Some(OPEN_FILES),
        };
        tolerate(
            rustix::process::setrlimit(Resource::Nofile, limit)
                .step("setting the limit of open files"),
        );
        Ok(Roots {
            upper,
            merged,
            proc,
        })
    }

    fn overlay(&self) -> Result<(), Failure> {
        let lower = self.directory("lower")?;
        let root = self.directory("root")?;
        let image = devices::image_disk(&self.private.join("sys"), &self.private.join("dev"));
        rustix::mount::mount(&image, &lower, "erofs", MountFlags::RDONLY, None)
            .step(format!("mounting {} as EROFS", image.display()))?;
        // After the mount, which sets the size of the disk's buffers and drops what it finds there.
        tolerate(readahead::metadata(&image));
        for dir in [UPPER_DIR, WORK_DIR] {
            make_dir(Path::new(dir), 0o755)?;
        }
        // As docker mounts overlays: without features whose traces in the upperdir another kernel may not follow.
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

/// Moves the mount at `root` on top of everything, as `switch_root(8)` does: unlike after `pivot_root`, the writable disk
/// stays mounted below, where it can be remounted read-only in the end.
fn switch_root(root: &Path) -> Result<OwnedFd, Failure> {
    let step = "changing to the container's root";
    rustix::process::chdir(root).step(step)?;
    rustix::mount::mount_move(".", "/").step(step)?;
    rustix::process::chroot(".").step(step)?;
    rustix::process::chdir("/").step(step)?;
    open_dir(Path::new("/"))
}

/// What the kernel provides: processes, devices, memory.
fn kernel_filesystems() -> Result<(), Failure> {
    let none = MountFlags::empty();
    let plain = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;

    mount_at("/proc", "proc", plain, "")?;
    mount_at("/sys", "sysfs", plain, "")?;
    mount_at("/dev", "devtmpfs", MountFlags::NOSUID, "mode=0755")?;
    mount_at(
        "/dev/pts",
        "devpts",
        MountFlags::NOSUID | MountFlags::NOEXEC,
        "gid=5,mode=0620,ptmxmode=0666",
    )?;
    mount_at("/dev/shm", "tmpfs", plain, "mode=1777")?;
    for (link, target) in [
        ("/dev/fd", "/proc/self/fd"),
        ("/dev/stdin", "/proc/self/fd/0"),
        ("/dev/stdout", "/proc/self/fd/1"),
        ("/dev/stderr", "/proc/self/fd/2"),
    ] {
        match rustix::fs::symlink(target, link) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            Err(errno) => tolerate(Err(errno).step(format!("making {link}"))),
        }
    }
    // What a kernel may do without.
    if Path::new("/sys/fs/cgroup").is_dir() {
        tolerate(mount_at("/sys/fs/cgroup", "cgroup2", plain | none, ""));
    }
    if Path::new("/proc/sys/fs/mqueue").is_dir() {
        tolerate(mount_at("/dev/mqueue", "mqueue", plain, ""));
    }
    Ok(())
}

/// The folders for what need not last: in memory, but for those that `on_disk` lists.
fn scratch_folders(on_disk: &str) {
    for dir in TMPFS_DIRS {
        let mode = if dir == "/tmp" { 0o1777 } else { 0o755 };
        // An image may do without either.
        tolerate(if on_disk.split(',').any(|listed| listed == dir) {
            make_dir(Path::new(dir), mode)
        } else {
            memory::mount(dir, mode)
        });
    }
}

fn mount_at(target: &str, kind: &str, flags: MountFlags, options: &str) -> Result<(), Failure> {
    make_dir(Path::new(target), 0o755)?;
    let options = std::ffi::CString::new(options)
        .map_err(|error| Failure::new(format!("mounting {target}"), error.to_string()))?;
    rustix::mount::mount(kind, target, kind, flags, options.as_c_str())
        .step(format!("mounting {target}"))
}

/// Makes a directory (and its parents) unless there is one, possibly behind a symlink.
pub(crate) fn make_dir(path: &Path, mode: u32) -> Result<(), Failure> {
    use std::os::unix::fs::DirBuilderExt;

    if path.is_dir() {
        return Ok(());
    }
    fs::DirBuilder::new()
        .recursive(true)
        .mode(mode)
        .create(path)
        .step(format!("making the directory {}", path.display()))
}

fn open_dir(path: &Path) -> Result<OwnedFd, Failure> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat(CWD, path, flags, Mode::empty()).step(format!("opening {}", path.display()))
}

/// The value of a kernel parameter.
fn parameter(cmdline: &Path, name: &str) -> Option<String> {
    let cmdline = fs::read_to_string(cmdline).ok()?;
    cmdline
        .split_ascii_whitespace()
        .filter_map(|word| word.split_once('='))
        .find(|(key, value)| *key == name && !value.is_empty())
        .map(|(_, value)| value.to_owned())
}
