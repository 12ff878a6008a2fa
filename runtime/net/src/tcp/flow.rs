//! A TCP connection: copies bytes between a socket of the stack, for the guest, and a socket of the
//! host.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::time::{Duration, Instant};

use blockbox_protocol::network::Protocol;
use mio::net::TcpStream;
use smoltcp::iface::{SocketHandle, SocketSet};
use smoltcp::socket::tcp::{RecvError, Socket, State};
use socket2::SockRef;

use super::sniff::{LONGEST, Sniff, sniff};
use super::spare::Spare;
use crate::denial::{Denial, Reason};
use crate::dns::question::{Client, Question};
use crate::policy::{NameCheck, Policy};

/// The most bytes that are moved in a direction in one turn.
const TURN: usize = 256 << 10;
/// How often an idle guest is probed.
const KEEP_ALIVE: smoltcp::time::Duration = smoltcp::time::Duration::from_secs(75);
/// How long an acknowledgement may wait for data to go with it, or for the window to open.
const ACK_DELAY: smoltcp::time::Duration = smoltcp::time::Duration::from_millis(10);
/// How long bytes that may be the beginning of a name are held back.
const HOLD: Duration = Duration::from_secs(5);
/// The most pending queries of one connection to the resolver.
const QUESTIONS: usize = 16;

/// The two ends of a connection, as the guest sees them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) guest: SocketAddr,
    pub(super) far: SocketAddr,
}

/// The far side of a connection.
pub(super) enum Far {
    /// A socket of the host.
    Host(TcpStream),
    /// The gateway's resolver.
    Resolver(Resolver),
}

/// DNS messages on a connection, each preceded by its length (RFC 1035, 4.2.2).
#[derive(Default)]
pub(super) struct Resolver {
    received: Vec<u8>,
    answers: VecDeque<u8>,
    waiting: usize,
}

/// The stage of a connection.
pub(super) enum Stage {
    /// The host connects; the guest's SYN waits for the result.
    Connecting {
        syn: Vec<u8>,
        /// The address to try if this one fails.
        other: Option<SocketAddr>,
    },
    /// The guest is being connected to; if it refuses, the next of these addresses is tried.
    Calling {
        others: VecDeque<SocketAddr>,
        until: Instant,
    },
    Open,
}

/// The result of a turn of a connection.
pub(super) enum Turn {
    /// There is nothing to do until the next event.
    Waits,
    /// There is more to do at once.
    Again,
    /// Both sides have ended: remove the connection.
    Ended,
    /// The guest has reset or refused the connection.
    GuestReset,
    /// The host's side has failed: reset the guest's side.
    HostReset,
    /// The policy denies the connection after its first bytes.
    Denied(Box<Denial>),
}

pub(super) struct Flow {
    pub(super) key: Key,
    /// A unique number; indexes are reused.
    pub(super) serial: u64,
    pub(super) stage: Stage,
    pub(super) far: Far,
    pub(super) sockets: SocketSet<'static>,
    pub(super) handle: Option<SocketHandle>,
    /// The size of each of the two buffers in bytes.
    pub(super) buffer: usize,
    pub(super) inbound: bool,
    pub(super) readable: bool,
    pub(super) writable: bool,
    /// The check of the name in the first bytes, until it has passed.
    pub(super) check: NameCheck,
    /// Since when bytes are held back for the rest of a name.
    held: Option<Instant>,
    /// The name known from the policy or the first bytes.
    pub(super) name: Option<String>,
    /// The sequence number of the guest's first byte.
    first: Option<u32>,
    /// Whether the guest has shut down its sending side.
    guest_ended: bool,
    /// Whether this was passed on.
    passed_guest_end: bool,
    /// Whether the far side has ended, and this was passed on.
    passed_far_end: bool,
    pub(super) sent: u64,
    pub(super) received: u64,
    pub(super) since: Instant,
    pub(super) last: Instant,
    /// The time of its entry in the table of timers.
    pub(super) timer: Option<Instant>,
    /// Whether it is in the list of flows with work.
    pub(super) ready: bool,
}

impl Flow {
    pub(super) fn new(key: Key, serial: u64, stage: Stage, far: Far, now: Instant) -> Self {
        Self {
            key,
            serial,
            stage,
            far,
            sockets: SocketSet::new(Vec::with_capacity(1)),
            handle: None,
            buffer: 0,
            inbound: false,
            readable: false,
            writable: false,
            check: NameCheck::Any,
            held: None,
            name: None,
            first: None,
            guest_ended: false,
            passed_guest_end: false,
            passed_far_end: false,
            sent: 0,
            received: 0,
            since: now,
            last: now,
            timer: None,
            ready: false,
        }
    }

    /// Adds a closed socket of the stack, with two buffers of this many bytes.
    pub(super) fn socket(&mut self, buffer: usize, spare: &mut Spare) -> &mut Socket<'static> {
        if let Some(old) = self.take_socket() {
            spare.keep(old);
        }
        let mut socket = spare.socket(buffer);
        socket.set_ack_delay(Some(ACK_DELAY));
        // Programs on the host have already chosen the size of their segments.
        socket.set_nagle_enabled(false);
        socket.set_keep_alive(Some(KEEP_ALIVE));
        self.buffer = buffer;
        let handle = self.sockets.add(socket);
        self.handle = Some(handle);
        self.sockets.get_mut(handle)
    }

    /// Removes the stack's socket.
    pub(super) fn take_socket(&mut self) -> Option<Socket<'static>> {
        match self.sockets.remove(self.handle.take()?) {
            smoltcp::socket::Socket::Tcp(socket) => Some(socket),
            #[allow(
                unreachable_patterns,
                reason = "other features add other kinds of sockets"
            )]
            _ => None,
        }
    }

    fn parts(&mut self) -> Option<(&mut Socket<'static>, &mut Far)> {
        let handle = self.handle?;
        Some((self.sockets.get_mut(handle), &mut self.far))
    }

    pub(super) fn state(&self) -> Option<State> {
        self.handle
            .map(|handle| self.sockets.get::<Socket<'_>>(handle).state())
    }

    /// Returns whether the stack may process a segment: its data must fit into the free space of
    /// the buffer.
    ///
    /// smoltcp 0.14 scales the window of a SYN, which is never scaled, accepts segments far beyond
    /// its buffer as within its window until its next segment, and panics when it assembles their
    /// bytes.
    pub(super) fn fits(&self, segment: &[u8]) -> bool {
        let Some((sequence, length)) = sequence(segment) else {
            return false;
        };
        let Some(first) = self.first else {
            // Before the first sequence number is known, only a SYN without data is valid.
            return length == 0;
        };
        // Sequence numbers wrap; the buffer begins after the bytes taken from it.
        let begin = first.wrapping_add((self.sent & u64::from(u32::MAX)) as u32);
        let end = sequence
            .wrapping_add(length)
            .wrapping_sub(begin)
            .cast_signed();
        i64::from(end) <= self.buffer as i64
    }

    /// Updates the state after the guest's last segment.
    pub(super) fn observe(&mut self, segment: &[u8]) {
        const SYN: u8 = 2;
        if self.first.is_none()
            && segment.get(13).is_some_and(|flags| flags & SYN != 0)
            && !matches!(
                self.state(),
                None | Some(State::Listen | State::SynSent | State::Closed)
            )
        {
            self.first = sequence(segment).map(|(number, _)| number.wrapping_add(1));
        }
        if matches!(
            self.state(),
            Some(State::CloseWait | State::LastAck | State::Closing | State::TimeWait)
        ) {
            self.guest_ended = true;
        }
    }

    /// Returns when bytes have been held back long enough for the rest of a name.
    pub(super) fn held_until(&self) -> Option<Instant> {
        self.held.map(|since| since + HOLD)
    }

    /// Resets the guest's side.
    pub(super) fn abort(&mut self) {
        if let Some((socket, _)) = self.parts() {
            socket.abort();
        }
    }

    /// Resets the host's side, so that the peer does not mistake it for a normal end.
    pub(super) fn reset_far(&self) {
        if let Far::Host(stream) = &self.far {
            // If this fails, the socket is closed normally.
            let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
        }
    }

    /// Acknowledges at once, without the usual delay.
    pub(super) fn hurry(&mut self) {
        if let Some((socket, _)) = self.parts() {
            socket.set_ack_delay(None);
        }
    }

    /// Moves bytes in both directions.
    pub(super) fn turn(
        &mut self,
        policy: &Policy,
        questions: &mut Vec<Question>,
        now: Instant,
    ) -> Turn {
        match self.state() {
            None | Some(State::SynSent | State::SynReceived) => return Turn::Waits,
            // The state returned from SYN-RECEIVED.
            Some(State::Listen) => return Turn::GuestReset,
            Some(State::Closed) if !(self.guest_ended && self.passed_far_end) => {
                return Turn::GuestReset;
            }
            Some(_) => {}
        }
        if self.check != NameCheck::Any {
            match self.check_name(policy, now) {
                Ok(()) => {}
                Err(denial) => return Turn::Denied(denial),
            }
        }
        let (before_sent, before_received) = (self.sent, self.received);
        let again = match &self.far {
            Far::Host(_) => {
                let up = self.guest_to_host();
                let down = self.host_to_guest();
                match (up, down) {
                    (Ok(up), Ok(down)) => up || down,
                    _ => return Turn::HostReset,
                }
            }
            Far::Resolver(_) => {
                if !self.resolve(questions) {
                    return Turn::HostReset;
                }
                false
            }
        };
        if (before_sent, before_received) != (self.sent, self.received) {
            self.last = now;
        }
        match self.state() {
            Some(State::Closed | State::TimeWait) if self.passed_guest_end => Turn::Ended,
            _ if again => Turn::Again,
            _ => Turn::Waits,
        }
    }

    /// Reads the name in the first bytes, and checks it with the policy.
    fn check_name(&mut self, policy: &Policy, now: Instant) -> Result<(), Box<Denial>> {
        let (key, check) = (self.key, self.check);
        let ended = self.guest_ended;
        let over = self.held.is_some_and(|since| now >= since + HOLD);
        let Some((socket, _)) = self.parts() else {
            return Ok(());
        };
        let queued = socket.recv_queue();
        let full = queued >= socket.recv_capacity() || queued >= LONGEST;
        let bytes = socket.peek(LONGEST).unwrap_or_default();
        let names = match sniff(bytes) {
            Sniff::More if full || over || (ended && queued > 0) => {
                return Err(Denial::to(Protocol::Tcp, key.far, Reason::NameNotFound));
            }
            Sniff::More if !ended => {
                if queued > 0 {
                    self.held.get_or_insert(now);
                }
                return Ok(());
            }
            // A connection that ends without data asks for no name.
            Sniff::More | Sniff::Other => Vec::new(),
            Sniff::Names(names) => names,
        };
        for name in &names {
            policy.check_name(check, key.far, name)?;
        }
        if let Some(name) = names.into_iter().next() {
            self.name = Some(name);
        }
        self.check = NameCheck::Any;
        self.held = None;
        Ok(())
    }

    /// Writes the guest's bytes to the host. Returns whether there are more.
    fn guest_to_host(&mut self) -> io::Result<bool> {
        // Bytes that wait for a name stay in the buffer, and so does the end after them.
        if self.passed_guest_end || self.check != NameCheck::Any {
            return Ok(false);
        }
        let mut moved = 0;
        let mut writable = self.writable;
        let mut finished = false;
        let Some((socket, Far::Host(stream))) = self.parts() else {
            return Ok(false);
        };
        while writable && moved < TURN {
            let result = socket.recv(|bytes| {
                if bytes.is_empty() {
                    return (0, Ok(0));
                }
                match stream.write(bytes) {
                    Ok(count) => (count, Ok(count)),
                    Err(error) => (0, Err(error)),
                }
            });
            match result {
                Ok(Ok(0)) | Err(RecvError::InvalidState) => break,
                Ok(Ok(count)) => moved += count,
                Ok(Err(error)) => match error.kind() {
                    ErrorKind::WouldBlock => writable = false,
                    ErrorKind::Interrupted => {}
                    _ => return Err(error),
                },
                Err(RecvError::Finished) => {
                    finished = true;
                    break;
                }
            }
        }
        if finished {
            match stream.shutdown(Shutdown::Write) {
                // The other side has reset it; a read will report that.
                Err(error) if error.kind() == ErrorKind::NotConnected => {}
                result => result?,
            }
            self.passed_guest_end = true;
        }
        self.writable = writable;
        self.sent += moved as u64;
        Ok(writable && moved >= TURN)
    }

    /// Reads from the host into the buffer to the guest. Returns whether there are more bytes.
    fn host_to_guest(&mut self) -> io::Result<bool> {
        if self.passed_far_end {
            return Ok(false);
        }
        let mut moved = 0;
        let mut readable = self.readable;
        let mut finished = false;
        let Some((socket, Far::Host(stream))) = self.parts() else {
            return Ok(false);
        };
        while readable && !finished && moved < TURN && socket.can_send() {
            let result = socket.send(|space| match stream.read(space) {
                Ok(count) => (count, Ok(count)),
                Err(error) => (0, Err(error)),
            });
            match result {
                Ok(Ok(0)) => finished = true,
                Ok(Ok(count)) => moved += count,
                Ok(Err(error)) => match error.kind() {
                    ErrorKind::WouldBlock => readable = false,
                    ErrorKind::Interrupted => {}
                    _ => return Err(error),
                },
                Err(_) => break,
            }
        }
        if finished {
            socket.close();
            self.passed_far_end = true;
        }
        self.readable = readable;
        self.received += moved as u64;
        Ok(readable && !finished && moved >= TURN)
    }

    /// Passes queries to the resolver and its answers to the guest. Returns `false` if the data is
    /// not DNS.
    fn resolve(&mut self, questions: &mut Vec<Question>) -> bool {
        let (serial, guest_ended) = (self.serial, self.guest_ended);
        let (mut sent, mut received) = (0, 0);
        let Some((socket, Far::Resolver(resolver))) = self.parts() else {
            return false;
        };
        let mut finished = false;
        loop {
            while resolver.waiting < QUESTIONS && resolver.answers.len() < LONGEST {
                let Some(message) = resolver.next() else {
                    break;
                };
                if message.is_empty() {
                    return false;
                }
                resolver.waiting += 1;
                questions.push(Question {
                    client: Client::Connection(serial),
                    message,
                });
            }
            if resolver.received.len() > usize::from(u16::MAX) + 2 {
                break;
            }
            match socket.recv(|bytes| {
                resolver.received.extend_from_slice(bytes);
                (bytes.len(), bytes.len())
            }) {
                Ok(0) | Err(RecvError::InvalidState) => break,
                Ok(count) => sent += count as u64,
                Err(RecvError::Finished) => {
                    finished = true;
                    break;
                }
            }
        }
        while !resolver.answers.is_empty() {
            let (bytes, _) = resolver.answers.as_slices();
            match socket.send_slice(bytes) {
                Ok(0) | Err(_) => break,
                Ok(count) => {
                    resolver.answers.drain(..count);
                    received += count as u64;
                }
            }
        }
        let idle = resolver.waiting == 0 && resolver.answers.is_empty();
        if finished && guest_ended && idle {
            socket.close();
            self.passed_far_end = true;
            self.passed_guest_end = true;
        }
        self.sent += sent;
        self.received += received;
        true
    }

    /// Handles the resolver's answer.
    pub(super) fn answer(&mut self, message: &[u8]) {
        if let Far::Resolver(resolver) = &mut self.far
            && let Ok(length) = u16::try_from(message.len())
        {
            resolver.waiting = resolver.waiting.saturating_sub(1);
            if message.is_empty() {
                return;
            }
            resolver.answers.extend(length.to_be_bytes());
            resolver.answers.extend(message);
        }
    }
}

/// Returns a segment's sequence number and the length of its data.
fn sequence(segment: &[u8]) -> Option<(u32, u32)> {
    let number = u32::from_be_bytes(*segment.get(4..)?.first_chunk()?);
    let header = usize::from(segment.get(12)? >> 4) * 4;
    let length = segment.len().checked_sub(header)?;
    Some((number, u32::try_from(length).ok()?))
}

impl Resolver {
    /// Returns the next complete message.
    fn next(&mut self) -> Option<Vec<u8>> {
        let (length, rest) = self.received.split_first_chunk::<2>()?;
        let length = usize::from(u16::from_be_bytes(*length));
        let message = rest.get(..length)?.to_vec();
        self.received.drain(..2 + length);
        Some(message)
    }
}
