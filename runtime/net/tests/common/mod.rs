//! A guest that runs smoltcp in this process, at the other end of the gateway's socket.

// Every test binary uses a part of this module.
#![allow(dead_code, reason = "each test binary uses its own part")]

#[cfg(target_os = "linux")]
pub(crate) mod lab;
pub(crate) mod upstream;

use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use blockbox_net::{Addresses, Bound, Config, Error, Gateway, Request, Response, Status};
use smoltcp::iface::{Config as StackConfig, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::tcp::{Socket, SocketBuffer, State};
use smoltcp::socket::udp;
use smoltcp::time::Instant as StackInstant;
use smoltcp::wire::{EthernetAddress, IpCidr, IpEndpoint};

/// The timeout of every wait.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A gateway on a separate thread, and its control socket.
pub(crate) struct Running {
    control: UnixStream,
    thread: Option<std::thread::JoinHandle<Result<(), Error>>>,
    pub(crate) bound: Bound,
}

impl Running {
    /// Starts a gateway. Also returns the monitor's end of its link.
    pub(crate) fn start(config: Config) -> (Self, UnixStream) {
        let (frames, link) = UnixStream::pair().unwrap();
        let (control, ours) = UnixStream::pair().unwrap();
        let (gateway, bound) = Gateway::new(config, frames, control).unwrap();
        let thread = Some(std::thread::spawn(move || {
            // Confined as in a separate process, so that the tests use only what a confined gateway
            // can do.
            blockbox_net::confine::enforce().unwrap();
            gateway.run()
        }));
        ours.set_read_timeout(Some(PATIENCE)).unwrap();
        let running = Self {
            control: ours,
            thread,
            bound,
        };
        (running, link)
    }

    /// Sends a request to the gateway, and returns its answer.
    pub(crate) fn ask(&mut self, request: &Request) -> Response {
        let mut line = serde_json::to_vec(request).unwrap();
        line.push(b'\n');
        self.ask_raw(&line)
    }

    /// Sends these bytes, and reads one answer.
    pub(crate) fn ask_raw(&mut self, line: &[u8]) -> Response {
        self.control.write_all(line).unwrap();
        let mut answer = Vec::new();
        let mut byte = [0];
        while answer.last() != Some(&b'\n') {
            self.control.read_exact(&mut byte).unwrap();
            answer.push(byte[0]);
        }
        serde_json::from_slice(&answer).unwrap()
    }

    pub(crate) fn status(&mut self) -> Status {
        match self.ask(&Request::Status) {
            Response::Status(status) => *status,
            other => panic!("{other:?}"),
        }
    }

    /// Waits until the status meets the condition.
    pub(crate) fn status_where(&mut self, mut wanted: impl FnMut(&Status) -> bool) -> Status {
        let start = Instant::now();
        loop {
            let status = self.status();
            if wanted(&status) {
                return status;
            }
            assert!(start.elapsed() < PATIENCE, "{status:#?}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Ends the gateway, and checks that it did not fail.
    pub(crate) fn end(mut self) {
        assert_eq!(self.ask(&Request::Shutdown), Response::Done);
        self.join().unwrap();
    }

    /// Returns the result of the gateway's thread.
    pub(crate) fn join(&mut self) -> Result<(), Error> {
        self.thread.take().unwrap().join().unwrap()
    }
}

/// The guest's network card, which sends each frame after its length.
pub(crate) struct Card {
    stream: UnixStream,
    input: Vec<u8>,
    output: Vec<u8>,
    /// Frames are kept for the test and not passed to the stack.
    pub(crate) paused: bool,
    /// If not zero, each frame is followed by a copy with changed bytes, chosen by this state.
    pub(crate) noise: u32,
}

impl Card {
    fn flush(&mut self) {
        while !self.output.is_empty() {
            match self.stream.write(&self.output) {
                Ok(count) => drop(self.output.drain(..count)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == ErrorKind::BrokenPipe => return,
                Err(error) => panic!("{error}"),
            }
        }
    }

    fn frame(&mut self) -> Option<Vec<u8>> {
        loop {
            if let Some((length, rest)) = self.input.split_first_chunk::<4>() {
                let length = u32::from_be_bytes(*length) as usize;
                if rest.len() >= length {
                    let frame = rest[..length].to_vec();
                    self.input.drain(..4 + length);
                    return Some(frame);
                }
            }
            if self.paused {
                return None;
            }
            let mut bytes = [0; 64 << 10];
            match self.stream.read(&mut bytes) {
                Ok(0) => return None,
                Ok(count) => self.input.extend_from_slice(&bytes[..count]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return None,
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return None,
                Err(error) => panic!("{error}"),
            }
        }
    }

    fn random(&mut self) -> u32 {
        self.noise = self
            .noise
            .wrapping_mul(1_664_525)
            .wrapping_add(1_013_904_223)
            | 1;
        self.noise >> 16
    }

    /// Returns whether frames wait because the gateway does not read them.
    pub(crate) fn is_full(&self) -> bool {
        !self.output.is_empty()
    }

    /// Sends a frame unchanged.
    pub(crate) fn send(&mut self, frame: &[u8]) {
        self.output
            .extend_from_slice(&u32::try_from(frame.len()).unwrap().to_be_bytes());
        self.output.extend_from_slice(frame);
        self.flush();
    }
}

pub(crate) struct Rx(Vec<u8>);
pub(crate) struct Tx<'a>(&'a mut Card);

impl RxToken for Rx {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, read: F) -> R {
        read(&self.0)
    }
}

impl TxToken for Tx<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, emit: F) -> R {
        let mut frame = vec![0; length];
        let result = emit(&mut frame);
        self.0.send(&frame);
        if self.0.noise != 0 {
            for _ in 0..=self.0.random() % 3 {
                let place = self.0.random() as usize % frame.len();
                // Changes mostly the headers.
                let place = if !self.0.random().is_multiple_of(4) {
                    place % 60
                } else {
                    place
                };
                let value = self.0.random() as u8;
                if let Some(byte) = frame.get_mut(place) {
                    *byte = value;
                }
            }
            self.0.send(&frame);
        }
        result
    }
}

impl Device for Card {
    type RxToken<'a> = Rx;
    type TxToken<'a> = Tx<'a>;

    fn receive(&mut self, _: StackInstant) -> Option<(Rx, Tx<'_>)> {
        let frame = self.frame()?;
        Some((Rx(frame), Tx(self)))
    }

    fn transmit(&mut self, _: StackInstant) -> Option<Tx<'_>> {
        (self.output.len() < 256 << 10).then_some(Tx(self))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = 1514;
        capabilities
    }
}

/// The guest's network stack.
pub(crate) struct Guest {
    pub(crate) card: Card,
    pub(crate) interface: Interface,
    pub(crate) sockets: SocketSet<'static>,
    started: Instant,
    port: u16,
}

impl Guest {
    pub(crate) fn new(stream: UnixStream) -> Self {
        stream.set_nonblocking(true).unwrap();
        let addresses = Addresses::default();
        let mut card = Card {
            stream,
            input: Vec::new(),
            output: Vec::new(),
            paused: false,
            noise: 0,
        };
        let mac = EthernetAddress(addresses.guest_mac.0);
        let mut interface =
            Interface::new(StackConfig::new(mac.into()), &mut card, StackInstant::ZERO);
        interface.update_ip_addrs(|own| {
            own.push(IpCidr::new(addresses.guest_v4.into(), 24))
                .unwrap();
            own.push(IpCidr::new(addresses.guest_v6.into(), 64))
                .unwrap();
        });
        let routes = interface.routes_mut();
        routes.add_default_ipv4_route(addresses.gateway_v4).unwrap();
        routes.add_default_ipv6_route(addresses.gateway_v6).unwrap();
        Self {
            card,
            interface,
            sockets: SocketSet::new(Vec::new()),
            started: Instant::now(),
            port: 40_000,
        }
    }

    /// Runs the stack until the condition holds.
    #[track_caller]
    pub(crate) fn until(&mut self, mut done: impl FnMut(&mut SocketSet<'static>) -> bool) {
        let start = Instant::now();
        while !done(&mut self.sockets) {
            assert!(start.elapsed() < PATIENCE, "the guest waits in vain");
            self.poll();
        }
    }

    /// Runs the stack for a time.
    pub(crate) fn work_for(&mut self, time: Duration) {
        let start = Instant::now();
        while start.elapsed() < time {
            self.poll();
        }
    }

    pub(crate) fn poll(&mut self) {
        if !self.poll_now() {
            std::thread::sleep(Duration::from_micros(200));
        }
    }

    /// Handles what has arrived. Returns whether there was anything.
    pub(crate) fn poll_now(&mut self) -> bool {
        let micros = i64::try_from(self.started.elapsed().as_micros()).unwrap();
        let now = StackInstant::from_micros(micros);
        self.card.flush();
        let result = self.interface.poll(now, &mut self.card, &mut self.sockets);
        result != smoltcp::iface::PollResult::None
    }

    /// Begins to connect, without waiting.
    pub(crate) fn connect(&mut self, to: SocketAddr) -> SocketHandle {
        let space = || SocketBuffer::new(vec![0; 64 << 10]);
        let mut socket = Socket::new(space(), space());
        self.port = self.port.checked_add(1).unwrap_or(20_000);
        let to = IpEndpoint::new(to.ip().into(), to.port());
        socket
            .connect(self.interface.context(), to, self.port)
            .unwrap();
        self.sockets.add(socket)
    }

    pub(crate) fn tcp(&mut self, handle: SocketHandle) -> &mut Socket<'static> {
        self.sockets.get_mut(handle)
    }

    /// Connects, and waits for the connection.
    #[track_caller]
    pub(crate) fn connected(&mut self, to: SocketAddr) -> SocketHandle {
        let handle = self.connect(to);
        self.until(|sockets| sockets.get::<Socket<'_>>(handle).state() == State::Established);
        handle
    }

    #[track_caller]
    pub(crate) fn send(&mut self, handle: SocketHandle, mut bytes: &[u8]) {
        self.until(|sockets| {
            let socket = sockets.get_mut::<Socket<'_>>(handle);
            bytes = &bytes[socket.send_slice(bytes).unwrap()..];
            bytes.is_empty() && socket.send_queue() == 0
        });
    }

    /// Reads until the peer closes the connection.
    #[track_caller]
    pub(crate) fn read_to_end(&mut self, handle: SocketHandle) -> Vec<u8> {
        let mut all = Vec::new();
        self.until(|sockets| {
            let state = sockets.get::<Socket<'_>>(handle).state();
            !matches!(state, State::Listen | State::SynSent | State::SynReceived)
        });
        self.until(|sockets| {
            let socket = sockets.get_mut::<Socket<'_>>(handle);
            while socket.can_recv() {
                socket
                    .recv(|bytes| {
                        all.extend_from_slice(bytes);
                        (bytes.len(), ())
                    })
                    .unwrap();
            }
            !socket.may_recv()
        });
        all
    }

    /// Reads exactly `count` bytes.
    #[track_caller]
    pub(crate) fn read(&mut self, handle: SocketHandle, count: usize) -> Vec<u8> {
        let mut all = vec![0; count];
        let mut done = 0;
        self.until(|sockets| {
            let socket = sockets.get_mut::<Socket<'_>>(handle);
            if let Ok(read) = socket.recv_slice(&mut all[done..]) {
                done += read;
            }
            done == count
        });
        all
    }

    /// Opens a UDP socket.
    pub(crate) fn udp(&mut self) -> SocketHandle {
        let space =
            || udp::PacketBuffer::new(vec![udp::PacketMetadata::EMPTY; 16], vec![0; 64 << 10]);
        let mut socket = udp::Socket::new(space(), space());
        self.port = self.port.checked_add(1).unwrap_or(20_000);
        socket.bind(self.port).unwrap();
        self.sockets.add(socket)
    }

    pub(crate) fn send_to(&mut self, handle: SocketHandle, to: SocketAddr, data: &[u8]) {
        let to = IpEndpoint::new(to.ip().into(), to.port());
        self.sockets
            .get_mut::<udp::Socket<'_>>(handle)
            .send_slice(data, to)
            .unwrap();
    }

    #[track_caller]
    pub(crate) fn receive(&mut self, handle: SocketHandle) -> (Vec<u8>, SocketAddr) {
        let mut result = None;
        self.until(|sockets| {
            result = sockets
                .get_mut::<udp::Socket<'_>>(handle)
                .recv()
                .ok()
                .map(|(data, from)| {
                    let from = from.endpoint;
                    (data.to_vec(), SocketAddr::new(from.addr.into(), from.port))
                });
            result.is_some()
        });
        result.unwrap()
    }
}

/// Returns the address of the host's loopback interface in the guest.
pub(crate) fn host(port: u16) -> SocketAddr {
    (Addresses::default().host_v4, port).into()
}

pub(crate) fn host_v6(port: u16) -> SocketAddr {
    (Addresses::default().host_v6, port).into()
}
