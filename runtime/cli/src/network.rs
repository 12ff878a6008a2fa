//! Network options of a new sandbox: what it can reach, and what can reach it.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use blockbox::image::Image;
use blockbox::net::{Addresses, BoundPort, HostEntry, Mode, Publish, PublishError, Rule};
use blockbox::spec::{Network, Spec};
use clap::{Args, ValueEnum};

/// What a sandbox can reach, and what can reach it.
#[derive(Debug, Args)]
pub(super) struct NetworkOptions {
    /// What the sandbox can reach
    #[arg(long, visible_alias = "net", value_enum, default_value_t)]
    network: Reach,
    /// Allow a host, an address or a network, whatever `--network` says: `example.org:443`,
    /// `*.example.org`, `10.0.0.0/8`
    #[arg(long, value_name = "HOST[:PORT]|CIDR[:PORT]")]
    allow: Vec<Rule>,
    /// Deny a host, an address or a network
    #[arg(long, value_name = "HOST[:PORT]|CIDR[:PORT]")]
    deny: Vec<Rule>,
    /// Allow a port of this host's loopback, at host.blockbox.internal
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    host_port: Vec<u16>,
    /// Publish a port of the sandbox on this host; it binds 127.0.0.1 unless an address is named,
    /// and 0 is a free port
    #[arg(short, long, value_name = "[IP:]HOST:GUEST[/udp]")]
    publish: Vec<Publish>,
    /// Publish each port that the image exposes on a free port of this host
    #[arg(short = 'P', long)]
    publish_all: bool,
    /// Use this name server instead of the host's
    #[arg(long, value_parser = name_server, value_name = "IP[:PORT]")]
    dns: Vec<SocketAddr>,
    /// Search names in this domain instead of the host's search list
    #[arg(long, value_parser = domain, value_name = "DOMAIN")]
    dns_search: Vec<String>,
    /// Give a name an address; `host-gateway` is the address of host.blockbox.internal
    #[arg(long, value_parser = host_entry, value_name = "NAME:IP")]
    add_host: Vec<HostEntry>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Reach {
    /// Only what `--allow` and `--host-port` allow
    None,
    /// The internet, without addresses of this host, its networks or its cloud
    #[default]
    Public,
    /// Everything that this host reaches, except its loopback
    All,
}

impl NetworkOptions {
    /// Returns whether any port is to be published.
    pub(super) fn publishes(&self) -> bool {
        self.publish_all || !self.publish.is_empty()
    }

    /// Returns the network that the command line describes, for a sandbox over `image`.
    pub(super) fn network(&self, image: Option<&Image>) -> anyhow::Result<Network> {
        let mode = match self.network {
            Reach::None => Mode::None,
            Reach::Public => Mode::Public,
            Reach::All => Mode::All,
        };
        let network = Network::default()
            .mode(mode)
            .allow(self.allow.iter().cloned())
            .deny(self.deny.iter().cloned())
            .host_ports(self.host_port.iter().copied())
            .publish(self.publish.iter().cloned())
            .dns(self.dns.iter().copied())
            .dns_search(self.dns_search.iter().cloned())
            .hosts(self.add_host.iter().cloned());
        let config = image.and_then(|image| image.config().config());
        let config = config.filter(|_| self.publish_all);
        let exposed = config.map_or(&[][..], |config| config.exposed_ports());
        Ok(network.publish(at_free_ports(exposed, &self.publish)?))
    }
}

/// Publishes the ports that an image exposes on free ports, except those already published.
fn at_free_ports(exposed: &[String], published: &[Publish]) -> Result<Vec<Publish>, PublishError> {
    let guests = |publish: &Publish| {
        let protocol = publish.protocol();
        publish
            .pairs()
            .map(move |(_, guest)| format!("{guest}/{protocol}"))
    };
    let mut known: BTreeSet<String> = published.iter().flat_map(guests).collect();
    let mut ports = Vec::new();
    for port in exposed {
        let publish: Publish = port.parse()?;
        for port in guests(&publish) {
            if known.insert(port.clone()) {
                ports.push(port.parse()?);
            }
        }
    }
    Ok(ports)
}

/// Parses an address with an optional port, by default that of name servers.
fn name_server(text: &str) -> Result<SocketAddr, String> {
    let plain = text
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .unwrap_or(text);
    text.parse()
        .or_else(|_| plain.parse().map(|ip: IpAddr| SocketAddr::new(ip, 53)))
        .ok()
        .filter(|server: &SocketAddr| server.port() != 0)
        .ok_or_else(|| format!("{text:?} is not an IP address"))
}

/// Checks a domain to search, which becomes a word of a line in the guest. `.` searches none, as
/// docker has it.
fn domain(text: &str) -> Result<String, String> {
    match text == "." || Rule::name(text, None).is_some() {
        true => Ok(text.to_owned()),
        false => Err(format!("{text:?} is not the name of a domain")),
    }
}

/// Parses `NAME:IP` or `NAME=IP`, as docker does.
fn host_entry(text: &str) -> Result<HostEntry, String> {
    let (name, address) = text
        .split_once(['=', ':'])
        .filter(|(name, _)| Rule::name(name, None).is_some())
        .ok_or_else(|| format!("{text:?} is not a name and an address: use NAME:IP"))?;
    let plain = address
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .unwrap_or(address);
    let address = match plain {
        "host-gateway" => Addresses::default().host_v4.into(),
        plain => plain
            .parse()
            .map_err(|_| format!("{address:?} is not an IP address"))?,
    };
    Ok(HostEntry::new(name.to_ascii_lowercase(), address))
}

/// Formats a published port as docker does.
pub(super) fn published(port: &BoundPort) -> String {
    format!("{}->{}/{}", port.host, port.guest, port.protocol)
}

/// Prints the ports that the system chose.
pub(super) fn announce(spec: &Spec, ports: &[BoundPort]) {
    let asked = spec.network.publish.iter().flat_map(Publish::pairs);
    for (port, _) in ports.iter().zip(asked).filter(|(_, (host, _))| *host == 0) {
        eprintln!("blockbox: published {}", published(port));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_that_an_image_exposes_is_published_once_whatever_the_command_line_says() {
        let exposed = ["80", "81/tcp", "53/udp", "8000-8002", "80/tcp"].map(str::to_owned);
        let published: [Publish; 2] =
            ["8081:81", "9001:8001"].map(|text| text.parse().expect("valid"));
        let ports = at_free_ports(&exposed, &published).expect("valid");
        let expected: [Publish; 4] =
            ["80", "53/udp", "8000", "8002"].map(|text| text.parse().expect("valid"));
        assert_eq!(ports, expected);
        assert!(at_free_ports(&["x".to_owned()], &[]).is_err());
    }

    #[test]
    fn extra_hosts_are_names_with_addresses_of_either_family() {
        for (text, name, address) in [
            ("db:192.0.2.1", "db", "192.0.2.1"),
            ("DB.example=192.0.2.1", "db.example", "192.0.2.1"),
            ("six:2001:db8::1", "six", "2001:db8::1"),
            ("six:[2001:db8::1]", "six", "2001:db8::1"),
            (
                "host.docker.internal:host-gateway",
                "host.docker.internal",
                "10.187.1.254",
            ),
        ] {
            let expected = HostEntry::new(name, address.parse().expect("valid"));
            assert_eq!(host_entry(text), Ok(expected));
        }
        for wrong in ["db", "db:", ":192.0.2.1", "a b:192.0.2.1", "db:nowhere", ""] {
            assert!(host_entry(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_name_server_has_port_53_unless_another_is_named() {
        for (text, address) in [
            ("192.0.2.1", "192.0.2.1:53"),
            ("192.0.2.1:5353", "192.0.2.1:5353"),
            ("2001:db8::1", "[2001:db8::1]:53"),
            ("[2001:db8::1]:5353", "[2001:db8::1]:5353"),
            ("[2001:db8::1]", "[2001:db8::1]:53"),
        ] {
            assert_eq!(
                name_server(text),
                Ok(address.parse().expect("valid")),
                "{text}"
            );
        }
        for wrong in ["dns.example", "192.0.2.1:0", "fe80::1%eth0"] {
            assert!(name_server(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_domain_to_search_is_one_word() {
        for right in ["corp.example", "lab", "."] {
            assert_eq!(domain(right).as_deref(), Ok(right));
        }
        for wrong in [
            "",
            "a b",
            "a\nnameserver 192.0.2.1",
            "*.a",
            &"a".repeat(300),
        ] {
            assert!(domain(wrong).is_err(), "{wrong}");
        }
    }
}
