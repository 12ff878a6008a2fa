//! Settings of a sandbox's gateway and guest, from its specification.

use std::net::IpAddr;

use blockbox_net::{Addresses, Config, Nameserver, ResolverData};
use blockbox_store::spec::Network;
use blockbox_vmm::guest::{self, Boot, Host, Sysctl};

/// The guest's name for the host.
const HOST_NAME: &str = "host.blockbox.internal";

/// Returns the resolver of a sandbox on a host with this resolver.
pub(super) fn resolver(network: &Network, mut host: ResolverData) -> ResolverData {
    if !network.dns.is_empty() {
        host.nameservers = network.dns.iter().copied().map(Nameserver::new).collect();
    }
    if !network.dns_search.is_empty() {
        host.search.clone_from(&network.dns_search);
    }
    host
}

/// Returns the addresses on the sandbox's link.
pub(super) fn addresses(network: &Network) -> Addresses {
    let mut addresses = Addresses::default();
    addresses.guest_mac = network.mac_address.unwrap_or(addresses.guest_mac);
    addresses
}

/// Returns the gateway's configuration.
pub(super) fn config(network: &Network, resolver: ResolverData, host: Vec<IpAddr>) -> Config {
    Config::new()
        .addresses(addresses(network))
        .mode(network.mode)
        .allow(network.allow.iter().cloned())
        .deny(network.deny.iter().cloned())
        .host_ports(network.host_ports.iter().copied())
        .publish(network.publish.iter().cloned())
        .extra_hosts(network.hosts.iter().cloned())
        .resolver(resolver)
        .host_addresses(host)
}

/// Adds the network to the guest's boot message. `search` is `None` for a guest without a network.
pub(crate) fn describe(network: &Network, search: Option<Vec<String>>, boot: &mut Boot) {
    boot.hosts.extend(network.hosts.iter().map(|entry| Host {
        address: entry.address,
        name: entry.name.clone(),
    }));
    let Some(search) = search else { return };
    let own = addresses(network);
    // Not the IPv6 address too, as in the gateway's answers.
    boot.hosts.push(Host {
        address: own.host_v4.into(),
        name: HOST_NAME.to_owned(),
    });
    // Published ports can also reach servers on the guest's 127.0.0.1. Only the gateway is on the
    // link.
    boot.sysctls.push(Sysctl {
        name: "net.ipv4.conf.eth0.route_localnet".to_owned(),
        value: "1".to_owned(),
    });
    let address = |ip: IpAddr, prefix: u8| guest::Address {
        ip,
        prefix: prefix.into(),
    };
    let mut described = guest::Network::default();
    described.addresses = vec![
        address(own.guest_v4.into(), own.prefix_v4),
        address(own.guest_v6.into(), own.prefix_v6),
    ];
    described.gateways = vec![own.gateway_v4.into(), own.gateway_v6.into()];
    described.nameservers = vec![own.gateway_v4.into()];
    described.search = search;
    boot.network = Some(described);
}

#[cfg(test)]
mod tests {
    use super::*;
    use blockbox_net::HostEntry;

    #[test]
    fn name_servers_of_the_sandbox_replace_the_hosts() {
        let mut host = ResolverData::default();
        host.nameservers = vec![Nameserver::new(([192, 0, 2, 53], 53).into())];
        host.search = vec!["corp.example".to_owned()];
        assert_eq!(resolver(&Network::default(), host.clone()), host);
        let own = Network::default()
            .dns([([192, 0, 2, 1], 5353).into()])
            .dns_search(["lab.example".to_owned()]);
        let resolver = resolver(&own, host);
        assert_eq!(resolver.nameservers[0].address.port(), 5353);
        assert_eq!(resolver.nameservers.len(), 1);
        assert_eq!(resolver.search, ["lab.example"]);
    }

    #[test]
    fn a_sandbox_without_a_recorded_mac_address_keeps_the_common_one() {
        let mut network: Network = serde_json::from_str("{}").unwrap();
        assert_eq!(addresses(&network), Addresses::default());
        let own = blockbox_net::MacAddress::local([1, 2, 3, 4, 5]);
        network.mac_address = Some(own);
        assert_eq!(addresses(&network).guest_mac, own);
    }

    #[test]
    fn a_guest_without_a_network_still_has_its_extra_hosts() {
        let network = Network::none().hosts([HostEntry::new("db", [192, 0, 2, 9].into())]);
        let mut boot = Boot::new("box");
        describe(&network, None, &mut boot);
        assert_eq!(boot.network, None);
        assert_eq!(boot.hosts.len(), 1);
        assert!(boot.sysctls.is_empty());
        describe(&network, Some(Vec::new()), &mut boot);
        assert!(boot.network.is_some());
        let own: Vec<_> = boot
            .hosts
            .iter()
            .filter(|host| host.name == HOST_NAME)
            .map(|host| host.address)
            .collect();
        assert_eq!(own, [IpAddr::V4(Addresses::default().host_v4)]);
    }
}
