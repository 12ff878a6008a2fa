//! The control socket: one JSON object per line, in both directions.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr};

use blockbox_protocol::network::{BoundPort, Protocol};
use mio::net::UnixStream;
use serde::{Deserialize, Serialize};

use crate::config::ResolverData;
use crate::denial::Denial;

/// The longest request in bytes: a request may contain as much as the configuration.
pub(crate) const LONGEST: usize = 16 << 20;

/// A request to a gateway.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "request")]
#[non_exhaustive]
pub enum Request {
    /// Asks for the status: answered with [`Response::Status`].
    Status,
    /// Reports a change of the host's resolver: answered with [`Response::Done`].
    Resolver {
        /// The new resolver.
        data: ResolverData,
    },
    /// Reports a change of the host's addresses: answered with [`Response::Done`].
    HostAddresses {
        /// The new addresses.
        addresses: Vec<IpAddr>,
    },
    /// Ends the gateway: answered with [`Response::Done`].
    Shutdown,
}

/// An answer of a gateway.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "response")]
#[non_exhaustive]
pub enum Response {
    /// The status.
    Status(Box<Status>),
    /// The request was carried out.
    Done,
    /// The request is invalid.
    Error {
        /// The reason.
        message: String,
    },
}

/// The status of a gateway.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Status {
    /// Published ports.
    pub ports: Vec<BoundPort>,
    /// Current connections and exchanges.
    pub flows: Vec<FlowStatus>,
    /// TCP connections since the start.
    pub tcp_total: u64,
    /// UDP exchanges since the start.
    pub udp_total: u64,
    /// Queries to the resolver since the start.
    pub dns_total: u64,
    /// Bytes that the guest sent over TCP and UDP.
    pub sent: u64,
    /// Bytes that the guest received over TCP and UDP.
    pub received: u64,
    /// The current limit of TCP buffers, in bytes.
    pub buffer_bytes: usize,
    /// Frames from the guest that were invalid or not for the gateway.
    pub dropped_frames: u64,
    /// Denials since the start.
    pub denials_total: u64,
    /// The last denials, the latest at the end.
    pub denials: Vec<Denial>,
}

/// One connection, or one exchange of datagrams.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct FlowStatus {
    /// The protocol.
    pub protocol: Protocol,
    /// The guest's address and port.
    pub guest: SocketAddr,
    /// The other end's address and port.
    pub remote: SocketAddr,
    /// Whether it came through a published port.
    pub inbound: bool,
    /// The other end's name, if known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Bytes that the guest sent.
    pub sent: u64,
    /// Bytes that the guest received.
    pub received: u64,
    /// How long it has existed, in seconds.
    pub seconds: u64,
}

/// The gateway's end of the control socket.
pub(crate) struct Control {
    stream: UnixStream,
    input: Vec<u8>,
    /// How many bytes of the input were searched for a line end.
    searched: usize,
    output: Vec<u8>,
    pub(crate) readable: bool,
    pub(crate) writable: bool,
    pub(crate) ended: bool,
}

impl Control {
    pub(crate) fn new(stream: UnixStream) -> Self {
        Self {
            stream,
            input: Vec::new(),
            searched: 0,
            output: Vec::new(),
            readable: true,
            writable: true,
            ended: false,
        }
    }

    pub(crate) fn stream(&mut self) -> &mut UnixStream {
        &mut self.stream
    }

    /// Returns the next request. No request is read while an answer is unsent.
    pub(crate) fn next(&mut self) -> io::Result<Option<Result<Request, serde_json::Error>>> {
        self.flush()?;
        if !self.output.is_empty() {
            return Ok(None);
        }
        loop {
            // If the host's hosts file is a list of blocked names, a request has megabytes: each
            // byte is searched only once.
            let rest = self.input.get(self.searched..).unwrap_or_default();
            if let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.input.drain(..=self.searched + end).collect();
                self.searched = 0;
                return Ok(Some(serde_json::from_slice(&line)));
            }
            self.searched = self.input.len();
            if !self.readable || self.ended {
                return Ok(None);
            }
            let mut bytes = [0; 16 << 10];
            match self.stream.read(&mut bytes) {
                Ok(0) => self.ended = true,
                Ok(count) => self
                    .input
                    .extend_from_slice(bytes.get(..count).unwrap_or_default()),
                Err(error) => match error.kind() {
                    ErrorKind::WouldBlock => self.readable = false,
                    ErrorKind::Interrupted => {}
                    ErrorKind::ConnectionReset => self.ended = true,
                    _ => return Err(error),
                },
            }
            if self.input.len() > LONGEST {
                return Err(ErrorKind::InvalidData.into());
            }
        }
    }

    /// Queues an answer.
    pub(crate) fn answer(&mut self, response: &Response) -> io::Result<()> {
        serde_json::to_writer(&mut self.output, response)?;
        self.output.push(b'\n');
        self.flush()
    }

    /// Writes queued answers.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        while self.writable && !self.output.is_empty() {
            match self.stream.write(&self.output) {
                Ok(count) => {
                    self.output.drain(..count);
                }
                Err(error) => match error.kind() {
                    ErrorKind::WouldBlock => self.writable = false,
                    ErrorKind::Interrupted => {}
                    ErrorKind::BrokenPipe | ErrorKind::ConnectionReset => {
                        self.ended = true;
                        self.output.clear();
                    }
                    _ => return Err(error),
                },
            }
        }
        Ok(())
    }
}
