//! Errors of a gateway.

use std::io;
use std::net::SocketAddr;

use blockbox_protocol::network::Protocol;

/// Why a gateway does not start, or ends.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A published port cannot be bound.
    #[error("cannot publish {address}/{protocol}")]
    Bind {
        /// The protocol.
        protocol: Protocol,
        /// The address and the port on the host.
        address: SocketAddr,
        /// The system's error.
        source: io::Error,
    },
    /// The link to the guest carries no valid frames.
    #[error("a frame of {length} bytes on the link to the guest")]
    Frame {
        /// The length in front of the frame.
        length: usize,
    },
    /// An address is not valid on a link.
    #[error("{address} cannot be an address on the link to the guest")]
    Address {
        /// The address, or the length of a prefix.
        address: String,
    },
    /// The configuration of a helper process is invalid.
    #[error("the gateway's configuration is not valid")]
    Config(#[source] serde_json::Error),
    /// A system call failed.
    #[error("{what}")]
    Io {
        /// The failed operation.
        what: &'static str,
        /// The system's error.
        source: io::Error,
    },
}

impl Error {
    pub(crate) fn io(what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { what, source }
    }
}
