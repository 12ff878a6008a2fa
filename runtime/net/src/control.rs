//! The control socket: one JSON object a line, each way.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr};

use mio::net::UnixStream;
use serde::{Deserialize, Serialize};

use crate::config::ResolverData;
use crate::denial::Denial;
use crate::ports::BoundPort;
use crate::publish::Protocol;

/// The longest request: what a gateway may be given when it starts, it may be given again.
pub(crate) const LONGEST: usize = 16 << 20;

/// What a gateway is asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "request")]
#[non_exhaustive]
pub enum Request {
    /// What goes on: answered with [`Response::Status`].
    Status,
    /// The host's resolver has changed: answered with [`Response::Done`].
    Resolver {
        /// How it is now.
        data: ResolverData,
    },
    /// The host's addresses have changed: answered with [`Response::Done`].
    HostAddresses {
        /// Those it has now.
        addresses: Vec<IpAddr>,
    },
    /// Ends the gateway: answered with [`Response::Done`].
    Shutdown,
}

/// What a gateway answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "response")]
#[non_exhaustive]
pub enum Response {
    /// What goes on.
    Status(Box<Status>),
    /// The request is done.
    Done,
    /// The request is not one.
    Error {
        /// Why.
        message: String,
    },
}

/// What goes on in a gateway.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Status {
    /// Published ports.
    pub ports: Vec<BoundPort>,
    /// Connections and exchanges that exist now.
    pub flows: Vec<FlowStatus>,
    /// TCP connections since the start.
    pub tcp_total: u64,
    /// UDP exchanges since the start.
    pub udp_total: u64,
    /// Questions to the resolver since the start.
    pub dns_total: u64,
    /// Bytes that the guest sent over TCP and UDP.
    pub sent: u64,
    /// Bytes that the guest received over TCP and UDP.
    pub received: u64,
    /// Bytes that TCP buffers may take at most now.
    pub buffer_bytes: usize,
    /// Frames from the guest that were not for the gateway, or not valid.
    pub dropped_frames: u64,
    /// Denials since the start.
    pub denials_total: u64,
    /// The last denials, the latest last.
    pub denials: Vec<Denial>,
}

/// One connection, or one exchange of datagrams.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct FlowStatus {
    /// The protocol.
    pub protocol: Protocol,
    /// The guest's end.
    pub guest: SocketAddr,
    /// The other end.
    pub remote: SocketAddr,
    /// Whether it came through a published port.
    pub inbound: bool,
    /// The other end's name, where one is known.
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
    /// Bytes of the input that have no end of a line.
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

    /// The next request. While an answer was not taken yet, none is read.
    pub(crate) fn next(&mut self) -> io::Result<Option<Result<Request, serde_json::Error>>> {
        self.flush()?;
        if !self.output.is_empty() {
            return Ok(None);
        }
        loop {
            // A host's resolver has megabytes where its table of hosts is a list of blocked names:
            // each byte is looked at once.
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

    /// Writes what waits.
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
