//! The main loop: handles frames and sockets on one thread, without blocking on any of them.

use std::os::unix::net::UnixStream as StdUnixStream;
use std::time::{Duration, Instant};

use blockbox_protocol::network::BoundPort;
use mio::net::UnixStream;
use mio::{Events, Interest, Poll};

use crate::config::Config;
use crate::control::{Control, Request, Response, Status};
use crate::dns::Dns;
use crate::dns::question::Client;
use crate::echo::Echo;
use crate::error::Error;
use crate::frame::{ETHERNET, ETHERTYPE_ARP, ETHERTYPE_IPV4, ETHERTYPE_IPV6, Input};
use crate::link;
use crate::packet::{self, Packet};
use crate::policy::Policy;
use crate::ports::Ports;
use crate::reassembly::Reassembly;
use crate::shared::Shared;
use crate::tcp::Tcp;
use crate::token::{self, Kind};
use crate::udp::Udp;

/// The most frames that are handled in one turn before sockets.
const TURN: usize = 256;
/// The longest sleep. A gateway without flows does not wake up by itself.
const SLEEP: Duration = Duration::from_secs(3600);

/// The bound ports of a gateway.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[non_exhaustive]
pub struct Bound {
    /// Published ports, with the numbers chosen for free ports.
    pub ports: Vec<BoundPort>,
}

/// The network gateway of one sandbox.
///
/// It is the guest's router and name server, and makes the guest's connections with sockets of the
/// host.
pub struct Gateway {
    poll: Poll,
    events: Events,
    frames: UnixStream,
    /// Whether the poll reports when the link accepts frames again.
    awaits_room: bool,
    input: Input,
    control: Control,
    shared: Shared,
    reassembly: Reassembly,
    tcp: Tcp,
    udp: Udp,
    echo: Echo,
    dns: Dns,
    ports: Ports,
    bound: Bound,
    dropped: u64,
}

impl Gateway {
    /// Makes a gateway and binds its published ports; no data is moved before [`Gateway::run`].
    ///
    /// `frames` is connected to the machine monitor: four bytes of length, big-endian, precede each
    /// Ethernet frame. `control` carries [`Request`]s and [`Response`]s.
    ///
    /// # Errors
    ///
    /// [`Error::Bind`] names the port that cannot be published; no port is bound then.
    pub fn new(
        config: Config,
        frames: StdUnixStream,
        control: StdUnixStream,
    ) -> Result<(Self, Bound), Error> {
        let setup = Error::io;
        config
            .addresses
            .check()
            .map_err(|address| Error::Address { address })?;
        let poll = Poll::new().map_err(setup("cannot wait for events"))?;
        let registry = poll
            .registry()
            .try_clone()
            .map_err(setup("cannot wait for events"))?;
        let (ports, bound) = Ports::bind(&config, &registry)?;
        let bound = Bound { ports: bound };
        let both = Interest::READABLE | Interest::WRITABLE;
        frames
            .set_nonblocking(true)
            .map_err(setup("cannot use the link to the guest"))?;
        let mut frames = UnixStream::from_std(frames);
        registry
            .register(
                &mut frames,
                token::pack(Kind::Frames, 0),
                Interest::READABLE,
            )
            .map_err(setup("cannot use the link to the guest"))?;
        control
            .set_nonblocking(true)
            .map_err(setup("cannot use the control socket"))?;
        let mut control = Control::new(UnixStream::from_std(control));
        registry
            .register(control.stream(), token::pack(Kind::Control, 0), both)
            .map_err(setup("cannot use the control socket"))?;
        let policy = Policy::new(&config);
        let mut shared = Shared::new(config.addresses, config.limits, policy, registry);
        let gateway = Self {
            poll,
            events: Events::with_capacity(256),
            frames,
            awaits_room: false,
            input: Input::new(),
            control,
            reassembly: Reassembly::default(),
            tcp: Tcp::new(&mut shared),
            udp: Udp::new(shared.now),
            echo: Echo::default(),
            dns: Dns::new(config.resolver, config.extra_hosts),
            ports,
            bound: bound.clone(),
            dropped: 0,
            shared,
        };
        Ok((gateway, bound))
    }

    /// Runs until the guest's machine closes the link, the control socket closes, or
    /// [`Request::Shutdown`] arrives.
    ///
    /// # Errors
    ///
    /// If the link carries no valid frames, or a system error affects more than one connection.
    pub fn run(mut self) -> Result<(), Error> {
        while self.turn(SLEEP)? {}
        Ok(())
    }

    /// Runs one turn of the loop, after waiting at most `limit` for events. Returns whether to
    /// continue.
    ///
    /// # Errors
    ///
    /// As [`Gateway::run`].
    #[doc(hidden)]
    pub fn turn(&mut self, limit: Duration) -> Result<bool, Error> {
        self.await_room()?;
        self.shared.now = Instant::now();
        let sleep = self.sleep().min(limit);
        if let Err(error) = self.poll.poll(&mut self.events, Some(sleep))
            && error.kind() != std::io::ErrorKind::Interrupted
        {
            return Err(Error::io("cannot wait for events")(error));
        }
        self.shared.now = Instant::now();
        for event in self.events.iter() {
            let Some((kind, index)) = token::unpack(event.token()) else {
                continue;
            };
            let closed = event.is_read_closed() || event.is_error();
            let readable = event.is_readable() || closed;
            let writable = event.is_writable() || event.is_write_closed() || event.is_error();
            match kind {
                Kind::Frames => {
                    self.input.readable |= readable;
                    self.input.closing |= closed;
                    self.shared.out.writable |= writable;
                }
                Kind::Control => {
                    self.control.readable |= readable;
                    self.control.writable |= writable;
                }
                Kind::Listener => self.ports.event(index),
                Kind::Tcp => self.tcp.event(index, readable, writable, &mut self.shared),
                Kind::Udp => self.udp.event(index),
                Kind::Echo => self.echo.event(index, &mut self.shared),
                Kind::Dns => self.dns.event(index, &mut self.shared),
            }
        }
        self.flush()?;
        let mut going = self.take_frames()?;
        self.ports
            .run(&mut self.tcp, &mut self.udp, &mut self.shared);
        self.udp.run(&mut self.shared);
        self.tcp.run(&mut self.shared);
        self.questions();
        self.dns.run(&mut self.shared);
        self.answers();
        going &= self.flush()?;
        going &= self.requests()?;
        Ok(going)
    }

    /// Requests an event when the link accepts frames again, but only while it does not: otherwise
    /// each frame that the guest's machine reads would wake the gateway up needlessly.
    fn await_room(&mut self) -> Result<(), Error> {
        let blocked = !self.shared.out.writable;
        if blocked != self.awaits_room {
            let interest = match blocked {
                true => Interest::READABLE | Interest::WRITABLE,
                false => Interest::READABLE,
            };
            let token = token::pack(Kind::Frames, 0);
            self.poll
                .registry()
                .reregister(&mut self.frames, token, interest)
                .map_err(Error::io("cannot wait for the link to the guest"))?;
            self.awaits_room = blocked;
        }
        Ok(())
    }

    /// Returns how long to wait for events.
    fn sleep(&self) -> Duration {
        let room = self.shared.out.has_room();
        let busy = self.input.readable
            || (room && (self.tcp.is_ready() || self.udp.is_ready() || self.ports.is_ready()));
        if busy {
            return Duration::ZERO;
        }
        let deadlines = [
            self.tcp.deadline(),
            self.udp.deadline(),
            self.dns.deadline(),
            self.ports.deadline(),
        ];
        let next = deadlines.into_iter().flatten().min();
        next.map_or(SLEEP, |next| {
            // A little late rather than too early, which would cause a useless turn.
            let wait = next.saturating_duration_since(self.shared.now) + Duration::from_micros(100);
            wait.min(SLEEP)
        })
    }

    /// Handles frames of the guest. Returns whether its machine is still connected.
    fn take_frames(&mut self) -> Result<bool, Error> {
        for _ in 0..TURN {
            let frame = match self.input.next_frame() {
                Ok(Some(frame)) => frame,
                Ok(None) => {
                    if self.input.ended {
                        return Ok(false);
                    }
                    if !self.input.readable {
                        return Ok(true);
                    }
                    self.input
                        .fill(&mut self.frames)
                        .map_err(Error::io("cannot read from the link to the guest"))?;
                    continue;
                }
                Err(length) => return Err(Error::Frame { length }),
            };
            // The handlers change the gateway while they borrow the frame.
            let input = std::mem::replace(&mut self.input, Input::empty());
            self.frame(input.bytes(frame));
            self.input = input;
            self.questions();
        }
        Ok(true)
    }

    fn frame(&mut self, bytes: &[u8]) {
        let Some((header, body)) = bytes.split_first_chunk::<ETHERNET>() else {
            self.dropped += 1;
            return;
        };
        let to_group = header[0] & 1 != 0;
        if !to_group && header[..6] != self.shared.addresses.gateway_mac.0 {
            self.dropped += 1;
            return;
        }
        match u16::from_be_bytes([header[12], header[13]]) {
            ETHERTYPE_ARP => link::arp(&self.shared.addresses, body, &mut self.shared.out),
            ETHERTYPE_IPV4 | ETHERTYPE_IPV6 => match Packet::parse(body) {
                Some(packet) if packet.fragment.is_some() => {
                    if let Some(whole) = self.reassembly.add(&packet, self.shared.now)
                        && let Some(packet) = Packet::parse(&whole)
                    {
                        self.packet(&packet);
                    }
                }
                Some(packet) => self.packet(&packet),
                None => self.dropped += 1,
            },
            _ => self.dropped += 1,
        }
    }

    fn packet(&mut self, packet: &Packet<'_>) {
        let shared = &mut self.shared;
        if link::neighbour(&shared.addresses, packet, &mut shared.out) {
            return;
        }
        if !link::is_guests(&shared.addresses, packet.source) {
            self.dropped += 1;
            return;
        }
        match packet.protocol {
            packet::TCP => self.tcp.segment(packet, shared),
            packet::UDP => {
                if let Some((listener, peer, data)) = self.udp.datagram(packet, shared) {
                    self.ports.send(listener, peer, data);
                }
            }
            packet::ICMPV4 | packet::ICMPV6 => {
                if !self.echo.message(packet, shared) {
                    let no_port = match packet.protocol {
                        packet::ICMPV4 => [3, 3],
                        _ => [1, 4],
                    };
                    if packet.payload.starts_with(&no_port)
                        && let Some(quoted) = packet.payload.get(8..)
                    {
                        self.udp.refused(quoted, shared);
                    }
                }
            }
            _ => self.dropped += 1,
        }
    }

    /// Passes the guest's queries to the resolver.
    fn questions(&mut self) {
        for question in std::mem::take(&mut self.shared.questions) {
            self.dns.ask(question, &mut self.shared);
        }
    }

    /// Passes the resolver's answers to the guest.
    fn answers(&mut self) {
        for (client, message) in std::mem::take(&mut self.dns.answers) {
            match client {
                Client::Datagram { guest, to } if !message.is_empty() => {
                    self.shared.datagram(to, guest, &message);
                }
                Client::Datagram { .. } => {}
                Client::Connection(serial) => self.tcp.answer(serial, &message),
            }
        }
    }

    /// Sends queued frames to the guest. Returns whether its machine is still connected.
    fn flush(&mut self) -> Result<bool, Error> {
        self.shared
            .out
            .flush(&mut self.frames)
            .map_err(Error::io("cannot write to the link to the guest"))
    }

    /// Answers requests. Returns whether to continue.
    fn requests(&mut self) -> Result<bool, Error> {
        let broken = "cannot use the control socket";
        while let Some(request) = self.control.next().map_err(Error::io(broken))? {
            let mut going = true;
            let response = match request {
                Ok(Request::Status) => Response::Status(Box::new(self.status())),
                Ok(Request::Resolver { data }) => {
                    self.dns.replace(data);
                    Response::Done
                }
                Ok(Request::HostAddresses { addresses }) => {
                    self.shared.policy.host_addresses = addresses;
                    Response::Done
                }
                Ok(Request::Shutdown) => {
                    going = false;
                    Response::Done
                }
                Err(error) => Response::Error {
                    message: error.to_string(),
                },
            };
            self.control.answer(&response).map_err(Error::io(broken))?;
            if !going {
                return Ok(false);
            }
        }
        Ok(!self.control.ended)
    }

    /// Returns the status.
    pub fn status(&self) -> Status {
        let now = self.shared.now;
        let flows: Vec<_> = self.tcp.flows(now).chain(self.udp.flows(now)).collect();
        let (sent, received) = flows.iter().fold((0, 0), |(sent, received), flow| {
            (sent + flow.sent, received + flow.received)
        });
        Status {
            ports: self.bound.ports.clone(),
            tcp_total: self.tcp.total,
            udp_total: self.udp.total,
            dns_total: self.dns.total,
            sent: sent + self.tcp.sent + self.udp.sent,
            received: received + self.tcp.received + self.udp.received,
            buffer_bytes: self.tcp.buffered(),
            dropped_frames: self.dropped,
            denials_total: self.shared.denials.total,
            denials: self.shared.denials.list(),
            flows,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    #[test]
    fn a_link_that_closes_right_after_its_last_bytes_ends_the_gateway() {
        let (frames, mut machine) = StdUnixStream::pair().unwrap();
        let (control, _client) = StdUnixStream::pair().unwrap();
        let (mut gateway, _) = Gateway::new(Config::new(), frames, control).unwrap();
        machine.write_all(&[0, 0, 0, 2, 0xff, 0xff]).unwrap();
        drop(machine);
        let limit = Duration::from_millis(200);
        let ended = (0..5).any(|_| !gateway.turn(limit).unwrap());
        assert!(ended, "the end was not read after the bytes");
    }

    #[test]
    fn a_frame_that_the_machine_reads_does_not_wake_the_gateway() {
        let (frames, mut machine) = StdUnixStream::pair().unwrap();
        let (control, _client) = StdUnixStream::pair().unwrap();
        let config = Config::new();
        let addresses = config.addresses;
        let (mut gateway, _) = Gateway::new(config, frames, control).unwrap();
        let arp = [
            &[0xff; 6][..],
            &addresses.guest_mac.0,
            &[8, 6, 0, 1, 8, 0, 6, 4, 0, 1],
            &addresses.guest_mac.0,
            &addresses.guest_v4.octets(),
            &[0; 6],
            &addresses.gateway_v4.octets(),
        ]
        .concat();
        let length = u32::try_from(arp.len()).unwrap().to_be_bytes();
        machine.write_all(&[&length[..], &arp].concat()).unwrap();
        while gateway.shared.out.frames == 0 {
            assert!(gateway.turn(Duration::from_secs(60)).unwrap());
        }
        // Handles the initial events of newly registered sockets.
        assert!(gateway.turn(Duration::ZERO).unwrap());

        assert!(machine.read(&mut [0; 2048]).unwrap() > 0);
        let limit = Duration::from_millis(200);
        let start = Instant::now();
        assert!(gateway.turn(limit).unwrap());
        assert!(start.elapsed() >= limit);
    }
}
