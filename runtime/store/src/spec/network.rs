//! What a sandbox can reach, and what can reach it.

use std::net::SocketAddr;

use blockbox_protocol::network::{HostEntry, MacAddress, Mode, Publish, Rule};
use serde::{Deserialize, Serialize};

/// The network of a sandbox. The default reaches the internet and publishes no port.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Network {
    /// What the guest can reach if no rule matches.
    pub mode: Mode,
    /// What the guest can reach in any mode.
    pub allow: Vec<Rule>,
    /// What the guest cannot reach, whatever the mode and the other rules.
    pub deny: Vec<Rule>,
    /// Name servers to use instead of the host's.
    pub dns: Vec<SocketAddr>,
    /// Search domains to use instead of the host's.
    pub dns_search: Vec<String>,
    /// Names with fixed addresses.
    pub hosts: Vec<HostEntry>,
    /// Ports of the host's loopback that the guest reaches at `host.blockbox.internal`.
    pub host_ports: Vec<u16>,
    /// Ports of the guest that are published on the host.
    pub publish: Vec<Publish>,
    /// The Ethernet address of the guest's card, unique to the sandbox. `None` is the common
    /// address, which all sandboxes had before this field was added.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mac_address: Option<MacAddress>,
}

impl Network {
    /// Returns no network: only a loopback interface.
    pub fn none() -> Self {
        Self {
            mode: Mode::None,
            ..Self::default()
        }
    }

    /// Returns whether the guest has an interface besides the loopback.
    pub fn is_connected(&self) -> bool {
        self.mode != Mode::None
            || !(self.allow.is_empty() && self.host_ports.is_empty() && self.publish.is_empty())
    }

    /// Sets what the guest can reach if no rule matches.
    #[must_use]
    pub fn mode(mut self, mode: Mode) -> Self {
        self.mode = mode;
        self
    }

    /// Adds rules for what the guest can reach in any mode.
    #[must_use]
    pub fn allow(mut self, rules: impl IntoIterator<Item = Rule>) -> Self {
        self.allow.extend(rules);
        self
    }

    /// Adds rules for what the guest cannot reach.
    #[must_use]
    pub fn deny(mut self, rules: impl IntoIterator<Item = Rule>) -> Self {
        self.deny.extend(rules);
        self
    }

    /// Adds name servers.
    #[must_use]
    pub fn dns(mut self, servers: impl IntoIterator<Item = SocketAddr>) -> Self {
        self.dns.extend(servers);
        self
    }

    /// Adds search domains.
    #[must_use]
    pub fn dns_search(mut self, domains: impl IntoIterator<Item = String>) -> Self {
        self.dns_search.extend(domains);
        self
    }

    /// Adds names with fixed addresses.
    #[must_use]
    pub fn hosts(mut self, entries: impl IntoIterator<Item = HostEntry>) -> Self {
        self.hosts.extend(entries);
        self
    }

    /// Opens ports of the host's loopback.
    #[must_use]
    pub fn host_ports(mut self, ports: impl IntoIterator<Item = u16>) -> Self {
        self.host_ports.extend(ports);
        self
    }

    /// Publishes ports of the guest.
    #[must_use]
    pub fn publish(mut self, ports: impl IntoIterator<Item = Publish>) -> Self {
        self.publish.extend(ports);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_that_nothing_can_pass_has_no_interface() {
        assert!(Network::default().is_connected());
        assert!(!Network::none().is_connected());
        // Denials and host names allow nothing.
        let entry = HostEntry::new("db", [192, 0, 2, 1].into());
        let closed = Network::none().hosts([entry]);
        let closed = closed.deny(["192.0.2.1".parse().unwrap()]);
        assert!(!closed.is_connected());
        for open in [
            Network::none().allow(["example.org:443".parse().unwrap()]),
            Network::none().host_ports([5432]),
            Network::none().publish(["8080:80".parse().unwrap()]),
        ] {
            assert!(open.is_connected(), "{open:?}");
        }
    }
}
