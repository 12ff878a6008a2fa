//! Datagrams to published ports, and the guest's answers.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::{Exchange, Far, Key, Udp};
use crate::packet;
use crate::shared::{FIRST_PORT, Shared};

impl Udp {
    /// Handles a datagram to a published port.
    pub(crate) fn publish(
        &mut self,
        listener: usize,
        peer: SocketAddr,
        guest_port: u16,
        data: &[u8],
        shared: &mut Shared,
    ) {
        let index = match self.by_peer.get(&(listener, peer)) {
            Some(&index) => index,
            None => {
                self.make_room(shared);
                let guest = (shared.addresses.guest_v4, guest_port).into();
                let Some(key) = self.free_key(guest, shared) else {
                    return;
                };
                let others = [
                    IpAddr::V4(Ipv4Addr::LOCALHOST),
                    shared.addresses.guest_v6.into(),
                ];
                let far = Far::Peer {
                    listener,
                    peer,
                    others: others.into(),
                    first: data.to_vec(),
                };
                let index = self.insert(key, far, None, shared.now);
                self.by_peer.insert((listener, peer), index);
                index
            }
        };
        if let Some(exchange) = self.exchanges.get_mut(index) {
            exchange.last = shared.now;
            exchange.received += data.len() as u64;
            let key = exchange.key;
            shared.datagram(key.far, key.guest, data);
        }
    }

    fn free_key(&mut self, guest: SocketAddr, shared: &Shared) -> Option<Key> {
        let from = shared.gateway_for(guest.ip());
        for _ in FIRST_PORT..u16::MAX {
            self.port = self.port.checked_add(1).unwrap_or(FIRST_PORT);
            let key = Key {
                guest,
                far: (from, self.port).into(),
            };
            if !self.by_key.contains_key(&key) {
                return Some(key);
            }
        }
        None
    }

    /// Handles the guest's report that no program listens on a published port's target, and tries
    /// the next address.
    pub(crate) fn refused(&mut self, quoted: &[u8], shared: &mut Shared) {
        let Some(quoted) = quote(quoted) else { return };
        let Some(&index) = self.by_key.get(&quoted) else {
            return;
        };
        let Some(Exchange {
            far: Far::Peer { others, first, .. },
            ..
        }) = self.exchanges.get_mut(index)
        else {
            return;
        };
        let (Some(next), first) = (others.pop_front(), first.clone()) else {
            // No server listens yet: the peer's next datagram tries each address again.
            return self.remove(index, shared);
        };
        let guest = (next, quoted.guest.port()).into();
        let Some(key) = self.free_key(guest, shared) else {
            return;
        };
        if let Some(exchange) = self.exchanges.get_mut(index) {
            self.by_key.remove(&exchange.key);
            exchange.key = key;
            self.by_key.insert(key, index);
            shared.datagram(key.far, key.guest, &first);
        }
    }
}

/// Returns the exchange of the gateway's packet that the guest quotes.
fn quote(quoted: &[u8]) -> Option<Key> {
    // A quote may be shorter than the packet's length says: only the headers are needed.
    let (source, destination, protocol, rest): (IpAddr, IpAddr, u8, &[u8]) =
        match quoted.first()? >> 4 {
            4 => {
                let header = quoted.get(..packet::IPV4_HEADER)?;
                let source: [u8; 4] = *header.get(12..)?.first_chunk()?;
                let destination: [u8; 4] = *header.get(16..)?.first_chunk()?;
                let rest = quoted.get(usize::from(quoted.first()? & 15) * 4..)?;
                (source.into(), destination.into(), *header.get(9)?, rest)
            }
            6 => {
                let header = quoted.get(..packet::IPV6_HEADER)?;
                let source: [u8; 16] = *header.get(8..)?.first_chunk()?;
                let destination: [u8; 16] = *header.get(24..)?.first_chunk()?;
                let rest = quoted.get(packet::IPV6_HEADER..)?;
                (source.into(), destination.into(), *header.get(6)?, rest)
            }
            _ => return None,
        };
    let [a, b, c, d] = *rest.first_chunk::<4>()?;
    (protocol == packet::UDP).then(|| Key {
        guest: (destination, u16::from_be_bytes([c, d])).into(),
        far: (source, u16::from_be_bytes([a, b])).into(),
    })
}
