//! Why a gateway does not start, or ends.

use std::io;
use std::net::SocketAddr;

use crate::publish::Protocol;

/// Why a gateway does not start, or ends.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A published port cannot be bound.
    #[error("cannot publish {address}/{protocol}")]
    Bind {
        /// The protocol.
        protocol: Protocol,
        /// The address and the port at the host.
        address: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// The link to the guest does not carry frames.
    #[error("a frame of {length} bytes on the link to the guest")]
    Frame {
        /// The length before the frame.
        length: usize,
    },
    /// An address that no link can have.
    #[error("{address} cannot be an address on the link to the guest")]
    Address {
        /// The address, or the length of a prefix.
        address: String,
    },
    /// The configuration of a helper process is not one.
    #[error("the gateway's configuration is not valid")]
    Config(#[source] serde_json::Error),
    /// The system fails.
    #[error("{what}")]
    Io {
        /// What the gateway was doing.
        what: &'static str,
        /// What the system says.
        source: io::Error,
    },
}

impl Error {
    pub(crate) fn io(what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { what, source }
    }
}
