//! UDP: a table of exchanges, each with a socket of the host that is connected to its peer.
//!
//! A connected socket only receives datagrams of its peer, and reports if no program listens there.

mod published;

use std::collections::{HashMap, VecDeque};
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use blockbox_protocol::network::Protocol;
use mio::Interest;
use mio::net::UdpSocket;
use slab::Slab;

use crate::control::FlowStatus;
use crate::dns::question::{self, Client, Question};
use crate::packet::{self, Packet, Unreachable};
use crate::shared::{FIRST_PORT, Shared};
use crate::token::{self, Kind};

/// How long an exchange without an answer is kept, and one with an answer (RFC 4787: two minutes).
const UNANSWERED: Duration = Duration::from_secs(30);
const ANSWERED: Duration = Duration::from_secs(180);
/// How often exchanges are checked.
const SWEEP: Duration = Duration::from_secs(5);
/// The most datagrams that are read from a socket in one turn.
const TURN: usize = 64;
/// How many bytes of a packet an error about it quotes.
const QUOTED: usize = 128;
/// The longest datagram in bytes.
const LONGEST: usize = 65_535;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Key {
    guest: SocketAddr,
    far: SocketAddr,
}

enum Far {
    /// A socket of the host, connected to the far end.
    Host(UdpSocket),
    /// A peer of a published port.
    Peer {
        listener: usize,
        peer: SocketAddr,
        /// Other addresses where the guest's server may listen, and the datagram to send there
        /// until one answers.
        others: VecDeque<IpAddr>,
        first: Vec<u8>,
    },
}

struct Exchange {
    key: Key,
    far: Far,
    answered: bool,
    readable: bool,
    ready: bool,
    /// The beginning of the guest's last packet.
    quote: Vec<u8>,
    name: Option<String>,
    sent: u64,
    received: u64,
    since: Instant,
    last: Instant,
}

/// All UDP exchanges.
pub(crate) struct Udp {
    exchanges: Slab<Exchange>,
    by_key: HashMap<Key, usize>,
    by_peer: HashMap<(usize, SocketAddr), usize>,
    ready: VecDeque<usize>,
    buffer: Vec<u8>,
    port: u16,
    swept: Instant,
    /// Exchanges since the start.
    pub(crate) total: u64,
    /// Bytes of ended exchanges.
    pub(crate) sent: u64,
    pub(crate) received: u64,
}

impl Udp {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            exchanges: Slab::new(),
            by_key: HashMap::new(),
            by_peer: HashMap::new(),
            ready: VecDeque::new(),
            buffer: vec![0; LONGEST],
            port: FIRST_PORT,
            swept: now,
            total: 0,
            sent: 0,
            received: 0,
        }
    }

    /// Handles a datagram of the guest. Returns its destination if that is a peer of a published
    /// port.
    pub(crate) fn datagram<'a>(
        &mut self,
        packet: &Packet<'a>,
        shared: &mut Shared,
    ) -> Option<(usize, SocketAddr, &'a [u8])> {
        let ((source, destination), data) = (packet.ports()?, packet::udp_data(packet)?);
        let key = Key {
            guest: (packet.source, source).into(),
            far: (packet.destination, destination).into(),
        };
        let index = match self.by_key.get(&key) {
            Some(&index) => index,
            None => self.unknown(key, packet, data, shared)?,
        };
        let exchange = self.exchanges.get_mut(index)?;
        exchange.last = shared.now;
        exchange.sent += data.len() as u64;
        match &mut exchange.far {
            Far::Peer {
                listener,
                peer,
                first,
                others,
            } => {
                exchange.answered = true;
                first.clear();
                others.clear();
                return Some((*listener, *peer, data));
            }
            Far::Host(socket) => {
                exchange.quote.clear();
                let head = packet.whole.get(..QUOTED).unwrap_or(packet.whole);
                exchange.quote.extend_from_slice(head);
                let mut result = socket.send(data);
                if result.as_ref().is_err_and(is_refused) {
                    // The error concerns an earlier datagram; this one was not sent.
                    shared.unreachable(packet, Unreachable::Port);
                    result = socket.send(data);
                }
                // A full queue drops datagrams, as in any router.
                if let Err(error) = result
                    && !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
                    && !is_refused(&error)
                {
                    shared.unreachable(packet, Unreachable::Host);
                }
            }
        }
        None
    }

    /// Handles a datagram without an exchange: starts one, or reports an error to the guest.
    fn unknown(
        &mut self,
        key: Key,
        packet: &Packet<'_>,
        data: &[u8],
        shared: &mut Shared,
    ) -> Option<usize> {
        if !shared.addresses.is_guest(key.guest.ip()) || key.guest.port() == 0 {
            return None;
        }
        if shared.addresses.is_gateway(key.far.ip()) {
            if key.far.port() == question::PORT {
                shared.questions.push(Question {
                    client: Client::Datagram {
                        guest: key.guest,
                        to: key.far,
                    },
                    message: data.to_vec(),
                });
            } else {
                shared.unreachable(packet, Unreachable::Port);
            }
            return None;
        }
        // Broadcasts and multicasts on the link have no other receiver.
        let far = key.far.ip();
        if far.is_multicast() || far == IpAddr::V4(Ipv4Addr::BROADCAST) || is_broadcast(far, shared)
        {
            return None;
        }
        let grant = match shared.policy.decide(Protocol::Udp, key.far, shared.now) {
            Ok(grant) => grant,
            Err(denial) => {
                shared.deny(*denial, packet);
                return None;
            }
        };
        let name = shared.policy.names.name_of(far, shared.now);
        self.make_room(shared);
        let socket = match connect(grant.connect) {
            Ok(socket) => socket,
            Err(_) => {
                shared.unreachable(packet, Unreachable::Host);
                return None;
            }
        };
        let index = self.insert(key, Far::Host(socket), name, shared.now);
        let Some(Far::Host(socket)) = self
            .exchanges
            .get_mut(index)
            .map(|exchange| &mut exchange.far)
        else {
            return None;
        };
        let token = token::pack(Kind::Udp, index);
        if shared
            .registry
            .register(socket, token, Interest::READABLE)
            .is_err()
        {
            self.remove(index, shared);
            return None;
        }
        Some(index)
    }

    fn insert(&mut self, key: Key, far: Far, name: Option<String>, now: Instant) -> usize {
        self.total += 1;
        let index = self.exchanges.insert(Exchange {
            key,
            far,
            answered: false,
            readable: false,
            ready: false,
            quote: Vec::new(),
            name,
            sent: 0,
            received: 0,
            since: now,
            last: now,
        });
        self.by_key.insert(key, index);
        index
    }

    /// Drops the longest idle exchange if there are too many.
    fn make_room(&mut self, shared: &mut Shared) {
        if self.exchanges.len() >= shared.limits.udp_flows {
            let oldest = self
                .exchanges
                .iter()
                .min_by_key(|(_, exchange)| (exchange.answered, exchange.last))
                .map(|(index, _)| index);
            if let Some(index) = oldest {
                self.remove(index, shared);
            }
        }
    }

    /// Records that a socket of the host is readable.
    pub(crate) fn event(&mut self, index: usize) {
        if let Some(exchange) = self.exchanges.get_mut(index) {
            exchange.readable = true;
            self.wake(index);
        }
    }

    fn wake(&mut self, index: usize) {
        if let Some(exchange) = self.exchanges.get_mut(index)
            && !exchange.ready
        {
            exchange.ready = true;
            self.ready.push_back(index);
        }
    }

    /// Returns whether a socket may have unread datagrams.
    pub(crate) fn is_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Returns when to check for expired exchanges.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        (!self.exchanges.is_empty()).then_some(self.swept + SWEEP)
    }

    /// Reads datagrams from the host's sockets, and drops expired exchanges.
    pub(crate) fn run(&mut self, shared: &mut Shared) {
        for _ in 0..self.ready.len() {
            if !shared.out.has_room() {
                break;
            }
            let Some(index) = self.ready.pop_front() else {
                break;
            };
            if let Some(exchange) = self.exchanges.get_mut(index) {
                exchange.ready = false;
                exchange.read(&mut self.buffer, shared);
                if exchange.readable {
                    self.wake(index);
                }
            }
        }
        if shared.now.saturating_duration_since(self.swept) >= SWEEP {
            self.swept = shared.now;
            let over: Vec<usize> = self
                .exchanges
                .iter()
                .filter(|(_, exchange)| {
                    let limit = if exchange.answered {
                        ANSWERED
                    } else {
                        UNANSWERED
                    };
                    shared.now.saturating_duration_since(exchange.last) >= limit
                })
                .map(|(index, _)| index)
                .collect();
            for index in over {
                self.remove(index, shared);
            }
        }
    }

    fn remove(&mut self, index: usize, shared: &mut Shared) {
        let Some(mut exchange) = self.exchanges.try_remove(index) else {
            return;
        };
        match &mut exchange.far {
            Far::Host(socket) => {
                // Closing it also deregisters it.
                let _ = shared.registry.deregister(socket);
            }
            Far::Peer { listener, peer, .. } => {
                self.by_peer.remove(&(*listener, *peer));
            }
        }
        self.by_key.remove(&exchange.key);
        self.sent += exchange.sent;
        self.received += exchange.received;
    }

    /// Returns all exchanges, for the status.
    pub(crate) fn flows(&self, now: Instant) -> impl Iterator<Item = FlowStatus> {
        self.exchanges.iter().map(move |(_, exchange)| FlowStatus {
            protocol: Protocol::Udp,
            guest: exchange.key.guest,
            remote: match &exchange.far {
                Far::Host(_) => exchange.key.far,
                Far::Peer { peer, .. } => *peer,
            },
            inbound: matches!(exchange.far, Far::Peer { .. }),
            name: exchange.name.clone(),
            sent: exchange.sent,
            received: exchange.received,
            seconds: now.saturating_duration_since(exchange.since).as_secs(),
        })
    }
}

impl Exchange {
    fn read(&mut self, buffer: &mut [u8], shared: &mut Shared) {
        let Far::Host(socket) = &self.far else {
            self.readable = false;
            return;
        };
        for _ in 0..TURN {
            if !shared.out.has_room() {
                return;
            }
            match socket.recv(buffer) {
                Ok(count) => {
                    let data = buffer.get(..count).unwrap_or_default();
                    shared.datagram(self.key.far, self.key.guest, data);
                    self.answered = true;
                    self.last = shared.now;
                    self.received += count as u64;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.readable = false;
                    return;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => {
                    let why = if is_refused(&error) {
                        Unreachable::Port
                    } else {
                        Unreachable::Host
                    };
                    let last = Packet {
                        source: self.key.guest.ip(),
                        destination: self.key.far.ip(),
                        protocol: packet::UDP,
                        payload: &[],
                        fragment: None,
                        whole: &self.quote,
                        plain: true,
                    };
                    if !self.quote.is_empty() {
                        shared.unreachable(&last, why);
                    }
                }
            }
        }
    }
}

fn is_refused(error: &io::Error) -> bool {
    error.kind() == ErrorKind::ConnectionRefused
}

fn is_broadcast(address: IpAddr, shared: &Shared) -> bool {
    // The broadcast address of the link's network.
    match address {
        IpAddr::V4(address) => {
            let host = u32::MAX
                .checked_shr(shared.addresses.prefix_v4.into())
                .unwrap_or(0);
            shared.addresses.on_link(address.into()) && address.to_bits() & host == host
        }
        IpAddr::V6(_) => false,
    }
}

/// Opens a socket of the host that only receives datagrams of one peer.
pub(crate) fn connect(to: SocketAddr) -> io::Result<UdpSocket> {
    let any: IpAddr = match to {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0).into())?;
    socket.connect(to)?;
    Ok(socket)
}
