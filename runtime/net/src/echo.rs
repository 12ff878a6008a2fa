//! ICMP echo: the gateway answers requests to itself, and forwards others through an unprivileged
//! socket.
//!
//! Linux allows ping sockets to the groups in `net.ipv4.ping_group_range`, macOS to all users. If
//! they are not allowed, requests to other hosts are dropped.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, UdpSocket as StdUdpSocket};
use std::time::{Duration, Instant};

use blockbox_protocol::network::Protocol;
use mio::Interest;
use mio::net::UdpSocket;
use slab::Slab;
use socket2::{Domain, Protocol as SocketProtocol, Socket, Type};

use crate::packet::{self, ICMPV4, ICMPV6, Packet, Unreachable};
use crate::shared::Shared;
use crate::token::{self, Kind};

/// The most destinations at once.
const ASKED: usize = 64;
/// The most replies that are read in one turn.
const TURN: usize = 256;
const PATIENCE: Duration = Duration::from_secs(30);
const REQUEST_V4: u8 = 8;
const REQUEST_V6: u8 = 128;
const REPLY_V4: u8 = 0;
const REPLY_V6: u8 = 129;

struct Asked {
    guest: IpAddr,
    far: IpAddr,
    /// The identifier of the guest's requests; the socket has its own.
    id: [u8; 2],
    socket: UdpSocket,
    last: Instant,
}

/// Pending echo requests.
#[derive(Default)]
pub(crate) struct Echo {
    asked: Slab<Asked>,
    buffer: Vec<u8>,
}

impl Echo {
    /// Handles an ICMP message of the guest. Returns whether it was an echo request.
    pub(crate) fn message(&mut self, packet: &Packet<'_>, shared: &mut Shared) -> bool {
        let request = match packet.destination {
            IpAddr::V4(_) => {
                packet.protocol == ICMPV4 && packet.payload.first() == Some(&REQUEST_V4)
            }
            IpAddr::V6(_) => {
                packet.protocol == ICMPV6 && packet.payload.first() == Some(&REQUEST_V6)
            }
        };
        if !request {
            return false;
        }
        if !shared.addresses.is_guest(packet.source) {
            return true;
        }
        if shared.addresses.is_gateway(packet.destination)
            || shared.addresses.is_host(packet.destination)
        {
            for bytes in packet::echo_reply(packet.destination, packet.source, packet.payload) {
                shared.out.ip(&bytes);
            }
            return true;
        }
        let to = SocketAddr::new(packet.destination, 0);
        if packet.destination.is_multicast() {
            return true;
        }
        if let Err(denial) = shared.policy.decide(Protocol::Icmp, to, shared.now) {
            shared.deny(*denial, packet);
            return true;
        }
        self.ask(packet, shared);
        true
    }

    fn ask(&mut self, packet: &Packet<'_>, shared: &mut Shared) {
        let Some([_, _, _, _, a, b, ..]) = packet.payload.first_chunk::<8>() else {
            return;
        };
        let id = [*a, *b];
        let same = self.asked.iter().find(|(_, asked)| {
            asked.guest == packet.source && asked.far == packet.destination && asked.id == id
        });
        let index = match same {
            Some((index, _)) => index,
            None => {
                self.make_room(shared);
                let Some(socket) = socket(packet.destination) else {
                    return;
                };
                let index = self.asked.insert(Asked {
                    guest: packet.source,
                    far: packet.destination,
                    id,
                    socket,
                    last: shared.now,
                });
                let Some(asked) = self.asked.get_mut(index) else {
                    return;
                };
                let token = token::pack(Kind::Echo, index);
                let registered =
                    shared
                        .registry
                        .register(&mut asked.socket, token, Interest::READABLE);
                if registered.is_err() {
                    self.asked.remove(index);
                    return;
                }
                index
            }
        };
        if let Some(asked) = self.asked.get_mut(index) {
            asked.last = shared.now;
            if let Err(error) = asked.socket.send(packet.payload)
                && matches!(
                    error.kind(),
                    ErrorKind::NetworkUnreachable | ErrorKind::HostUnreachable
                )
            {
                shared.unreachable(packet, Unreachable::Host);
            }
        }
    }

    /// Drops requests without a reply, and the oldest if there are too many.
    fn make_room(&mut self, shared: &Shared) {
        self.asked
            .retain(|_, asked| shared.now.saturating_duration_since(asked.last) < PATIENCE);
        if self.asked.len() >= ASKED {
            let oldest = self
                .asked
                .iter()
                .min_by_key(|(_, asked)| asked.last)
                .map(|(index, _)| index);
            if let Some(index) = oldest {
                self.asked.remove(index);
            }
        }
    }

    /// Reads replies.
    pub(crate) fn event(&mut self, index: usize, shared: &mut Shared) {
        self.buffer.resize(65_535, 0);
        let Some(asked) = self.asked.get_mut(index) else {
            return;
        };
        // An error concerns one request, and the next read another one.
        for _ in 0..TURN {
            let count = match asked.socket.recv(&mut self.buffer) {
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(_) => continue,
            };
            let mut reply = self.buffer.get(..count).unwrap_or_default();
            // macOS includes the IPv4 header; a reply itself begins with a 0.
            if asked.far.is_ipv4()
                && let Some(first) = reply.first().filter(|first| **first >> 4 == 4)
            {
                reply = reply.get(usize::from(first & 15) * 4..).unwrap_or_default();
            }
            let wanted = if asked.far.is_ipv4() {
                REPLY_V4
            } else {
                REPLY_V6
            };
            if reply.first() != Some(&wanted) || !shared.out.has_room() {
                continue;
            }
            let mut body = reply.to_vec();
            if let Some(id) = body.get_mut(4..6) {
                id.copy_from_slice(&asked.id);
            }
            for bytes in packet::echo_reply(asked.far, asked.guest, &body) {
                shared.out.ip(&bytes);
            }
        }
    }
}

/// Opens a ping socket that receives replies of one host. `None` if the host does not allow it, or
/// has no route.
fn socket(to: IpAddr) -> Option<UdpSocket> {
    let (domain, protocol) = match to {
        IpAddr::V4(_) => (Domain::IPV4, SocketProtocol::ICMPV4),
        IpAddr::V6(_) => (Domain::IPV6, SocketProtocol::ICMPV6),
    };
    let socket = Socket::new(domain, Type::DGRAM, Some(protocol)).ok()?;
    socket.set_nonblocking(true).ok()?;
    socket.connect(&SocketAddr::new(to, 0).into()).ok()?;
    Some(UdpSocket::from_std(StdUdpSocket::from(socket)))
}
