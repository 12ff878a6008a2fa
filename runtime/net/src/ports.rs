//! Published ports: listeners on the host, bound before the guest boots.

use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpListener as StdTcpListener, UdpSocket as StdUdpSocket};
use std::time::{Duration, Instant};

use blockbox_protocol::network::{BoundPort, Protocol};
use mio::net::{TcpListener, UdpSocket};
use mio::{Interest, Registry};

use crate::config::Config;
use crate::error::Error;
use crate::shared::Shared;
use crate::tcp::Tcp;
use crate::token::{self, Kind};
use crate::udp::Udp;

/// The most connections or datagrams that are accepted from a listener in one turn.
const TURN: usize = 64;
/// How long to pause after the system has run out of resources.
const PAUSE: Duration = Duration::from_millis(100);

enum Socket {
    Tcp(TcpListener),
    Udp(UdpSocket),
}

struct Listener {
    socket: Socket,
    guest: u16,
    readable: bool,
}

/// All published ports.
pub(crate) struct Ports {
    listeners: Vec<Listener>,
    buffer: Vec<u8>,
    /// Until when nothing is accepted, after the system has run out of resources.
    paused: Option<Instant>,
}

impl Ports {
    /// Binds all ports, or none.
    pub(crate) fn bind(
        config: &Config,
        registry: &Registry,
    ) -> Result<(Self, Vec<BoundPort>), Error> {
        let mut listeners = Vec::new();
        let mut bound = Vec::new();
        for publish in &config.publish {
            for (host, guest) in publish.pairs() {
                let protocol = publish.protocol();
                let address = SocketAddr::new(publish.address(), host);
                let failed = |source| Error::Bind {
                    protocol,
                    address,
                    source,
                };
                let (mut socket, at) = bind(protocol, address).map_err(failed)?;
                let token = token::pack(Kind::Listener, listeners.len());
                match &mut socket {
                    Socket::Tcp(socket) => registry.register(socket, token, Interest::READABLE),
                    Socket::Udp(socket) => registry.register(socket, token, Interest::READABLE),
                }
                .map_err(failed)?;
                bound.push(BoundPort::new(protocol, at, guest));
                listeners.push(Listener {
                    socket,
                    guest,
                    readable: false,
                });
            }
        }
        let ports = Self {
            listeners,
            buffer: vec![0; 65_535],
            paused: None,
        };
        Ok((ports, bound))
    }

    /// Records that a listener is ready.
    pub(crate) fn event(&mut self, index: usize) {
        if let Some(listener) = self.listeners.get_mut(index) {
            listener.readable = true;
        }
    }

    /// Returns whether a listener may have more to accept.
    pub(crate) fn is_ready(&self) -> bool {
        self.paused.is_none() && self.listeners.iter().any(|listener| listener.readable)
    }

    /// Returns when to try again after the system has run out of resources.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.paused
    }

    /// Accepts connections and datagrams.
    pub(crate) fn run(&mut self, tcp: &mut Tcp, udp: &mut Udp, shared: &mut Shared) {
        if self.paused.is_some_and(|until| until > shared.now) {
            return;
        }
        self.paused = None;
        for (index, listener) in self.listeners.iter_mut().enumerate() {
            for _ in 0..TURN {
                if !listener.readable || !shared.out.has_room() {
                    break;
                }
                let error = match &listener.socket {
                    Socket::Tcp(socket) => match socket.accept() {
                        Ok((stream, _)) => {
                            tcp.accept(stream, listener.guest, shared);
                            continue;
                        }
                        Err(error) => error,
                    },
                    Socket::Udp(socket) => match socket.recv_from(&mut self.buffer) {
                        Ok((count, peer)) => {
                            let data = self.buffer.get(..count).unwrap_or_default();
                            udp.publish(index, peer, listener.guest, data, shared);
                            continue;
                        }
                        Err(error) => error,
                    },
                };
                match error.kind() {
                    ErrorKind::WouldBlock => listener.readable = false,
                    // The peer has disconnected, or an earlier answer was not received: the next
                    // one may succeed.
                    ErrorKind::Interrupted
                    | ErrorKind::ConnectionAborted
                    | ErrorKind::ConnectionRefused
                    | ErrorKind::ConnectionReset => {}
                    // Most likely there are no descriptors left. Waiting connections stay in the
                    // queue.
                    _ => {
                        self.paused = Some(shared.now + PAUSE);
                        break;
                    }
                }
            }
        }
    }

    /// Sends the guest's datagram to a peer of a published port.
    pub(crate) fn send(&self, index: usize, peer: SocketAddr, data: &[u8]) {
        if let Some(Listener {
            socket: Socket::Udp(socket),
            ..
        }) = self.listeners.get(index)
        {
            // A full queue drops datagrams, as in any router; an error about a peer that is gone is
            // ignored.
            let _ = socket.send_to(data, peer);
        }
    }
}

fn bind(protocol: Protocol, address: SocketAddr) -> io::Result<(Socket, SocketAddr)> {
    match protocol {
        Protocol::Tcp => {
            let socket = StdTcpListener::bind(address)?;
            socket.set_nonblocking(true)?;
            let at = socket.local_addr()?;
            Ok((Socket::Tcp(TcpListener::from_std(socket)), at))
        }
        Protocol::Udp => {
            let socket = StdUdpSocket::bind(address)?;
            socket.set_nonblocking(true)?;
            let at = socket.local_addr()?;
            Ok((Socket::Udp(UdpSocket::from_std(socket)), at))
        }
        Protocol::Icmp => Err(ErrorKind::Unsupported.into()),
    }
}
