//! `/etc/hostname`, `/etc/hosts` and `/etc/resolv.conf`.
//!
//! As with docker they are mounts over what the image has, so that they are right for this sandbox and its disk never holds
//! their contents; what a mount needs to lie on, an empty file, is made where it is missing.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::mount::{MountAttrFlags, OpenTreeFlags};

use super::boot::make_dir;
use super::failure::{Failure, Step, tolerate};
use super::memory;

const HOSTNAME: &str = "hostname";
const HOSTS: &str = "hosts";
const RESOLV_CONF: &str = "resolv.conf";

/// As many links as the kernel follows (`MAXSYMLINKS`).
const MOST_LINKS: usize = 40;

/// Mounts the three files below this process's root. A guest can do without one that cannot be mounted; the console tells.
pub(crate) fn provide(hostname: &str) -> Result<(), Failure> {
    let step = "making files for /etc";
    let memory = memory::tmpfs(&[("mode", "0755")], MountAttrFlags::empty()).step(step)?;
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
        create(&memory::path_of(&memory).join(name))
            .and_then(|mut file| io::Write::write_all(&mut file, contents.as_bytes()))
            .step(step)?;
        tolerate(mount(&memory, name));
    }
    Ok(())
}

fn mount(memory: &OwnedFd, name: &str) -> Result<(), Failure> {
    let named = Path::new("/etc").join(name);
    let step = || format!("providing {}", named.display());
    let target = follow(&named).step(step())?;
    match fs::symlink_metadata(&target) {
        Ok(metadata) if metadata.is_file() => {}
        Ok(_) => return Err(Failure::new(step(), "the image's is not a regular file")),
        Err(_) => {
            make_dir(target.parent().unwrap_or(Path::new("/")), 0o755)?;
            create(&target).step(step())?;
        }
    }
    let tree = rustix::mount::open_tree(
        memory.as_fd(),
        name,
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC,
    )
    .step(step())?;
    memory::attach(&tree, &target).step(step())
}

fn create(path: &Path) -> io::Result<fs::File> {
    fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o644)
        .open(path)
}

/// Where the symbolic link `path`, if it is one, leads in the end, also where nothing is there.
fn follow(path: &Path) -> io::Result<PathBuf> {
    let mut path = path.to_owned();
    for _ in 0..MOST_LINKS {
        match fs::read_link(&path) {
            Ok(link) => path = path.parent().unwrap_or(Path::new("/")).join(link),
            Err(_) => return Ok(path),
        }
    }
    Err(rustix::io::Errno::LOOP.into())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn links_are_followed_to_what_is_not_there_and_loops_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        symlink("../run/resolve/stub", path("relative")).unwrap();
        symlink("relative", path("twice")).unwrap();
        symlink("b", path("a")).unwrap();
        symlink("a", path("b")).unwrap();
        assert_eq!(follow(&path("twice")).unwrap(), path("../run/resolve/stub"));
        assert_eq!(follow(&path("none")).unwrap(), path("none"));
        assert!(follow(&path("a")).is_err());
    }
}
