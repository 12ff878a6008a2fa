//! A query of the guest, on its way from where it arrived to the name server.

use std::net::SocketAddr;

/// The name server's port.
pub(crate) const PORT: u16 = 53;

/// Where an answer is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Client {
    /// To the guest's port, from the address that the query was sent to.
    Datagram { guest: SocketAddr, to: SocketAddr },
    /// Over a connection, by its serial number.
    Connection(u64),
}

/// A message of the guest to its name server.
#[derive(Debug)]
pub(crate) struct Question {
    pub(crate) client: Client,
    pub(crate) message: Vec<u8>,
}
