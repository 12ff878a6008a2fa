//! A query to the host's name servers: the order of servers, timeouts, and transports.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use mio::net::{TcpStream, UdpSocket};
use mio::{Interest, Registry, Token};

use crate::config::Nameserver;
use crate::udp;

/// The most servers, as in glibc.
const SERVERS: usize = 3;
/// How long to wait for a server before the next one is tried as well.
const STEP: Duration = Duration::from_secs(1);
/// How long a query waits in total: a program repeats it after five seconds.
pub(super) const PATIENCE: Duration = Duration::from_secs(9);
/// The longest message in bytes.
const LONGEST: usize = 65_535;

/// An attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Attempt {
    pub(super) server: SocketAddr,
    pub(super) stream: bool,
}

/// Returns the attempts for a name in order: each server once, then each again.
///
/// The servers are those with the longest domain that contains the name; if there are none, those
/// without domains. Servers that did not answer lately come last.
pub(super) fn attempts(
    servers: &[Nameserver],
    name: &str,
    stream: bool,
    is_down: impl Fn(SocketAddr) -> bool,
) -> VecDeque<Attempt> {
    let length = |server: &Nameserver| {
        server
            .domains
            .iter()
            .filter(|domain| contains(domain, name))
            .map(|domain| domain.len() + 1)
            .max()
            .or(server.domains.is_empty().then_some(0))
    };
    let longest = servers.iter().filter_map(length).max();
    let mut chosen: Vec<SocketAddr> = servers
        .iter()
        .filter(|server| longest.is_some() && length(server) == longest)
        .map(|server| server.address)
        .take(SERVERS)
        .collect();
    chosen.sort_by_key(|server| is_down(*server));
    // A query over a stream is repeated over UDP if no server supports streams.
    [stream, false]
        .into_iter()
        .flat_map(|stream| {
            chosen.iter().map(move |server| Attempt {
                server: *server,
                stream,
            })
        })
        .collect()
}

/// Returns whether the name is the domain or below it.
pub(super) fn contains(domain: &str, name: &str) -> bool {
    name.strip_suffix(domain)
        .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
        || domain.is_empty()
}

enum Transport {
    Datagram(UdpSocket),
    Stream {
        stream: TcpStream,
        message: Vec<u8>,
        sent: usize,
        received: Vec<u8>,
    },
}

/// A server with a pending query.
pub(super) struct Upstream {
    pub(super) attempt: Attempt,
    transport: Transport,
}

/// The attempts of one query.
pub(super) struct Race {
    pub(super) attempts: VecDeque<Attempt>,
    pub(super) asked: Vec<Upstream>,
    /// When the next server is tried.
    pub(super) next: Instant,
    /// When the query is abandoned.
    pub(super) until: Instant,
}

impl Race {
    pub(super) fn new(attempts: VecDeque<Attempt>, now: Instant) -> Self {
        Self {
            attempts,
            asked: Vec::new(),
            next: now,
            until: now + PATIENCE,
        }
    }

    /// Tries the next server. Returns `false` if there is none left.
    pub(super) fn ask(
        &mut self,
        message: &[u8],
        registry: &Registry,
        token: Token,
        now: Instant,
    ) -> bool {
        while let Some(attempt) = self.attempts.pop_front() {
            if let Ok(transport) = Transport::open(attempt, message, registry, token) {
                self.asked.push(Upstream { attempt, transport });
                self.next = now + STEP;
                return true;
            }
        }
        self.next = self.until;
        false
    }
}

impl Transport {
    fn open(
        attempt: Attempt,
        message: &[u8],
        registry: &Registry,
        token: Token,
    ) -> io::Result<Self> {
        if attempt.stream {
            let mut stream = TcpStream::connect(attempt.server)?;
            registry.register(&mut stream, token, Interest::READABLE | Interest::WRITABLE)?;
            let length = u16::try_from(message.len()).map_err(|_| ErrorKind::InvalidInput)?;
            let mut bytes = length.to_be_bytes().to_vec();
            bytes.extend_from_slice(message);
            return Ok(Self::Stream {
                stream,
                message: bytes,
                sent: 0,
                received: Vec::new(),
            });
        }
        let mut socket = udp::connect(attempt.server)?;
        registry.register(&mut socket, token, Interest::READABLE)?;
        socket.send(message)?;
        Ok(Self::Datagram(socket))
    }
}

impl Upstream {
    /// Reads the next message. `Ok(None)`: none yet. An error: the server will not answer.
    pub(super) fn read(&mut self, buffer: &mut [u8]) -> io::Result<Option<Vec<u8>>> {
        match &mut self.transport {
            Transport::Datagram(socket) => match socket.recv(buffer) {
                Ok(count) => Ok(buffer.get(..count).map(<[u8]>::to_vec)),
                Err(error) if is_pending(&error) => Ok(None),
                Err(error) => Err(error),
            },
            Transport::Stream {
                stream,
                message,
                sent,
                received,
            } => {
                if let Some(error) = stream.take_error()? {
                    return Err(error);
                }
                while let Some(rest) = message.get(*sent..).filter(|rest| !rest.is_empty()) {
                    match stream.write(rest) {
                        Ok(count) => *sent += count,
                        Err(error) if is_pending(&error) => return Ok(None),
                        Err(error) => return Err(error),
                    }
                }
                loop {
                    if let Some((length, rest)) = received.split_first_chunk::<2>() {
                        let length = usize::from(u16::from_be_bytes(*length));
                        if let Some(whole) = rest.get(..length) {
                            return Ok(Some(whole.to_vec()));
                        }
                    }
                    match stream.read(buffer) {
                        Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                        Ok(count) => {
                            received.extend_from_slice(buffer.get(..count).unwrap_or_default())
                        }
                        Err(error) if is_pending(&error) => return Ok(None),
                        Err(error) => return Err(error),
                    }
                    if received.len() > 2 + 2 * LONGEST {
                        return Err(ErrorKind::InvalidData.into());
                    }
                }
            }
        }
    }
}

fn is_pending(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::WouldBlock | ErrorKind::Interrupted | ErrorKind::NotConnected
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(last: u8, domains: &[&str]) -> Nameserver {
        Nameserver::new(([127, 0, 0, last], 53).into())
            .domains(domains.iter().map(|domain| (*domain).to_owned()))
    }

    fn order(name: &str, down: u8) -> Vec<u8> {
        let servers = [
            server(1, &[]),
            server(2, &[]),
            server(3, &["corp.example"]),
            server(4, &["eu.corp.example", "other"]),
        ];
        attempts(&servers, name, false, |address| {
            address == ([127, 0, 0, down], 53).into()
        })
        .iter()
        .map(|attempt| match attempt.server {
            SocketAddr::V4(address) => address.ip().octets()[3],
            SocketAddr::V6(_) => 0,
        })
        .collect()
    }

    #[test]
    fn only_the_server_with_the_longest_domain_is_tried() {
        assert_eq!(order("example.org", 0), [1, 2, 1, 2]);
        assert_eq!(order("corp.example", 0), [3, 3]);
        assert_eq!(order("a.corp.example", 0), [3, 3]);
        assert_eq!(order("a.eu.corp.example", 0), [4, 4]);
        assert_eq!(order("badcorp.example", 0), [1, 2, 1, 2]);
        assert_eq!(order("other", 0), [4, 4]);
    }

    #[test]
    fn a_server_that_did_not_answer_comes_last() {
        assert_eq!(order("example.org", 1), [2, 1, 2, 1]);
    }
}
