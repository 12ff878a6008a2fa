//! The configuration of a gateway: addresses, policy, ports, the host's resolver, limits.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use blockbox_protocol::network::{HostEntry, MacAddress, Mode, Publish, Rule};
use serde::{Deserialize, Serialize};

/// The addresses on the link between the gateway and its guest.
///
/// The defaults are constants of blockbox: 10.187.1.0/24 and fd62:6c6f:636b:6278::/64 ("blockbx" in
/// ASCII). Each sandbox has a separate link, so every guest may have the same addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Addresses {
    /// The guest's IPv4 address.
    pub guest_v4: Ipv4Addr,
    /// The gateway's IPv4 address: the guest's default route and its name server.
    pub gateway_v4: Ipv4Addr,
    /// The IPv4 address of `host.blockbox.internal`.
    pub host_v4: Ipv4Addr,
    /// The length of the link's IPv4 prefix, in bits.
    pub prefix_v4: u8,
    /// The guest's IPv6 address.
    pub guest_v6: Ipv6Addr,
    /// The gateway's IPv6 address.
    pub gateway_v6: Ipv6Addr,
    /// The IPv6 address that leads to the host's loopback, as `host_v4` does. The name has only
    /// the IPv4 address: most servers listen there.
    pub host_v6: Ipv6Addr,
    /// The length of the link's IPv6 prefix, in bits.
    pub prefix_v6: u8,
    /// The guest's Ethernet address.
    pub guest_mac: MacAddress,
    /// The gateway's Ethernet address.
    pub gateway_mac: MacAddress,
}

impl Default for Addresses {
    fn default() -> Self {
        let v6 = |last| Ipv6Addr::new(0xfd62, 0x6c6f, 0x636b, 0x6278, 0, 0, 0, last);
        Self {
            guest_v4: Ipv4Addr::new(10, 187, 1, 2),
            gateway_v4: Ipv4Addr::new(10, 187, 1, 1),
            host_v4: Ipv4Addr::new(10, 187, 1, 254),
            prefix_v4: 24,
            guest_v6: v6(2),
            gateway_v6: v6(1),
            host_v6: v6(0xfe),
            prefix_v6: 64,
            // Locally administered.
            guest_mac: MacAddress([0x02, 0x62, 0x6c, 0x6b, 0x00, 0x02]),
            gateway_mac: MacAddress([0x02, 0x62, 0x6c, 0x6b, 0x00, 0x01]),
        }
    }
}

impl Addresses {
    /// Checks that the addresses are valid on a link. Returns the one that is not.
    pub(crate) fn check(&self) -> Result<(), String> {
        let v4 = [self.guest_v4, self.gateway_v4, self.host_v4];
        let v6 = [self.guest_v6, self.gateway_v6, self.host_v6];
        let mac = [self.guest_mac, self.gateway_mac];
        let bad_v4 = v4.iter().find(|address| {
            address.is_multicast() || address.is_broadcast() || address.octets()[0] == 0
        });
        let bad_v6 = v6
            .iter()
            .find(|address| address.is_multicast() || address.is_unspecified());
        let bad_mac = mac.iter().find(|address| address.is_group());
        let bad = bad_v4
            .map(Ipv4Addr::to_string)
            .or(bad_v6.map(Ipv6Addr::to_string))
            .or(bad_mac.map(MacAddress::to_string))
            .or((self.prefix_v4 > 32).then(|| format!("/{}", self.prefix_v4)))
            .or((self.prefix_v6 > 128).then(|| format!("/{}", self.prefix_v6)));
        bad.map_or(Ok(()), Err)
    }

    /// Returns whether the address is the guest's own.
    pub(crate) fn is_guest(&self, address: IpAddr) -> bool {
        address == IpAddr::V4(self.guest_v4) || address == IpAddr::V6(self.guest_v6)
    }

    /// Returns whether the address is the gateway's own.
    pub(crate) fn is_gateway(&self, address: IpAddr) -> bool {
        address == IpAddr::V4(self.gateway_v4)
            || address == IpAddr::V6(self.gateway_v6)
            || address == IpAddr::V6(self.gateway_link_local())
    }

    /// Returns whether the address stands for the host's loopback.
    pub(crate) fn is_host(&self, address: IpAddr) -> bool {
        address == IpAddr::V4(self.host_v4) || address == IpAddr::V6(self.host_v6)
    }

    /// Returns the gateway's link-local IPv6 address.
    pub(crate) fn gateway_link_local(&self) -> Ipv6Addr {
        Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1)
    }

    /// Returns whether the address is on the link. The guest sees no other host with such an
    /// address.
    pub(crate) fn on_link(&self, address: IpAddr) -> bool {
        let network: [(IpAddr, u8); 2] = [
            (self.gateway_v4.into(), self.prefix_v4),
            (self.gateway_v6.into(), self.prefix_v6),
        ];
        network.iter().any(|(own, prefix)| match (own, address) {
            (IpAddr::V4(own), IpAddr::V4(address)) => {
                let mask = u32::MAX
                    .checked_shl(32u32.saturating_sub((*prefix).into()))
                    .unwrap_or(0);
                (own.to_bits() ^ address.to_bits()) & mask == 0
            }
            (IpAddr::V6(own), IpAddr::V6(address)) => {
                let mask = u128::MAX
                    .checked_shl(128u32.saturating_sub((*prefix).into()))
                    .unwrap_or(0);
                (own.to_bits() ^ address.to_bits()) & mask == 0
            }
            _ => false,
        })
    }
}

/// A name server of the host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Nameserver {
    /// Its address and port.
    pub address: SocketAddr,
    /// The domains that it is used for (lower case, without a final dot). Empty: all names without
    /// another server.
    #[serde(default)]
    pub domains: Vec<String>,
}

impl Nameserver {
    /// Returns a name server for all names.
    pub fn new(address: SocketAddr) -> Self {
        Self {
            address,
            domains: Vec::new(),
        }
    }

    /// Restricts the server to names in these domains.
    pub fn domains(mut self, domains: impl IntoIterator<Item = String>) -> Self {
        self.domains = domains.into_iter().collect();
        self
    }
}

/// How the host resolves names, which the gateway's resolver uses.
///
/// The gateway opens no files. [`crate::host_resolver`] reads this from the host's.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct ResolverData {
    /// The name servers, in the order in which they are used.
    pub nameservers: Vec<Nameserver>,
    /// The host's search list, for the guest's resolv.conf; the gateway itself does not use it.
    pub search: Vec<String>,
    /// The names in the host's `/etc/hosts`.
    pub hosts: Vec<HostEntry>,
}

/// Limits for one guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Limits {
    /// The most TCP connections at once, in both directions together.
    pub tcp_flows: usize,
    /// The most UDP exchanges at once; a new one replaces the longest idle one.
    pub udp_flows: usize,
    /// The most bytes of all TCP buffers together.
    pub buffer_bytes: usize,
    /// After how many seconds an unanswered outgoing connection is reported as unreachable.
    pub connect_seconds: u64,
    /// After how many seconds without data a TCP connection is dropped.
    pub idle_seconds: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            tcp_flows: 1024,
            udp_flows: 512,
            buffer_bytes: 64 << 20,
            connect_seconds: 60,
            // RFC 5382 asks for at least two hours and four minutes.
            idle_seconds: 2 * 3600 + 240,
        }
    }
}

/// Longer times mean "never".
const YEAR: u64 = 365 * 24 * 3600;

impl Limits {
    pub(crate) fn connect(&self) -> Duration {
        Duration::from_secs(self.connect_seconds.min(YEAR))
    }

    pub(crate) fn idle(&self) -> Duration {
        Duration::from_secs(self.idle_seconds.min(YEAR))
    }
}

/// The configuration of a gateway.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Config {
    pub(crate) addresses: Addresses,
    pub(crate) mode: Mode,
    pub(crate) allow: Vec<Rule>,
    pub(crate) deny: Vec<Rule>,
    pub(crate) host_addresses: Vec<IpAddr>,
    pub(crate) host_ports: Vec<u16>,
    pub(crate) publish: Vec<Publish>,
    pub(crate) extra_hosts: Vec<HostEntry>,
    pub(crate) resolver: ResolverData,
    pub(crate) limits: Limits,
}

impl Config {
    /// Returns the default: the internet, no published port, no name server.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the addresses on the link.
    pub fn addresses(mut self, addresses: Addresses) -> Self {
        self.addresses = addresses;
        self
    }

    /// Sets what the guest can reach if no rule matches.
    pub fn mode(mut self, mode: Mode) -> Self {
        self.mode = mode;
        self
    }

    /// Adds rules for what the guest can reach in any mode.
    pub fn allow(mut self, rules: impl IntoIterator<Item = Rule>) -> Self {
        self.allow.extend(rules);
        self
    }

    /// Adds rules for what the guest cannot reach, whatever the mode and the allow list.
    pub fn deny(mut self, rules: impl IntoIterator<Item = Rule>) -> Self {
        self.deny.extend(rules);
        self
    }

    /// Adds addresses of the host itself, which [`Mode::Public`] does not allow.
    pub fn host_addresses(mut self, addresses: impl IntoIterator<Item = IpAddr>) -> Self {
        self.host_addresses.extend(addresses);
        self
    }

    /// Opens ports of the host's loopback at `host.blockbox.internal`, for TCP and UDP.
    pub fn host_ports(mut self, ports: impl IntoIterator<Item = u16>) -> Self {
        self.host_ports.extend(ports);
        self
    }

    /// Publishes ports of the guest.
    pub fn publish(mut self, ports: impl IntoIterator<Item = Publish>) -> Self {
        self.publish.extend(ports);
        self
    }

    /// Adds names that override all other sources.
    pub fn extra_hosts(mut self, entries: impl IntoIterator<Item = HostEntry>) -> Self {
        self.extra_hosts.extend(entries);
        self
    }

    /// Sets how the host resolves names.
    pub fn resolver(mut self, resolver: ResolverData) -> Self {
        self.resolver = resolver;
        self
    }

    /// Sets the limits for the guest.
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_invalid_for_a_link_are_reported() {
        assert_eq!(Addresses::default().check(), Ok(()));
        for (text, bad) in [
            ("{\"guest_v4\": \"224.0.0.1\"}", "224.0.0.1"),
            ("{\"gateway_v4\": \"0.0.0.0\"}", "0.0.0.0"),
            ("{\"host_v6\": \"ff02::1\"}", "ff02::1"),
            (
                "{\"guest_mac\": \"01:00:5e:00:00:01\"}",
                "01:00:5e:00:00:01",
            ),
            ("{\"prefix_v4\": 33}", "/33"),
            ("{\"prefix_v6\": 129}", "/129"),
        ] {
            let addresses: Addresses = serde_json::from_str(text).unwrap();
            assert_eq!(addresses.check(), Err(bad.to_owned()));
        }
    }

    #[test]
    fn endless_timeouts_do_not_overflow() {
        let limits: Limits =
            serde_json::from_str("{\"idle_seconds\": 18446744073709551615}").unwrap();
        assert!(
            std::time::Instant::now()
                .checked_add(limits.idle())
                .is_some()
        );
    }

    #[test]
    fn local_addresses_are_of_one_station_that_is_not_the_gateway() {
        let gateway = Addresses::default().gateway_mac;
        let [_, bytes @ ..] = gateway.0;
        for address in [MacAddress::local(bytes), MacAddress::local([0xff; 5])] {
            assert!(!address.is_group() && address.0[0] & 2 != 0, "{address}");
            assert_ne!(address, gateway);
        }
    }
}
