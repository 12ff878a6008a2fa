//! `/etc/hostname`, `/etc/hosts`, `/etc/resolv.conf` and `/etc/machine-id`.
//!
//! As with docker they are mounted over the image's files, so that they are right for this sandbox
//! and its disk never holds their contents; an empty file as the mount point is created if it is
//! missing.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use blockbox_protocol::{Boot, Host, Identity, Network};
use rustix::mount::OpenTreeFlags;

use super::boot::make_dir;
use super::failure::{Failure, Step, Warnings};
use super::memory;

/// The most symbolic links that are followed, as in the kernel (`MAXSYMLINKS`).
const MOST_LINKS: usize = 40;

/// The contents of the files.
#[derive(Debug, Clone)]
pub(crate) struct Names {
    hostname: String,
    hosts: Vec<Host>,
    network: Option<Network>,
    machine_id: Vec<u8>,
}

impl Names {
    pub(crate) fn of(boot: &Boot) -> Self {
        Names {
            hostname: boot.hostname.clone(),
            hosts: boot.hosts.clone(),
            network: boot.network.clone(),
            machine_id: boot.machine_id.clone(),
        }
    }

    /// Applies the identity of a copied guest.
    pub(crate) fn change(&mut self, identity: &Identity) {
        if !identity.hostname.is_empty() {
            self.hostname.clone_from(&identity.hostname);
        }
        if !identity.machine_id.is_empty() {
            self.machine_id.clone_from(&identity.machine_id);
        }
        if identity.network.is_some() {
            self.network.clone_from(&identity.network);
        }
        self.hosts.clone_from(&identity.hosts);
    }

    /// Returns the files' names and contents.
    fn files(&self) -> Vec<(&'static str, String)> {
        let mut files = vec![
            ("hostname", format!("{}\n", self.hostname)),
            ("hosts", self.hosts_file()),
            ("resolv.conf", self.resolv_conf()),
        ];
        if !self.machine_id.is_empty() {
            let hex: String = self.machine_id.iter().map(|b| format!("{b:02x}")).collect();
            files.push(("machine-id", format!("{hex}\n")));
        }
        files
    }

    fn hosts_file(&self) -> String {
        let mut text = String::from(
            "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::\tip6-localnet\n\
             ff00::\tip6-mcastprefix\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n",
        );
        for Host { address, name } in &self.hosts {
            let _ = writeln!(text, "{address}\t{name}");
        }
        let addresses = self.network.iter().flat_map(|network| &network.addresses);
        let mut own: Vec<IpAddr> = addresses.map(|address| address.ip).collect();
        if own.is_empty() {
            own.push([127, 0, 1, 1].into());
        }
        // Includes the first label, because it is looked up as well.
        let (name, label) = (&self.hostname, self.hostname.split('.').next());
        let names = match label.filter(|label| !label.is_empty() && label != name) {
            Some(label) => format!("{name} {label}"),
            None => name.clone(),
        };
        for address in own {
            let _ = writeln!(text, "{address}\t{names}");
        }
        text
    }

    fn resolv_conf(&self) -> String {
        let Some(network) = &self.network else {
            return "# This sandbox has no network, and so no name server.\n".to_owned();
        };
        let mut text = String::new();
        for server in &network.nameservers {
            let _ = writeln!(text, "nameserver {server}");
        }
        for (key, values) in [
            ("search", &network.search),
            ("options", &network.resolver_options),
        ] {
            if !values.is_empty() {
                let _ = writeln!(text, "{key} {}", values.join(" "));
            }
        }
        text
    }
}

/// Writes the files into `folder` and mounts them below this process's root. A file that cannot be
/// mounted is only a warning.
pub(crate) fn provide(
    names: &Names,
    folder: &OwnedFd,
    warnings: &mut Warnings,
) -> Result<(), Failure> {
    for (name, contents) in names.files() {
        write(folder, name, &contents)?;
        warnings.tolerate(mount(folder, name));
    }
    Ok(())
}

/// Writes the files again. A file that was not needed before is mounted now.
pub(crate) fn change(names: &Names, folder: &OwnedFd) -> Result<(), Failure> {
    for (name, contents) in names.files() {
        let mounted = memory::path_of(folder).join(name).exists();
        write(folder, name, &contents)?;
        if !mounted {
            mount(folder, name)?;
        }
    }
    Ok(())
}

fn write(folder: &OwnedFd, name: &str, contents: &str) -> Result<(), Failure> {
    // In place, because this file is mounted.
    fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o644)
        .open(memory::path_of(folder).join(name))
        .and_then(|mut file| io::Write::write_all(&mut file, contents.as_bytes()))
        .step(format!("writing /etc/{name}"))
}

fn mount(folder: &OwnedFd, name: &str) -> Result<(), Failure> {
    let named = Path::new("/etc").join(name);
    let step = || format!("providing {}", named.display());
    let target = follow(&named).step(step())?;
    match fs::symlink_metadata(&target) {
        Ok(metadata) if metadata.is_file() => {}
        Ok(_) => return Err(Failure::new(step(), "the image's is not a regular file")),
        Err(_) => {
            make_dir(target.parent().unwrap_or(Path::new("/")), 0o755)?;
            fs::OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o644)
                .open(&target)
                .step(step())?;
        }
    }
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let tree = rustix::mount::open_tree(folder.as_fd(), name, flags).step(step())?;
    memory::attach(&tree, &target).step(step())
}

/// Resolves `path` through symbolic links, even if the target does not exist.
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

    use blockbox_protocol::Address;

    use super::*;

    #[test]
    fn links_to_missing_files_are_followed_and_loops_end() {
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

    #[test]
    fn the_hostname_resolves_to_the_guests_addresses() {
        let mut boot = Boot::new("web.example.org");
        boot.hosts = vec![Host {
            address: [192, 0, 2, 9].into(),
            name: "db".to_owned(),
        }];
        let text = Names::of(&boot).hosts_file();
        assert!(
            text.ends_with("192.0.2.9\tdb\n127.0.1.1\tweb.example.org web\n"),
            "{text}"
        );

        let mut network = Network::default();
        network.addresses = vec![Address {
            ip: [192, 0, 2, 2].into(),
            prefix: 24,
        }];
        network.nameservers = vec![[192, 0, 2, 1].into()];
        network.search = vec!["a".to_owned(), "b".to_owned()];
        boot.network = Some(network);
        let names = Names::of(&boot);
        assert!(
            names
                .hosts_file()
                .ends_with("\n192.0.2.2\tweb.example.org web\n")
        );
        assert_eq!(names.resolv_conf(), "nameserver 192.0.2.1\nsearch a b\n");
    }
}
