//! TCP: connections of the guest, and connections to it.
//!
//! The guest's SYN is answered only after the host has connected, so the guest sees a refused or
//! unreachable destination as such.

mod call;
mod device;
mod flow;
mod sniff;
mod spare;

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use blockbox_protocol::network::Protocol;
use mio::Interest;
use mio::net::TcpStream;
use slab::Slab;
use smoltcp::wire::IpListenEndpoint;
use socket2::{SockRef, TcpKeepalive};

use self::device::Stack;
use self::flow::{Far, Flow, Key, Resolver, Stage, Turn};
use self::spare::Spare;
use crate::control::FlowStatus;
use crate::denial::{Denial, Reason};
use crate::dns;
use crate::packet::{self, Packet, Unreachable};
use crate::policy::Grant;
use crate::shared::{FIRST_PORT, Shared};
use crate::token::{self, Kind};

/// Bounds for the size of a buffer, which is a share of the remaining bytes.
const SMALLEST_BUFFER: usize = 16 << 10;
const GREATEST_BUFFER: usize = 256 << 10;
const SHARE: usize = 32;

/// All TCP connections.
pub(crate) struct Tcp {
    stack: Stack,
    flows: Slab<Flow>,
    by_key: HashMap<Key, usize>,
    by_serial: HashMap<u64, usize>,
    timers: BTreeSet<(Instant, usize)>,
    /// The address of the guest that last accepted a connection, by published port.
    servers: HashMap<u16, IpAddr>,
    ready: VecDeque<usize>,
    buffered: usize,
    spare: Spare,
    serial: u64,
    port: u16,
    /// Connections since the start.
    pub(crate) total: u64,
    /// Bytes of ended connections.
    pub(crate) sent: u64,
    pub(crate) received: u64,
}

impl Tcp {
    pub(crate) fn new(shared: &mut Shared) -> Self {
        Self {
            stack: Stack::new(&shared.addresses, &mut shared.out),
            flows: Slab::new(),
            by_key: HashMap::new(),
            by_serial: HashMap::new(),
            timers: BTreeSet::new(),
            servers: HashMap::new(),
            ready: VecDeque::new(),
            buffered: 0,
            spare: Spare::default(),
            serial: 0,
            port: FIRST_PORT,
            total: 0,
            sent: 0,
            received: 0,
        }
    }

    /// Handles a segment of the guest.
    pub(crate) fn segment(&mut self, packet: &Packet<'_>, shared: &mut Shared) {
        let Some((source, destination)) = packet.ports() else {
            return;
        };
        let key = Key {
            guest: (packet.source, source).into(),
            far: (packet.destination, destination).into(),
        };
        // The stack does not support extension headers.
        let plain;
        let bytes = if packet.plain {
            packet.whole
        } else {
            plain = packet::ip(
                packet.source,
                packet.destination,
                packet.protocol,
                packet.payload,
            );
            plain.as_deref().unwrap_or_default()
        };
        let Some(&index) = self.by_key.get(&key) else {
            return self.unknown(key, packet, bytes, shared);
        };
        let Some(flow) = self.flows.get_mut(index) else {
            return;
        };
        if let Stage::Connecting { syn, .. } = &mut flow.stage {
            if packet::is_opening(packet.payload) {
                // A repeated SYN, or one of a program that reuses the port of an abandoned
                // connection.
                *syn = bytes.to_vec();
            }
            return;
        }
        if !flow.fits(packet.payload) {
            return;
        }
        self.stack.receive(
            shared.stack_now(),
            bytes,
            &mut flow.sockets,
            &mut shared.out,
        );
        flow.observe(packet.payload);
        self.wake(index);
    }

    /// Handles a segment without a connection: it opens one, or is answered with a reset.
    fn unknown(&mut self, key: Key, packet: &Packet<'_>, bytes: &[u8], shared: &mut Shared) {
        let opens =
            packet::is_opening(packet.payload) && key.guest.port() != 0 && key.far.port() != 0;
        if !opens || !shared.addresses.is_guest(key.guest.ip()) {
            if let Some(reset) = packet::reset(packet) {
                shared.out.ip(&reset);
            }
            return;
        }
        if self.flows.len() >= shared.limits.tcp_flows {
            let reason = Reason::Limit {
                what: "connections".to_owned(),
            };
            return shared.deny(*Denial::to(Protocol::Tcp, key.far, reason), packet);
        }
        if shared.addresses.is_gateway(key.far.ip()) {
            if key.far.port() == dns::question::PORT {
                let stage = Stage::Connecting {
                    syn: bytes.to_vec(),
                    other: None,
                };
                let index = self.insert(key, stage, Far::Resolver(Resolver::default()), shared.now);
                self.connected(index, shared);
            } else if let Some(reset) = packet::reset(packet) {
                shared.out.ip(&reset);
            }
            return;
        }
        let mut grant = match shared.policy.decide(Protocol::Tcp, key.far, shared.now) {
            Ok(grant) => grant,
            Err(denial) => return shared.deny(*denial, packet),
        };
        let stream = TcpStream::connect(grant.connect)
            .or_else(|error| connect_other(&mut grant.other).ok_or(error));
        match stream {
            Ok(stream) => self.connecting(key, grant, bytes, stream, shared),
            Err(error) => refuse(packet, &error, shared),
        }
    }

    fn connecting(
        &mut self,
        key: Key,
        grant: Grant,
        syn: &[u8],
        stream: TcpStream,
        shared: &mut Shared,
    ) {
        let stage = Stage::Connecting {
            syn: syn.to_vec(),
            other: grant.other,
        };
        let name = shared.policy.names.name_of(key.far.ip(), shared.now);
        let index = self.insert(key, stage, Far::Host(stream), shared.now);
        if let Some(flow) = self.flows.get_mut(index) {
            flow.check = grant.check;
            flow.name = name;
        }
        if let Err(error) = self.register(index, shared) {
            self.fail(index, &error, shared);
        }
        self.set_timer(index, shared.now + shared.limits.connect());
    }

    fn register(&mut self, index: usize, shared: &Shared) -> io::Result<()> {
        match self.flows.get_mut(index).map(|flow| &mut flow.far) {
            Some(Far::Host(stream)) => shared.registry.register(
                stream,
                token::pack(Kind::Tcp, index),
                Interest::READABLE | Interest::WRITABLE,
            ),
            _ => Ok(()),
        }
    }

    fn insert(&mut self, key: Key, stage: Stage, far: Far, now: Instant) -> usize {
        self.serial += 1;
        self.total += 1;
        let index = self
            .flows
            .insert(Flow::new(key, self.serial, stage, far, now));
        self.by_key.insert(key, index);
        self.by_serial.insert(self.serial, index);
        index
    }

    /// Accounts for a flow's two buffers, of the same size as before if it had some. `None` if
    /// there are too many.
    fn grow(&mut self, index: usize, shared: &Shared) -> Option<usize> {
        let own = self.flows.get(index)?.buffer;
        let left = shared
            .limits
            .buffer_bytes
            .saturating_sub(self.buffered.saturating_sub(2 * own));
        let buffer = (left / SHARE)
            .checked_next_power_of_two()?
            .clamp(SMALLEST_BUFFER, GREATEST_BUFFER);
        if 2 * buffer > left {
            return None;
        }
        self.buffered = self.buffered.saturating_sub(2 * own) + 2 * buffer;
        Some(buffer)
    }

    /// Handles events of the host's socket.
    pub(crate) fn event(
        &mut self,
        index: usize,
        readable: bool,
        writable: bool,
        shared: &mut Shared,
    ) {
        let Some(flow) = self.flows.get_mut(index) else {
            return;
        };
        flow.readable |= readable;
        flow.writable |= writable;
        let Far::Host(stream) = &flow.far else {
            return;
        };
        if matches!(flow.stage, Stage::Connecting { .. }) {
            match stream.take_error() {
                Ok(Some(error)) | Err(error) => return self.retry(index, &error, shared),
                Ok(None) => {}
            }
            match stream.peer_addr() {
                Ok(_) => return self.connected(index, shared),
                Err(error) if error.kind() == ErrorKind::NotConnected => return,
                Err(error) => return self.retry(index, &error, shared),
            }
        }
        self.wake(index);
    }

    /// The far side has accepted: answers the guest's SYN.
    fn connected(&mut self, index: usize, shared: &mut Shared) {
        let buffer = self.grow(index, shared);
        let Some(flow) = self.flows.get_mut(index) else {
            return;
        };
        let Stage::Connecting { syn, .. } = std::mem::replace(&mut flow.stage, Stage::Open) else {
            return;
        };
        let far = flow.key.far;
        let Some(buffer) = buffer else {
            let reason = Reason::Limit {
                what: "bytes in buffers".to_owned(),
            };
            flow.reset_far();
            self.remove(index, shared);
            if let Some(packet) = Packet::parse(&syn) {
                shared.deny(*Denial::to(Protocol::Tcp, far, reason), &packet);
            }
            return;
        };
        if let Far::Host(stream) = &flow.far {
            prepare(stream);
        }
        let endpoint = IpListenEndpoint {
            addr: Some(far.ip().into()),
            port: far.port(),
        };
        let socket = flow.socket(buffer, &mut self.spare);
        if socket.listen(endpoint).is_ok() {
            let (now, sockets) = (shared.stack_now(), &mut flow.sockets);
            self.stack.receive(now, &syn, sockets, &mut shared.out);
            if let Some(packet) = Packet::parse(&syn) {
                flow.observe(packet.payload);
            }
        }
        self.wake(index);
    }

    /// The far side cannot be reached at this address: tries the other one, if there is one.
    fn retry(&mut self, index: usize, error: &io::Error, shared: &mut Shared) {
        let Some(Flow {
            stage: Stage::Connecting { other, .. },
            far: Far::Host(stream),
            readable,
            writable,
            ..
        }) = self.flows.get_mut(index)
        else {
            return;
        };
        let Some(next) = connect_other(other) else {
            return self.fail(index, error, shared);
        };
        // Closing it also deregisters it.
        let _ = shared.registry.deregister(stream);
        *stream = next;
        (*readable, *writable) = (false, false);
        if let Err(error) = self.register(index, shared) {
            self.fail(index, &error, shared);
        }
    }

    /// The far side cannot be reached: reports the error to the guest.
    fn fail(&mut self, index: usize, error: &io::Error, shared: &mut Shared) {
        if let Some(flow) = self.flows.get_mut(index)
            && let Stage::Connecting { syn, .. } = &mut flow.stage
        {
            let syn = std::mem::take(syn);
            if let Some(packet) = Packet::parse(&syn) {
                refuse(&packet, error, shared);
            }
        }
        self.remove(index, shared);
    }

    /// Adds a flow to the list of flows with work.
    fn wake(&mut self, index: usize) {
        if let Some(flow) = self.flows.get_mut(index)
            && !flow.ready
        {
            flow.ready = true;
            self.ready.push_back(index);
        }
    }

    /// Returns whether a flow has work.
    pub(crate) fn is_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Returns when the next timer expires.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.timers.first().map(|(time, _)| *time)
    }

    /// Runs a turn of each flow with work.
    pub(crate) fn run(&mut self, shared: &mut Shared) {
        while let Some(&(time, index)) = self.timers.first()
            && time <= shared.now
        {
            self.timers.pop_first();
            if let Some(flow) = self.flows.get_mut(index) {
                flow.timer = None;
                self.timed(index, shared);
            }
        }
        for _ in 0..self.ready.len() {
            if !shared.out.has_room() {
                break;
            }
            let Some(index) = self.ready.pop_front() else {
                break;
            };
            if let Some(flow) = self.flows.get_mut(index) {
                flow.ready = false;
                self.turn(index, shared);
            }
        }
    }

    /// A flow's timer has expired: ends it, or lets its socket retransmit.
    fn timed(&mut self, index: usize, shared: &mut Shared) {
        let Some(flow) = self.flows.get(index) else {
            return;
        };
        let since = shared.now.saturating_duration_since(flow.since);
        let idle = shared.now.saturating_duration_since(flow.last);
        match &flow.stage {
            Stage::Connecting { .. } if since >= shared.limits.connect() => {
                self.fail(index, &ErrorKind::TimedOut.into(), shared);
            }
            Stage::Calling { until, .. } if *until <= shared.now => {
                self.unanswered(index, shared);
            }
            Stage::Open if idle >= shared.limits.idle() => self.end(index, true, shared),
            _ => self.wake(index),
        }
    }

    /// Removes a flow, with resets to both sides.
    fn end(&mut self, index: usize, reset_far: bool, shared: &mut Shared) {
        if let Some(flow) = self.flows.get_mut(index) {
            flow.abort();
            self.stack
                .send(shared.stack_now(), &mut flow.sockets, &mut shared.out, true);
            if reset_far {
                flow.reset_far();
            }
        }
        self.remove(index, shared);
    }

    fn turn(&mut self, index: usize, shared: &mut Shared) {
        if self.answered(index, shared) {
            return;
        }
        let Some(flow) = self.flows.get_mut(index) else {
            return;
        };
        let turn = flow.turn(&shared.policy, &mut shared.questions, shared.now);
        match turn {
            Turn::Waits | Turn::Again => {
                let all = self.stack.send(
                    shared.stack_now(),
                    &mut flow.sockets,
                    &mut shared.out,
                    false,
                );
                let next = self.stack.next(shared.stack_now(), &flow.sockets);
                if matches!(turn, Turn::Again) || !all {
                    self.wake(index);
                }
                let last = match flow_limit(self.flows.get(index), shared) {
                    Some(last) => last,
                    None => return,
                };
                let next = next.map_or(last, |next| shared.system_time(next).min(last));
                self.set_timer(index, next);
            }
            Turn::Ended => {
                flow.hurry();
                self.stack
                    .send(shared.stack_now(), &mut flow.sockets, &mut shared.out, true);
                self.remove(index, shared);
            }
            Turn::GuestReset => {
                flow.reset_far();
                self.remove(index, shared);
            }
            Turn::HostReset => self.end(index, true, shared),
            Turn::Denied(denial) => {
                shared.denials.record(*denial);
                self.end(index, true, shared);
            }
        }
    }

    fn set_timer(&mut self, index: usize, time: Instant) {
        if let Some(flow) = self.flows.get_mut(index) {
            if let Some(old) = flow.timer.replace(time) {
                self.timers.remove(&(old, index));
            }
            self.timers.insert((time, index));
        }
    }

    fn remove(&mut self, index: usize, shared: &mut Shared) {
        let Some(mut flow) = self.flows.try_remove(index) else {
            return;
        };
        if let Far::Host(stream) = &mut flow.far {
            // Closing it also deregisters it.
            let _ = shared.registry.deregister(stream);
        }
        if let Some(time) = flow.timer {
            self.timers.remove(&(time, index));
        }
        self.by_key.remove(&flow.key);
        self.by_serial.remove(&flow.serial);
        self.buffered = self.buffered.saturating_sub(2 * flow.buffer);
        if let Some(socket) = flow.take_socket() {
            self.spare.keep(socket);
        }
        self.sent += flow.sent;
        self.received += flow.received;
    }

    /// Handles the resolver's answer for a connection.
    pub(crate) fn answer(&mut self, serial: u64, message: &[u8]) {
        if let Some(&index) = self.by_serial.get(&serial) {
            if let Some(flow) = self.flows.get_mut(index) {
                flow.answer(message);
            }
            self.wake(index);
        }
    }

    /// Returns the total size of all buffers in bytes.
    pub(crate) fn buffered(&self) -> usize {
        self.buffered
    }

    /// Returns all connections, for the status.
    pub(crate) fn flows(&self, now: Instant) -> impl Iterator<Item = FlowStatus> {
        self.flows.iter().map(move |(_, flow)| FlowStatus {
            protocol: Protocol::Tcp,
            guest: flow.key.guest,
            remote: match (&flow.far, flow.inbound) {
                (Far::Host(stream), true) => stream.peer_addr().unwrap_or(flow.key.far),
                _ => flow.key.far,
            },
            inbound: flow.inbound,
            name: flow.name.clone(),
            sent: flow.sent,
            received: flow.received,
            seconds: now.saturating_duration_since(flow.since).as_secs(),
        })
    }
}

/// Begins to connect to the other address, if there is one. `None` if that fails at once.
fn connect_other(other: &mut Option<SocketAddr>) -> Option<TcpStream> {
    TcpStream::connect(other.take()?).ok()
}

/// Returns when a flow must be ended if nothing happens.
fn flow_limit(flow: Option<&Flow>, shared: &Shared) -> Option<Instant> {
    let flow = flow?;
    Some(match flow.stage {
        Stage::Connecting { .. } => flow.since + shared.limits.connect(),
        Stage::Calling { until, .. } => until,
        Stage::Open => {
            let idle = flow.last + shared.limits.idle();
            flow.held_until().map_or(idle, |until| until.min(idle))
        }
    })
}

/// Sets options on a connection of the host.
fn prepare(stream: &TcpStream) {
    // A connection also works without these options.
    let _ = stream.set_nodelay(true);
    let alive = TcpKeepalive::new()
        .with_time(Duration::from_secs(75))
        .with_interval(Duration::from_secs(15));
    let _ = SockRef::from(stream).set_tcp_keepalive(&alive);
}

/// Reports to the guest why its connection failed.
fn refuse(packet: &Packet<'_>, error: &io::Error, shared: &mut Shared) {
    match error.kind() {
        ErrorKind::ConnectionRefused | ErrorKind::ConnectionReset => {
            if let Some(reset) = packet::reset(packet) {
                shared.out.ip(&reset);
            }
        }
        _ => shared.unreachable(packet, Unreachable::Host),
    }
}
