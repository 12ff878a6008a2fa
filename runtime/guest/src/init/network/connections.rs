//! Closes open TCP connections: a copied guest must not use those of the original.

use rustix::io::Errno;

use super::netlink::{Message, Socket};

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const SOCK_DESTROY: u16 = 21;

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const IPPROTO_TCP: u8 = 6;

/// All states of a connection (`TCP_ESTABLISHED` and so on) except listening and time-wait.
const CONNECTED: u32 = 1 << 1 | 1 << 2 | 1 << 3 | 1 << 4 | 1 << 5 | 1 << 8 | 1 << 9 | 1 << 11;

/// The length of a `struct inet_diag_sockid` in bytes, and its offset in a `struct inet_diag_msg`.
const ID_LEN: usize = 48;
const ID_AT: usize = 4;
/// The offset of the peer's address in it.
const PEER_AT: usize = 20;

/// Closes all TCP connections whose peer is not this guest itself; returns how many. A kernel
/// without `INET_DIAG_DESTROY` returns an error for an unknown request.
pub(crate) fn close_outgoing() -> Result<usize, Errno> {
    let mut closed = 0;
    for family in [AF_INET, AF_INET6] {
        let socket = Socket::diagnosis()?;
        let mut found = Vec::new();
        let all = request(SOCK_DIAG_BY_FAMILY, family, CONNECTED, &[0; ID_LEN]);
        socket.dump(&all, |part| {
            let id = part
                .get(ID_AT..)
                .and_then(|rest| rest.first_chunk::<ID_LEN>());
            found.extend(id.copied().filter(|id| !is_loopback(family, id)));
        })?;
        for id in found {
            match socket.request(&request(SOCK_DESTROY, family, u32::MAX, &id)) {
                Ok(()) => closed += 1,
                // It has ended meanwhile.
                Err(Errno::NOENT) => {}
                Err(errno) => return Err(errno),
            }
        }
    }
    Ok(closed)
}

/// `struct inet_diag_req_v2`.
fn request(kind: u16, family: u8, states: u32, id: &[u8; ID_LEN]) -> Message {
    let mut body = vec![family, IPPROTO_TCP, 0, 0];
    body.extend_from_slice(&states.to_ne_bytes());
    body.extend_from_slice(id);
    Message::new(kind, &body)
}

fn is_loopback(family: u8, id: &[u8; ID_LEN]) -> bool {
    let Some(peer) = id.get(PEER_AT..).and_then(|rest| rest.first_chunk::<16>()) else {
        return false;
    };
    if family == AF_INET {
        return peer[0] == 127;
    }
    let peer = std::net::Ipv6Addr::from(*peer);
    peer.is_loopback() || peer.to_ipv4_mapped().is_some_and(|peer| peer.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_in_the_guest_are_recognised_in_both_families() {
        let id = |peer: &[u8]| {
            let mut id = [0; ID_LEN];
            id[PEER_AT..PEER_AT + peer.len()].copy_from_slice(peer);
            id
        };
        let mapped = std::net::Ipv4Addr::new(127, 0, 0, 1).to_ipv6_mapped();
        assert!(is_loopback(AF_INET, &id(&[127, 0, 0, 9])));
        assert!(!is_loopback(AF_INET, &id(&[192, 0, 2, 1])));
        assert!(is_loopback(
            AF_INET6,
            &id(&std::net::Ipv6Addr::LOCALHOST.octets())
        ));
        assert!(is_loopback(AF_INET6, &id(&mapped.octets())));
        assert!(!is_loopback(AF_INET6, &id(&[0xfd; 16])));
    }
}
