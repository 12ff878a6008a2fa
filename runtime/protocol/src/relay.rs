//! How published ports reach a server that listens on the guest's loopback interface only.
//!
//! Init listens on the port [`Network::relay_port`](crate::Network::relay_port) of the interface.
//! Who connects there sends the number of the wanted port, two bytes in network order, and gets one
//! byte: [`CONNECTED`], after which the connection is one to `127.0.0.1` (or `::1`) at that port,
//! or [`REFUSED`] and the end. So the host first tries the guest's address, where most servers
//! listen, and the relay where that is refused; a server in the guest finds no port taken by init
//! but one.

/// A server was connected to.
pub const CONNECTED: u8 = 0;

/// No server listens.
pub const REFUSED: u8 = 1;

/// Bytes of the port's number.
pub const PORT_LEN: usize = 2;
