//! Reads how this host resolves names, and its addresses, for the process that starts a gateway.
//!
//! The gateway itself opens no files. Its parent reads the host's configuration here, passes it to
//! the gateway in [`crate::Config`], and sends it again ([`crate::Request::Resolver`]) when
//! [`HostResolver::changed`] reports a change, for example after connecting to a VPN.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use blockbox_protocol::network::{HostEntry, host_name};

use crate::config::{Nameserver, ResolverData};
use crate::scope::Scope;

/// The most names of a hosts file that are used: the file may be a list of a million blocked names.
const ENTRIES: usize = 100_000;
/// The most bytes of those names, so that they fit into a request.
const NAMES: usize = 4 << 20;

/// The files that configure name resolution on this host.
#[derive(Debug)]
pub struct HostResolver {
    /// `/`, except in tests.
    root: PathBuf,
    seen: BTreeMap<PathBuf, Option<Stamp>>,
}

impl Default for HostResolver {
    fn default() -> Self {
        Self::new()
    }
}

impl HostResolver {
    /// Returns the resolver of this host.
    pub fn new() -> Self {
        Self::below("/")
    }

    /// Returns the resolver of another root folder.
    pub fn below(root: impl Into<PathBuf>) -> Self {
        Self {
            root: root.into(),
            seen: BTreeMap::new(),
        }
    }

    /// Reads the host's resolver: `/etc/resolv.conf` or, if it names no server, systemd-resolved's
    /// list of the network's servers; `/etc/hosts`; and `/etc/resolver/DOMAIN`, which macOS uses
    /// for domains with their own servers.
    ///
    /// Files that are missing or cannot be read are skipped. systemd-resolved's own server
    /// (127.0.0.53) can be used: the gateway's queries come from the host, and the server knows
    /// which domains belong to which network.
    pub fn read(&mut self) -> ResolverData {
        self.seen.clear();
        let mut data = ResolverData::default();
        for file in ["etc/resolv.conf", "run/systemd/resolve/resolv.conf"] {
            let conf = ResolvConf::parse(&self.file(file));
            data.nameservers
                .extend(conf.nameservers.into_iter().map(Nameserver::new));
            if data.search.is_empty() {
                data.search = conf.search;
            }
            if !data.nameservers.is_empty() {
                break;
            }
        }
        let mut domains: Vec<PathBuf> = self.folder("etc/resolver");
        domains.sort();
        for path in domains {
            let name = path.file_name().map(|name| name.to_string_lossy());
            let Some(domain) = name.as_deref().and_then(host_name) else {
                continue;
            };
            let conf =
                ResolvConf::parse(&self.file(path.strip_prefix(&self.root).unwrap_or(&path)));
            let own = conf.nameservers.into_iter();
            data.nameservers
                .extend(own.map(|server| Nameserver::new(server).domains([domain.clone()])));
        }
        data.hosts = hosts(&self.file("etc/hosts"));
        data
    }

    /// Reads the host's resolver again if a file has changed since the last call.
    pub fn changed(&mut self) -> Option<ResolverData> {
        let same = !self.seen.is_empty() && self.seen.iter().all(|(path, old)| stamp(path) == *old);
        (!same).then(|| self.read())
    }

    /// Returns a file's text; empty if there is no file.
    fn file(&mut self, path: impl AsRef<Path>) -> String {
        let path = self.root.join(path);
        self.seen.insert(path.clone(), stamp(&path));
        let bytes = fs::read(&path).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    fn folder(&mut self, path: &str) -> Vec<PathBuf> {
        let path = self.root.join(path);
        self.seen.insert(path.clone(), stamp(&path));
        let Ok(entries) = fs::read_dir(&path) else {
            return Vec::new();
        };
        entries.flatten().map(|entry| entry.path()).collect()
    }
}

/// Detects that a file has changed: its time, length and inode. A link may lead to another file
/// with the same time and length.
type Stamp = (SystemTime, u64, u64);

fn stamp(path: &Path) -> Option<Stamp> {
    let metadata = fs::metadata(path).ok()?;
    Some((metadata.modified().ok()?, metadata.len(), metadata.ino()))
}

/// The contents of a file in the format of resolv.conf(5).
#[derive(Debug, Default, PartialEq, Eq)]
struct ResolvConf {
    nameservers: Vec<SocketAddr>,
    search: Vec<String>,
}

impl ResolvConf {
    fn parse(text: &str) -> Self {
        let mut conf = Self::default();
        let mut port = 53;
        let mut servers = Vec::new();
        for line in text.lines() {
            let line = line.split(['#', ';']).next().unwrap_or("");
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") => servers.extend(words.next().and_then(server)),
                // The last line is used.
                Some("search" | "domain") => conf.search = words.filter_map(host_name).collect(),
                // Only on macOS.
                Some("port") => {
                    port = words
                        .next()
                        .and_then(|word| word.parse().ok())
                        .unwrap_or(port);
                }
                _ => {}
            }
        }
        for mut server in servers {
            server.set_port(port);
            conf.nameservers.push(server);
        }
        conf
    }
}

/// Parses an address, with an interface if it is link-local.
fn server(word: &str) -> Option<SocketAddr> {
    let (address, scope) = match word.split_once('%') {
        Some((address, scope)) => (address, Some(scope)),
        None => (word, None),
    };
    Some(match (address.parse().ok()?, scope) {
        (IpAddr::V6(address), Some(scope)) => {
            SocketAddrV6::new(address, 53, 0, interface(scope)?).into()
        }
        (address, _) => SocketAddr::new(address, 53),
    })
}

/// Returns the index of an interface, given by name or number.
fn interface(name: &str) -> Option<u32> {
    if let Ok(number) = name.parse() {
        return Some(number);
    }
    // Linux shows the index in this file; on other systems a name cannot be used.
    let name = host_name(name)?;
    fs::read_to_string(format!("/sys/class/net/{name}/ifindex"))
        .ok()?
        .trim()
        .parse()
        .ok()
}

/// Parses the names of a hosts(5) file. Addresses of the loopback are left out, because they mean
/// the host, and not the guest.
fn hosts(text: &str) -> Vec<HostEntry> {
    let mut entries = Vec::new();
    let mut bytes = 0;
    for line in text.lines() {
        let mut words = line.split('#').next().unwrap_or("").split_whitespace();
        let Some(Ok(address)) = words.next().map(str::parse::<IpAddr>) else {
            continue;
        };
        if matches!(Scope::of(address), Scope::Loopback | Scope::Multicast) {
            continue;
        }
        // 0.0.0.0 blocks a name: the guest gets the same address.
        for name in words.filter_map(host_name) {
            bytes += name.len();
            if entries.len() >= ENTRIES || bytes > NAMES {
                return entries;
            }
            entries.push(HostEntry::new(name, address));
        }
    }
    entries
}

/// Returns this host's own addresses, including the loopback's, for
/// [`crate::Config::host_addresses`].
///
/// # Errors
///
/// If the system cannot list its interfaces.
pub fn host_addresses() -> io::Result<Vec<IpAddr>> {
    let mut addresses: Vec<IpAddr> = nix::ifaddrs::getifaddrs()?
        .filter_map(|interface| {
            let address = interface.address?;
            if let Some(v4) = address.as_sockaddr_in() {
                return Some(v4.ip().into());
            }
            address.as_sockaddr_in6().map(|v6| v6.ip().into())
        })
        .collect();
    addresses.sort_unstable();
    addresses.dedup();
    Ok(addresses)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(files: &[(&str, &str)]) -> (tempfile::TempDir, HostResolver) {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let resolver = HostResolver::below(root.path());
        (root, resolver)
    }

    fn servers(data: &ResolverData) -> Vec<String> {
        data.nameservers
            .iter()
            .map(|server| format!("{} {}", server.address, server.domains.join(",")))
            .collect()
    }

    #[test]
    fn the_hosts_files_are_read_as_its_own_resolver_reads_them() {
        let (_root, mut resolver) = host(&[
            (
                "etc/resolv.conf",
                "# comment\nnameserver 10.0.0.1\nnameserver 2606:4700::1 ; other\nnameserver nonsense\n\
                 domain old.example\nsearch corp.example Example.ORG.\noptions edns0\n",
            ),
            (
                "etc/hosts",
                "127.0.0.1 localhost\n127.0.1.1 me\n::1 ip6-localhost\n10.1.1.1 printer Printer.corp.example # old\n\
                 0.0.0.0 ads.example\nff02::1 ip6-allnodes\nnonsense x\n",
            ),
            (
                "etc/resolver/vpn.example",
                "nameserver 10.9.9.9\nport 5353\n",
            ),
            ("run/systemd/resolve/resolv.conf", "nameserver 9.9.9.9\n"),
        ]);
        let data = resolver.read();
        assert_eq!(
            servers(&data),
            [
                "10.0.0.1:53 ",
                "[2606:4700::1]:53 ",
                "10.9.9.9:5353 vpn.example"
            ]
        );
        assert_eq!(data.search, ["corp.example", "example.org"]);
        let names: Vec<_> = data.hosts.iter().map(|entry| entry.name.as_str()).collect();
        assert_eq!(names, ["printer", "printer.corp.example", "ads.example"]);
    }

    #[test]
    fn systemd_resolveds_servers_count_where_resolv_conf_has_none() {
        let (_root, mut resolver) = host(&[
            ("etc/resolv.conf", "search a.example\n"),
            (
                "run/systemd/resolve/resolv.conf",
                "nameserver 9.9.9.9\nsearch b.example\n",
            ),
        ]);
        let data = resolver.read();
        assert_eq!(servers(&data), ["9.9.9.9:53 "]);
        assert_eq!(data.search, ["a.example"]);
    }

    #[test]
    fn a_change_of_any_file_is_seen_once() {
        let (root, mut resolver) = host(&[("etc/resolv.conf", "nameserver 10.0.0.1\n")]);
        assert!(resolver.changed().is_some());
        assert!(resolver.changed().is_none());
        fs::write(root.path().join("etc/hosts"), "10.1.1.1 printer\n").unwrap();
        assert_eq!(resolver.changed().unwrap().hosts.len(), 1);
        assert!(resolver.changed().is_none());
        fs::write(
            root.path().join("etc/resolv.conf"),
            "nameserver 10.0.0.1\nnameserver 10.0.0.2\n",
        )
        .unwrap();
        assert_eq!(resolver.changed().unwrap().nameservers.len(), 2);
        fs::remove_file(root.path().join("etc/hosts")).unwrap();
        assert!(resolver.changed().unwrap().hosts.is_empty());
        // A link to a file of another network, with the same time and length.
        let (conf, other) = (root.path().join("etc/resolv.conf"), root.path().join("vpn"));
        fs::write(&other, "nameserver 10.9.9.1\nnameserver 10.9.9.2\n").unwrap();
        let time = fs::metadata(&conf).unwrap().modified().unwrap();
        let file = fs::File::options().write(true).open(&other).unwrap();
        file.set_modified(time).unwrap();
        fs::remove_file(&conf).unwrap();
        std::os::unix::fs::symlink(&other, &conf).unwrap();
        let data = resolver.changed().unwrap();
        assert_eq!(servers(&data), ["10.9.9.1:53 ", "10.9.9.2:53 "]);
    }

    #[test]
    fn a_table_of_hosts_of_any_size_fits_into_a_request() {
        for name in ["ads", &["long-label-of-a-name"; 11].join(".")] {
            let lines = (0..200_000).map(|n| format!("0.0.0.0 {name}.n{n}\n"));
            let hosts = hosts(&lines.collect::<String>());
            let data = ResolverData {
                hosts,
                ..ResolverData::default()
            };
            assert!(data.hosts.len() > 10_000);
            let request = serde_json::to_vec(&crate::Request::Resolver { data }).unwrap();
            assert!(request.len() < crate::control::LONGEST, "{}", request.len());
        }
    }

    #[test]
    fn link_local_servers_keep_their_interface() {
        assert_eq!(server("fe80::1%7"), Some("[fe80::1%7]:53".parse().unwrap()));
        assert_eq!(server("fe80::1%no/such"), None);
    }

    #[test]
    fn the_hosts_addresses_have_its_loopback() {
        let addresses = host_addresses().unwrap();
        assert!(
            addresses.contains(&IpAddr::from([127, 0, 0, 1])),
            "{addresses:?}"
        );
    }
}
