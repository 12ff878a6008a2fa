//! The relay, through which published ports reach servers that listen only on the guest's loopback
//! interface.
//!
//! Init listens on the port [`Network::relay_port`](crate::Network::relay_port) of the interface. A
//! client sends the number of the port, two bytes in network order, and gets one byte:
//! [`CONNECTED`], after which the connection is forwarded to `127.0.0.1` (or `::1`) at that port,
//! or [`REFUSED`], after which it is closed. The host first tries the guest's address, where most
//! servers listen, and then the relay; so init occupies only one port of the guest.

/// A server accepted the connection.
pub const CONNECTED: u8 = 0;

/// No server listens on the port.
pub const REFUSED: u8 = 1;

/// The length of the port's number in bytes.
pub const PORT_LEN: usize = 2;
