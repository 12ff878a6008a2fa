//! ARP and neighbour discovery for the gateway on the link.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use smoltcp::wire::{ArpOperation, ArpPacket, ArpRepr, EthernetAddress};

use crate::config::Addresses;
use crate::frame::{ETHERTYPE_ARP, Output};
use crate::packet::{self, ICMPV6, IPV6_HEADER, Packet};

const NEIGHBOUR_SOLICITATION: u8 = 135;
const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// Returns whether the gateway answers for the address. It never answers for the guest's own, so
/// that duplicate address detection does not find one.
fn is_ours(addresses: &Addresses, address: IpAddr) -> bool {
    addresses.is_gateway(address) || addresses.is_host(address)
}

/// Answers an ARP request for the gateway's addresses.
pub(crate) fn arp(addresses: &Addresses, bytes: &[u8], out: &mut Output) {
    let Ok(packet) = ArpPacket::new_checked(bytes) else {
        return;
    };
    let Ok(ArpRepr::EthernetIpv4 {
        operation: ArpOperation::Request,
        source_hardware_addr,
        source_protocol_addr,
        target_protocol_addr,
        ..
    }) = ArpRepr::parse(&packet)
    else {
        return;
    };
    if !is_ours(addresses, target_protocol_addr.into()) {
        return;
    }
    let reply = ArpRepr::EthernetIpv4 {
        operation: ArpOperation::Reply,
        source_hardware_addr: EthernetAddress(addresses.gateway_mac.0),
        source_protocol_addr: target_protocol_addr,
        target_hardware_addr: source_hardware_addr,
        target_protocol_addr: source_protocol_addr,
    };
    out.frame(ETHERTYPE_ARP, reply.buffer_len(), |bytes| {
        reply.emit(&mut ArpPacket::new_unchecked(bytes));
    });
}

/// Answers a neighbour solicitation for the gateway's addresses. Returns whether the packet was
/// one.
pub(crate) fn neighbour(addresses: &Addresses, packet: &Packet<'_>, out: &mut Output) -> bool {
    if packet.protocol != ICMPV6 || packet.payload.first() != Some(&NEIGHBOUR_SOLICITATION) {
        return false;
    }
    let target = packet
        .payload
        .get(8..24)
        .and_then(|bytes| bytes.first_chunk::<16>())
        .map(|bytes| Ipv6Addr::from(*bytes));
    let (Some(target), IpAddr::V6(asker)) = (target, packet.source) else {
        return true;
    };
    // RFC 4861, 7.1.1: a hop limit of 255 shows that no router forwarded the packet.
    let from_the_link = packet.whole.get(7) == Some(&255);
    if !from_the_link || !is_ours(addresses, target.into()) {
        return true;
    }
    let (destination, solicited) = if asker.is_unspecified() {
        (ALL_NODES, 0)
    } else {
        (asker, 0x40)
    };
    let mut body = vec![
        NEIGHBOUR_ADVERTISEMENT,
        0,
        0,
        0,
        0x80 | 0x20 | solicited,
        0,
        0,
        0,
    ];
    body.extend_from_slice(&target.octets());
    // Target link-layer address, in units of eight bytes.
    body.extend_from_slice(&[2, 1]);
    body.extend_from_slice(&addresses.gateway_mac.0);
    packet::icmpv6_checksum(&mut body, target, destination);
    if let Some(mut bytes) = packet::ip(target.into(), destination.into(), ICMPV6, &body) {
        if let Some(hop_limit) = bytes
            .get_mut(..IPV6_HEADER)
            .and_then(|header| header.get_mut(7))
        {
            *hop_limit = 255;
        }
        out.ip(&bytes);
    }
    true
}

/// Returns the address from which the gateway reports errors about packets to `destination`.
pub(crate) fn reporter(addresses: &Addresses, destination: IpAddr) -> IpAddr {
    match destination {
        IpAddr::V4(_) => addresses.gateway_v4.into(),
        IpAddr::V6(_) => addresses.gateway_v6.into(),
    }
}

/// Returns whether the guest may send from the address. From its loopback it only sends replies on
/// connections that the gateway opened.
pub(crate) fn is_guests(addresses: &Addresses, source: IpAddr) -> bool {
    addresses.is_guest(source) || source == IpAddr::V4(Ipv4Addr::LOCALHOST)
}
