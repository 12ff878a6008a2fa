//! Changes the hardware address of an interface that stays up.

use std::net::Ipv6Addr;

use blockbox_protocol::Address;
use rustix::io::Errno;

use super::netlink::{Message, Socket, family};
use super::{IFA_ADDRESS, IFLA_ADDRESS, RTM_DELADDR, RTM_NEWADDR, address_message, link_message};

const RTM_GETADDR: u16 = 22;

/// The size of a `struct ifaddrmsg`, which the attributes follow.
const ADDRESS_HEADER: usize = 8;
const SCOPE_LINK: u8 = 253;

/// Changes the hardware address of an interface. Its addresses, routes and listening sockets stay,
/// and the kernel forgets its neighbours. The kernel also keeps the IPv6 link-local address that it
/// derived from the previous hardware address; this function replaces it.
pub(super) fn change(socket: &Socket, index: u32, address: &[u8]) -> Result<(), Errno> {
    socket.request(&link_message(index, 0, 0).attribute(IFLA_ADDRESS, address))?;
    let Some(new) = link_local(address) else {
        return Ok(());
    };
    for old in link_locals(socket, index)? {
        if old == new {
            continue;
        }
        // Without IPv6 there are no link-local addresses.
        let [new, old] = [new, old].map(|ip| Address {
            ip: ip.into(),
            prefix: 64,
        });
        socket.create(&address_message(RTM_NEWADDR, index, new))?;
        socket.request(&address_message(RTM_DELADDR, index, old))?;
    }
    Ok(())
}

/// Returns the link-local addresses of an interface.
fn link_locals(socket: &Socket, index: u32) -> Result<Vec<Ipv6Addr>, Errno> {
    let mut body = vec![family(Ipv6Addr::UNSPECIFIED.into()), 0, 0, 0];
    body.extend_from_slice(&[0; 4]);
    let mut found = Vec::new();
    socket.dump(&Message::new(RTM_GETADDR, &body), |part| {
        found.extend(link_local_of(part, index));
    })?;
    Ok(found)
}

/// Returns the address in an answer to `RTM_GETADDR`, if it is a link-local one of this interface.
fn link_local_of(part: &[u8], index: u32) -> Option<Ipv6Addr> {
    let (header, mut rest) = part.split_first_chunk::<ADDRESS_HEADER>()?;
    let [_family, _prefix, _flags, scope, interface @ ..] = *header;
    if scope != SCOPE_LINK || u32::from_ne_bytes(interface) != index {
        return None;
    }
    while let Some(&[a, b, c, d]) = rest.first_chunk() {
        let (length, kind) = (u16::from_ne_bytes([a, b]), u16::from_ne_bytes([c, d]));
        let length = usize::from(length);
        let value = rest.get(4..length)?;
        if kind == IFA_ADDRESS {
            return <[u8; 16]>::try_from(value).ok().map(Ipv6Addr::from);
        }
        rest = rest.get(length.next_multiple_of(4)..)?;
    }
    None
}

/// Returns the link-local address that the kernel derives from an Ethernet address (RFC 4291,
/// appendix A).
fn link_local(address: &[u8]) -> Option<Ipv6Addr> {
    let &[a, b, c, d, e, f] = address else {
        return None;
    };
    let mut octets = [0; 16];
    octets[..2].copy_from_slice(&[0xfe, 0x80]);
    octets[8..].copy_from_slice(&[a ^ 2, b, c, 0xff, 0xfe, d, e, f]);
    Some(octets.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_local_address_is_derived_from_the_hardware_address() {
        let expected: Ipv6Addr = "fe80::62:6cff:fe6b:2".parse().expect("valid");
        assert_eq!(link_local(&[2, 0x62, 0x6c, 0x6b, 0, 2]), Some(expected));
        assert_eq!(link_local(&[2, 0]), None);
    }

    #[test]
    fn addresses_of_other_interfaces_or_scopes_and_truncated_answers_are_ignored() {
        let address = |scope, index: u32| {
            let mut part = vec![10, 64, 0, scope];
            part.extend_from_slice(&index.to_ne_bytes());
            // A padded attribute of another kind comes first.
            for (kind, value) in [(8_u16, &[1; 5][..]), (IFA_ADDRESS, &[0xfe; 16])] {
                let length = u16::try_from(value.len() + 4).expect("short");
                part.extend_from_slice(&length.to_ne_bytes());
                part.extend_from_slice(&kind.to_ne_bytes());
                part.extend_from_slice(value);
                part.resize(part.len().next_multiple_of(4), 0);
            }
            part
        };
        let own = address(SCOPE_LINK, 2);
        assert_eq!(link_local_of(&own, 2), Some([0xfe; 16].into()));
        assert_eq!(link_local_of(&own, 3), None);
        assert_eq!(link_local_of(&address(0, 2), 2), None);
        for length in 0..own.len() {
            assert_eq!(link_local_of(&own[..length], 2), None);
        }
        // An attribute of length 0 does not cause an endless loop.
        let mut endless = own;
        endless[8..10].copy_from_slice(&0_u16.to_ne_bytes());
        assert_eq!(link_local_of(&endless, 2), None);
    }
}
