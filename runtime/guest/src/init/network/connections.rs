//! Closes open TCP connections: a copied guest must not use those of the original.
//!
//! `SOCK_DESTROY` would do that, but most guest kernels are built without it. Instead, every
//! connection receives a SYN that seems to come from its peer. RFC 5961 has the guest's kernel
//! answer it with an acknowledgment, the host's gateway resets what it does not know, and that
//! reset has the sequence number that the guest's kernel expects. Only connections of sockets that
//! are bound to a device stay, until they send.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, BufRead, BufReader, ErrorKind};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType, ipproto};

/// The kernel's lists of connections; the second is missing in a kernel without IPv6.
const LISTS: [&str; 2] = ["/proc/net/tcp", "/proc/net/tcp6"];

/// The states without a connection: `TCP_TIME_WAIT`, `TCP_CLOSE` and `TCP_LISTEN`.
const UNCONNECTED: [u8; 3] = [6, 7, 10];

const SYN: u8 = 2;
const TCP_HEADER: u16 = 20;

/// The two ends of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Connection {
    own: SocketAddr,
    peer: SocketAddr,
}

/// Begins to close all TCP connections whose peer is not in this guest, and returns how many they
/// are. The network must be up.
pub(crate) fn close_outgoing() -> io::Result<usize> {
    let mut all = HashSet::new();
    for list in LISTS {
        match File::open(list) {
            Ok(file) => read_list(BufReader::new(file), &mut all)?,
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    let mut sender = Sender::default();
    let mut closed = 0;
    for connection in &all {
        if !all.contains(&connection.reversed()) {
            sender.send(&connection.reversed())?;
            closed += 1;
        }
    }
    Ok(closed)
}

/// Adds the connections of one of the kernel's lists.
fn read_list(list: impl BufRead, all: &mut HashSet<Connection>) -> io::Result<()> {
    for line in list.lines() {
        // The first line is a heading.
        all.extend(Connection::parse(&line?));
    }
    Ok(())
}

impl Connection {
    /// Parses a line of a list, which contains after a number both ends and the state. `None` for
    /// other sockets.
    fn parse(line: &str) -> Option<Self> {
        let mut words = line.split_ascii_whitespace().skip(1);
        let (own, peer) = (end(words.next()?)?, end(words.next()?)?);
        let state = u8::from_str_radix(words.next()?, 16).ok()?;
        (!UNCONNECTED.contains(&state)).then_some(Self { own, peer })
    }

    fn reversed(&self) -> Self {
        Self {
            own: self.peer,
            peer: self.own,
        }
    }

    /// Returns a SYN packet from `own` to `peer`; the kernel computes an IPv4 header's checksum.
    fn opening(&self) -> Option<Vec<u8>> {
        let mut segment = Vec::with_capacity(usize::from(TCP_HEADER));
        segment.extend(self.own.port().to_be_bytes());
        segment.extend(self.peer.port().to_be_bytes());
        // Sequence numbers, the header's length in words, flags, and the window.
        segment.extend([0; 8]);
        segment.extend([5 << 4, SYN, 0xff, 0xff]);
        let (header, addresses) = match (self.own.ip(), self.peer.ip()) {
            (IpAddr::V4(own), IpAddr::V4(peer)) => {
                let mut header = vec![0x45, 0];
                header.extend((20 + TCP_HEADER).to_be_bytes());
                header.extend([0, 0, 0, 0, 64, 6, 0, 0]);
                (header, [own.octets(), peer.octets()].concat())
            }
            (IpAddr::V6(own), IpAddr::V6(peer)) => {
                let mut header = vec![0x60, 0, 0, 0];
                header.extend(TCP_HEADER.to_be_bytes());
                header.extend([6, 64]);
                (header, [own.octets(), peer.octets()].concat())
            }
            _ => return None,
        };
        let pseudo = [&addresses[..], &[0, 6], &TCP_HEADER.to_be_bytes()].concat();
        segment.extend((!sum(&[&pseudo, &segment])).to_be_bytes());
        segment.extend([0, 0]);
        Some([header, addresses, segment].concat())
    }
}

/// Parses an end: the address in words of the machine's byte order, and the port.
fn end(word: &str) -> Option<SocketAddr> {
    let (address, port) = word.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let mut octets = Vec::new();
    for at in (0..address.len()).step_by(8) {
        let word = u32::from_str_radix(address.get(at..at.checked_add(8)?)?, 16).ok()?;
        octets.extend(word.to_ne_bytes());
    }
    let address = match octets.len() {
        4 => IpAddr::from(*octets.first_chunk::<4>()?),
        16 => Ipv6Addr::from(*octets.first_chunk::<16>()?).to_canonical(),
        _ => return None,
    };
    Some((address, port).into())
}

/// Returns the one's complement sum of words of 16 bits (RFC 1071).
fn sum(parts: &[&[u8]]) -> u16 {
    let words = parts.iter().flat_map(|part| part.chunks_exact(2));
    words.fold(0, |sum, word| {
        let word = u16::from_be_bytes([word[0], word[1]]);
        let (sum, carry) = sum.overflowing_add(word);
        sum.wrapping_add(carry.into())
    })
}

/// Sends packets with foreign source addresses to this guest itself.
#[derive(Debug, Default)]
struct Sender {
    v4: Option<OwnedFd>,
    v6: Option<OwnedFd>,
}

impl Sender {
    fn send(&mut self, connection: &Connection) -> Result<(), Errno> {
        let Some(packet) = connection.opening() else {
            return Ok(());
        };
        let to = SocketAddr::new(connection.peer.ip(), 0);
        let (socket, family) = match to {
            SocketAddr::V4(_) => (&mut self.v4, AddressFamily::INET),
            SocketAddr::V6(_) => (&mut self.v6, AddressFamily::INET6),
        };
        let socket = match socket {
            Some(socket) => socket,
            None => socket.insert(rustix::net::socket_with(
                family,
                SocketType::RAW,
                SocketFlags::CLOEXEC,
                Some(ipproto::RAW),
            )?),
        };
        match rustix::net::sendto(socket, &packet, SendFlags::empty(), &to) {
            // Its address is no longer the guest's, or needs an interface.
            Ok(_) | Err(Errno::NETUNREACH | Errno::HOSTUNREACH | Errno::INVAL) => Ok(()),
            Err(errno) => Err(errno),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use super::*;

    #[test]
    fn connections_are_read_from_lists_of_both_families() {
        if cfg!(target_endian = "big") {
            return;
        }
        let list = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt
   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1
   1: 0201BB0A:8001 0801A8C0:01BB 01 00000000:00000000 00:00000000 00000000     0        0 2
   2: 0201BB0A:8002 0801A8C0:01BB 06 00000000:00000000 00:00000000 00000000     0        0 0
   3: 0000000000000000FFFF00000201BB0A:0016 0000000000000000FFFF00000101BB0A:8000 08 0:0
   4: 6F6C62FD78626363000000000200000001:0016 00:1 01
   5: 000000FD000000000000000002000000:0016 000000FD000000000000000001000000:8003 01 0:0
";
        let mut all = HashSet::new();
        read_list(list.as_bytes(), &mut all).unwrap();
        let connection = |own: &str, peer: &str| Connection {
            own: own.parse().unwrap(),
            peer: peer.parse().unwrap(),
        };
        let expected = HashSet::from([
            connection("10.187.1.2:32769", "192.168.1.8:443"),
            connection("10.187.1.2:22", "10.187.1.1:32768"),
            connection("[fd00::2]:22", "[fd00::1]:32771"),
        ]);
        assert_eq!(all, expected);
    }

    #[test]
    fn a_packet_has_the_checksum_of_its_addresses_and_segment() {
        for (own, peer) in [
            ("192.0.2.1:443", "10.0.0.2:32769"),
            ("[2001:db8::1]:443", "[fd00::2]:32769"),
        ] {
            let connection = Connection {
                own: own.parse().unwrap(),
                peer: peer.parse().unwrap(),
            };
            let packet = connection.opening().unwrap();
            let (header, segment) = packet.split_at(packet.len() - usize::from(TCP_HEADER));
            let addresses = if connection.own.is_ipv4() { 12 } else { 8 };
            let pseudo = [&header[addresses..], &[0, 6, 0, 20]].concat();
            assert_eq!(sum(&[&pseudo, segment]), 0xffff, "{own}");
            assert_eq!(segment[13], SYN);
        }
    }
}
