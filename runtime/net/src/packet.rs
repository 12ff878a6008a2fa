//! Parses IP packets, which may be any bytes, and writes the few kinds of packets that the gateway
//! sends.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    Icmpv4Packet, Icmpv6Packet, IpAddress, Ipv4Packet, Ipv6Packet, TcpControl, TcpPacket, TcpRepr,
    TcpSeqNumber, UdpPacket,
};

use crate::frame::MTU;

pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;
pub(crate) const ICMPV4: u8 = 1;
pub(crate) const ICMPV6: u8 = 58;

/// The length of a header without options, in bytes.
pub(crate) const IPV4_HEADER: usize = 20;
pub(crate) const IPV6_HEADER: usize = 40;
const UDP_HEADER: usize = 8;
const HOP_LIMIT: u8 = 64;

/// The position of a fragment in its packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fragment {
    pub(crate) id: u32,
    /// The offset of this fragment in bytes.
    pub(crate) offset: usize,
    pub(crate) more: bool,
}

/// An IP packet's addresses and payload.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Packet<'a> {
    pub(crate) source: IpAddr,
    pub(crate) destination: IpAddr,
    /// The protocol after all extension headers.
    pub(crate) protocol: u8,
    pub(crate) payload: &'a [u8],
    pub(crate) fragment: Option<Fragment>,
    /// The packet without its frame's padding.
    pub(crate) whole: &'a [u8],
    /// Whether there is nothing but IPv4 options between the IP header and the payload.
    pub(crate) plain: bool,
}

impl<'a> Packet<'a> {
    /// Parses a packet; `None` if it is invalid.
    pub(crate) fn parse(bytes: &'a [u8]) -> Option<Self> {
        match bytes.first()? >> 4 {
            4 => Self::parse_v4(bytes),
            6 => Self::parse_v6(bytes),
            _ => None,
        }
    }

    fn parse_v4(bytes: &'a [u8]) -> Option<Self> {
        let packet = Ipv4Packet::new_checked(bytes).ok()?;
        let whole = bytes.get(..packet.total_len().into())?;
        let payload = whole.get(packet.header_len().into()..)?;
        let (offset, more) = (usize::from(packet.frag_offset()), packet.more_frags());
        Some(Self {
            source: packet.src_addr().into(),
            destination: packet.dst_addr().into(),
            protocol: packet.next_header().into(),
            payload,
            fragment: (offset != 0 || more).then(|| Fragment {
                id: packet.ident().into(),
                offset,
                more,
            }),
            whole,
            plain: true,
        })
    }

    fn parse_v6(bytes: &'a [u8]) -> Option<Self> {
        let packet = Ipv6Packet::new_checked(bytes).ok()?;
        let whole = bytes.get(..IPV6_HEADER + usize::from(packet.payload_len()))?;
        let mut protocol: u8 = packet.next_header().into();
        let mut payload = whole.get(IPV6_HEADER..)?;
        let mut fragment = None;
        let mut plain = true;
        // Each header takes at least eight bytes, so this loop ends.
        loop {
            let length = match protocol {
                // Hop-by-hop options, routing, destination options.
                0 | 43 | 60 => 8 + 8 * usize::from(*payload.get(1)?),
                44 => 8,
                _ => break,
            };
            let header = payload.get(..length)?;
            if protocol == 44 {
                let [_, _, high, low, id @ ..] = *header.first_chunk::<8>()?;
                let field = u16::from_be_bytes([high, low]);
                let piece = Fragment {
                    id: u32::from_be_bytes(id),
                    offset: usize::from(field & !7),
                    more: field & 1 != 0,
                };
                // A fragment that is the whole packet (RFC 6946) is handled as a normal packet.
                fragment = (piece.offset != 0 || piece.more).then_some(piece);
            }
            protocol = *header.first()?;
            payload = &payload[length..];
            plain = false;
            if fragment.is_some() {
                break;
            }
        }
        Some(Self {
            source: packet.src_addr().into(),
            destination: packet.dst_addr().into(),
            protocol,
            payload,
            fragment,
            whole,
            plain,
        })
    }

    /// Returns the ports of TCP or UDP.
    pub(crate) fn ports(&self) -> Option<(u16, u16)> {
        let [a, b, c, d] = *self.payload.first_chunk::<4>()?;
        Some((u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])))
    }
}

/// Returns one packet without fragments or extension headers.
pub(crate) fn ip(
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    payload: &[u8],
) -> Option<Vec<u8>> {
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let mut bytes = vec![0; IPV4_HEADER + payload.len()];
            let total = u16::try_from(bytes.len()).ok()?;
            let mut packet = Ipv4Packet::new_unchecked(&mut bytes);
            write_v4(&mut packet, source, destination, protocol, total);
            packet.fill_checksum();
            bytes[IPV4_HEADER..].copy_from_slice(payload);
            Some(bytes)
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let mut bytes = vec![0; IPV6_HEADER + payload.len()];
            let mut packet = Ipv6Packet::new_unchecked(&mut bytes);
            packet.set_version(6);
            packet.set_payload_len(u16::try_from(payload.len()).ok()?);
            packet.set_next_header(protocol.into());
            packet.set_hop_limit(HOP_LIMIT);
            packet.set_src_addr(source);
            packet.set_dst_addr(destination);
            bytes[IPV6_HEADER..].copy_from_slice(payload);
            Some(bytes)
        }
        _ => None,
    }
}

fn write_v4(
    packet: &mut Ipv4Packet<&mut Vec<u8>>,
    source: Ipv4Addr,
    destination: Ipv4Addr,
    protocol: u8,
    total: u16,
) {
    packet.set_version(4);
    packet.set_header_len(20);
    packet.set_total_len(total);
    packet.set_hop_limit(HOP_LIMIT);
    packet.set_next_header(protocol.into());
    packet.set_src_addr(source);
    packet.set_dst_addr(destination);
}

/// Returns the packets that carry a datagram: several if it exceeds the link's MTU.
pub(crate) fn datagram(
    source: SocketAddr,
    destination: SocketAddr,
    data: &[u8],
    id: u32,
) -> Vec<Vec<u8>> {
    let length = UDP_HEADER + data.len();
    let Ok(field) = u16::try_from(length) else {
        return Vec::new();
    };
    let mut payload = vec![0; length];
    payload[UDP_HEADER..].copy_from_slice(data);
    let mut packet = UdpPacket::new_unchecked(&mut payload);
    packet.set_src_port(source.port());
    packet.set_dst_port(destination.port());
    packet.set_len(field);
    packet.fill_checksum(&address(source.ip()), &address(destination.ip()));
    fragments(source.ip(), destination.ip(), UDP, &payload, id)
}

/// Returns a payload as one packet, or as fragments that fit the link's MTU.
pub(crate) fn fragments(
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    payload: &[u8],
    id: u32,
) -> Vec<Vec<u8>> {
    let header = if source.is_ipv4() {
        IPV4_HEADER
    } else {
        IPV6_HEADER
    };
    if header + payload.len() <= MTU {
        return ip(source, destination, protocol, payload)
            .into_iter()
            .collect();
    }
    let extension = if source.is_ipv4() { 0 } else { 8 };
    let piece = (MTU - header - extension) & !7;
    let mut packets = Vec::new();
    for (n, chunk) in payload.chunks(piece).enumerate() {
        let offset = n * piece;
        let more = offset + chunk.len() < payload.len();
        let Ok(field) = u16::try_from(offset) else {
            return Vec::new();
        };
        let packet = if source.is_ipv4() {
            ip(source, destination, protocol, chunk).map(|mut bytes| {
                let mut packet = Ipv4Packet::new_unchecked(&mut bytes);
                packet.set_ident(u16::try_from(id & 0xffff).unwrap_or(0));
                packet.set_more_frags(more);
                packet.set_frag_offset(field);
                packet.fill_checksum();
                bytes
            })
        } else {
            let mut body = vec![protocol, 0];
            body.extend_from_slice(&(field | u16::from(more)).to_be_bytes());
            body.extend_from_slice(&id.to_be_bytes());
            body.extend_from_slice(chunk);
            ip(source, destination, 44, &body)
        };
        packets.extend(packet);
    }
    packets
}

/// Why a packet cannot be delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unreachable {
    /// There is no route, or the host does not answer.
    Host,
    /// No program listens on the port.
    Port,
    /// The policy forbids it.
    Prohibited,
}

/// Returns the ICMP message about a packet that cannot be delivered. `None` if RFC 1122 or RFC 4443
/// forbid one.
pub(crate) fn unreachable(packet: &Packet<'_>, from: IpAddr, why: Unreachable) -> Option<Vec<u8>> {
    let later_fragment = packet.fragment.is_some_and(|piece| piece.offset != 0);
    if later_fragment || packet.source.is_unspecified() || packet.source.is_multicast() {
        return None;
    }
    match (packet.source, packet.destination) {
        (IpAddr::V4(_), IpAddr::V4(destination)) => {
            if destination.is_multicast() || destination.is_broadcast() {
                return None;
            }
            let code = match why {
                Unreachable::Host => 1,
                Unreachable::Port => 3,
                Unreachable::Prohibited => 13,
            };
            // As RFC 1812 requires: as much as fits in 576 bytes.
            let quoted = &packet.whole[..packet.whole.len().min(576 - IPV4_HEADER - 8)];
            let mut body = vec![3, code, 0, 0, 0, 0, 0, 0];
            body.extend_from_slice(quoted);
            Icmpv4Packet::new_unchecked(&mut body).fill_checksum();
            ip(from, packet.source, ICMPV4, &body)
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            if destination.is_multicast() {
                return None;
            }
            let code = match why {
                Unreachable::Host => 3,
                Unreachable::Port => 4,
                Unreachable::Prohibited => 1,
            };
            let IpAddr::V6(from) = from else { return None };
            let quoted = &packet.whole[..packet.whole.len().min(1280 - IPV6_HEADER - 8)];
            let mut body = vec![1, code, 0, 0, 0, 0, 0, 0];
            body.extend_from_slice(quoted);
            icmpv6_checksum(&mut body, from, source);
            ip(from.into(), source.into(), ICMPV6, &body)
        }
        _ => None,
    }
}

/// Sets the checksum of an ICMPv6 message.
pub(crate) fn icmpv6_checksum(body: &mut [u8], source: Ipv6Addr, destination: Ipv6Addr) {
    Icmpv6Packet::new_unchecked(body).fill_checksum(&source, &destination);
}

/// Returns the answer to an echo request: the same bytes with the reply's type.
pub(crate) fn echo_reply(source: IpAddr, destination: IpAddr, request: &[u8]) -> Vec<Vec<u8>> {
    let mut body = request.to_vec();
    if body.len() < 8 {
        return Vec::new();
    }
    let id = u32::from_be_bytes([body[4], body[5], body[6], body[7]]);
    match (source, destination) {
        (IpAddr::V4(_), IpAddr::V4(_)) => {
            body[0] = 0;
            Icmpv4Packet::new_unchecked(&mut body).fill_checksum();
            fragments(source, destination, ICMPV4, &body, id)
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            body[0] = 129;
            icmpv6_checksum(&mut body, from, to);
            fragments(source, destination, ICMPV6, &body, id)
        }
        _ => Vec::new(),
    }
}

/// Returns the reset that answers a segment without a connection. `None` for a reset, or for
/// anything but a segment.
pub(crate) fn reset(packet: &Packet<'_>) -> Option<Vec<u8>> {
    let (source, destination) = (address(packet.source), address(packet.destination));
    let checks = ChecksumCapabilities::ignored();
    let segment = TcpPacket::new_checked(packet.payload).ok()?;
    let segment = TcpRepr::parse(&segment, &source, &destination, &checks).ok()?;
    if segment.control == TcpControl::Rst {
        return None;
    }
    let reply = TcpRepr {
        src_port: segment.dst_port,
        dst_port: segment.src_port,
        control: TcpControl::Rst,
        seq_number: segment.ack_number.unwrap_or(TcpSeqNumber(0)),
        // RFC 9293, 3.10.7.1: a segment is only acknowledged if it acknowledges nothing.
        ack_number: match segment.ack_number {
            Some(_) => None,
            None => Some(segment.seq_number + segment.segment_len()),
        },
        window_len: 0,
        window_scale: None,
        max_seg_size: None,
        sack_permitted: false,
        sack_ranges: [None, None, None],
        timestamp: None,
        payload: &[],
    };
    let mut body = vec![0; reply.buffer_len()];
    reply.emit(
        &mut TcpPacket::new_unchecked(&mut body),
        &destination,
        &source,
        &ChecksumCapabilities::default(),
    );
    ip(packet.destination, packet.source, TCP, &body)
}

/// Returns whether the payload is a SYN that opens a connection.
pub(crate) fn is_opening(segment: &[u8]) -> bool {
    // FIN 1, SYN 2, RST 4, ACK 16.
    segment.get(13).is_some_and(|flags| flags & 0x17 == 2)
}

/// Returns the payload of a UDP packet.
pub(crate) fn udp_data<'a>(packet: &Packet<'a>) -> Option<&'a [u8]> {
    let length: usize = UdpPacket::new_checked(packet.payload).ok()?.len().into();
    packet.payload.get(UDP_HEADER..length)
}

pub(crate) fn address(address: IpAddr) -> IpAddress {
    address.into()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn guest(v6: bool) -> SocketAddr {
        if v6 { "[fd00::2]:7" } else { "10.0.0.2:7" }
            .parse()
            .unwrap()
    }

    fn far(v6: bool) -> SocketAddr {
        if v6 { "[2606::1]:53" } else { "1.1.1.1:53" }
            .parse()
            .unwrap()
    }

    #[test]
    fn a_small_datagram_is_one_packet() {
        for v6 in [false, true] {
            let packets = datagram(far(v6), guest(v6), b"hello", 1);
            assert_eq!(packets.len(), 1);
            let packet = Packet::parse(&packets[0]).unwrap();
            assert_eq!(udp_data(&packet), Some(&b"hello"[..]));
            assert_eq!(packet.ports(), Some((53, 7)));
            assert!(
                UdpPacket::new_checked(packet.payload)
                    .unwrap()
                    .verify_checksum(&address(packet.source), &address(packet.destination))
            );
        }
    }

    #[test]
    fn no_error_answers_a_later_fragment_or_an_unspecified_sender() {
        let packets = datagram(guest(false), far(false), &[0; 4000], 1);
        let gateway = "10.0.0.1".parse().unwrap();
        assert!(
            unreachable(
                &Packet::parse(&packets[0]).unwrap(),
                gateway,
                Unreachable::Port
            )
            .is_some()
        );
        assert!(
            unreachable(
                &Packet::parse(&packets[1]).unwrap(),
                gateway,
                Unreachable::Port
            )
            .is_none()
        );
        let multicast = datagram(guest(false), "224.0.0.251:5353".parse().unwrap(), b"", 1);
        assert!(
            unreachable(
                &Packet::parse(&multicast[0]).unwrap(),
                gateway,
                Unreachable::Port
            )
            .is_none()
        );
    }

    proptest! {
        #[test]
        fn no_bytes_parse_as_a_packet_longer_than_themselves(mut bytes in proptest::collection::vec(any::<u8>(), 0..200), v6: bool) {
            if let Some(first) = bytes.first_mut() {
                *first = if v6 { 0x60 } else { 0x45 };
            }
            if let Some(packet) = Packet::parse(&bytes) {
                prop_assert!(packet.whole.len() <= bytes.len());
                let _ = reset(&packet);
                let _ = udp_data(&packet);
                for why in [Unreachable::Host, Unreachable::Port, Unreachable::Prohibited] {
                    let from = if v6 { "fe80::1" } else { "10.0.0.1" }.parse().unwrap();
                    let _ = unreachable(&packet, from, why);
                }
                let _ = echo_reply(packet.destination, packet.source, packet.payload);
            }
        }
    }
}
