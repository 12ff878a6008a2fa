//! `/etc/hostname`, `/etc/hosts` and `/etc/resolv.conf`, where the image has none of its own.
//!
//! As with docker they are mounts, so that the sandbox's disk never holds their contents; what a mount needs to lie on, an
//! empty file, is made where it is missing.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags};
use rustix::mount::{MountFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags};

use super::boot::make_dir;
use super::failure::{Failure, Step, tolerate};

const HOSTNAME: &str = "hostname";
const HOSTS: &str = "hosts";
const RESOLV_CONF: &str = "resolv.conf";

/// The three files, in a tmpfs.
pub(crate) struct Files {
    memory: OwnedFd,
}

impl Files {
    /// Writes the files into a tmpfs at `folder`, out of the container's sight.
    pub(crate) fn write(folder: &Path, hostname: &str) -> Result<Self, Failure> {
        let step = "making a tmpfs for files in /etc";
        rustix::mount::mount("tmpfs", folder, "tmpfs", MountFlags::empty(), c"mode=0755")
            .step(step)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let memory = rustix::fs::openat(CWD, folder, flags, Mode::empty()).step(step)?;
        let hosts = format!(
            "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::\tip6-localnet\n\
             ff00::\tip6-mcastprefix\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n127.0.1.1\t{hostname}\n"
        );
        for (name, contents) in [
            (HOSTNAME, format!("{hostname}\n")),
            (HOSTS, hosts),
            (
                RESOLV_CONF,
                "# This sandbox has no network, and so no name server.\n".to_owned(),
            ),
        ] {
            let file = folder.join(name);
            fs::OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o644)
                .open(&file)
                .and_then(|mut file| std::io::Write::write_all(&mut file, contents.as_bytes()))
                .step(step)?;
        }
        Ok(Files { memory })
    }

    /// Mounts those that the image lacks, or has empty, below this process's root. A guest can do without one that
    /// cannot be mounted; the console tells.
    pub(crate) fn provide(self) -> Result<(), Failure> {
        for name in [HOSTNAME, HOSTS, RESOLV_CONF] {
            let target = Path::new("/etc").join(name);
            if is_empty(&target) {
                tolerate(self.mount(name, &target));
            }
        }
        // The mounted files keep the tmpfs itself alive.
        let step = "unmounting the tmpfs for files in /etc";
        rustix::process::fchdir(&self.memory).step(step)?;
        rustix::mount::unmount(".", UnmountFlags::DETACH).step(step)?;
        rustix::process::chdir("/").step(step)
    }

    fn mount(&self, name: &str, target: &Path) -> Result<(), Failure> {
        let step = || format!("providing {}", target.display());
        make_dir(Path::new("/etc"), 0o755)?;
        fs::OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o644)
            .open(target)
            .step(step())?;
        let tree = rustix::mount::open_tree(
            &self.memory,
            name,
            OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC,
        )
        .step(step())?;
        rustix::mount::move_mount(
            tree.as_fd(),
            "",
            CWD,
            target,
            MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_SYMLINKS,
        )
        .step(step())
    }
}

fn is_empty(path: &Path) -> bool {
    match fs::metadata(path) {
        Ok(metadata) => metadata.is_file() && metadata.len() == 0,
        Err(_) => true,
    }
}
