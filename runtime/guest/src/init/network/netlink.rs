//! Netlink messages to the kernel, in the layout of `linux/netlink.h` and `linux/rtnetlink.h` and
//! the machine's byte order.

use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::event::PollFlags;
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

use crate::control::ready;

/// How long the kernel may take to answer, which it does at once.
const TIMEOUT: Duration = Duration::from_secs(2);

const HEADER: usize = 16;
/// The buffer size in bytes: larger than any message of a dump, because the kernel fills at most 32
/// KiB.
const LARGEST: usize = 64 * 1024;

const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_ACK: u16 = 0x4;
const NLM_F_REPLACE: u16 = 0x100;
const NLM_F_CREATE: u16 = 0x400;
const NLM_F_DUMP: u16 = 0x300;

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;

/// A message to the kernel.
#[derive(Debug)]
pub(crate) struct Message {
    kind: u16,
    body: Vec<u8>,
}

impl Message {
    /// Returns a message of this kind that begins with the fixed structure `body`.
    pub(crate) fn new(kind: u16, body: &[u8]) -> Self {
        Message {
            kind,
            body: body.to_vec(),
        }
    }

    /// Adds an attribute (`struct rtattr`).
    pub(crate) fn attribute(mut self, kind: u16, value: &[u8]) -> Self {
        let length = u16::try_from(value.len() + 4).unwrap_or(u16::MAX);
        self.body.extend_from_slice(&length.to_ne_bytes());
        self.body.extend_from_slice(&kind.to_ne_bytes());
        self.body.extend_from_slice(value);
        self.body.resize(self.body.len().next_multiple_of(4), 0);
        self
    }

    /// Adds an attribute that is an address.
    pub(crate) fn address(self, kind: u16, address: IpAddr) -> Self {
        match address {
            IpAddr::V4(address) => self.attribute(kind, &address.octets()),
            IpAddr::V6(address) => self.attribute(kind, &address.octets()),
        }
    }

    fn bytes(&self, flags: u16) -> Vec<u8> {
        let length = u32::try_from(HEADER + self.body.len()).unwrap_or(u32::MAX);
        let mut bytes = length.to_ne_bytes().to_vec();
        bytes.extend_from_slice(&self.kind.to_ne_bytes());
        bytes.extend_from_slice(&(NLM_F_REQUEST | flags).to_ne_bytes());
        // Sequence number and port are zero, because only one request is pending at a time.
        bytes.extend_from_slice(&[0; 8]);
        bytes.extend_from_slice(&self.body);
        bytes
    }
}

/// Returns the address family of an address (`AF_INET`, `AF_INET6`).
pub(crate) fn family(address: IpAddr) -> u8 {
    let family = match address {
        IpAddr::V4(_) => AddressFamily::INET,
        IpAddr::V6(_) => AddressFamily::INET6,
    };
    u8::try_from(family.as_raw()).unwrap_or_default()
}

/// A socket to the kernel.
#[derive(Debug)]
pub(crate) struct Socket(OwnedFd);

impl Socket {
    /// Opens a socket for links, addresses and routes (`NETLINK_ROUTE`).
    pub(crate) fn route() -> Result<Self, Errno> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None).map(Socket)
    }

    pub(crate) fn fd(&self) -> &OwnedFd {
        &self.0
    }

    /// Sends a message and waits until the kernel has carried it out.
    pub(crate) fn request(&self, message: &Message) -> Result<(), Errno> {
        self.request_with(message, 0)
    }

    /// As [`request`](Self::request), to create or replace an object.
    pub(crate) fn create(&self, message: &Message) -> Result<(), Errno> {
        self.request_with(message, NLM_F_CREATE | NLM_F_REPLACE)
    }

    fn request_with(&self, message: &Message, flags: u16) -> Result<(), Errno> {
        let bytes = message.bytes(NLM_F_ACK | flags);
        rustix::net::send(&self.0, &bytes, SendFlags::empty())?;
        self.receive(|_| ())
    }

    /// Sends a message and passes each part of the answer, without its header, to `part`.
    pub(crate) fn dump(&self, message: &Message, part: impl FnMut(&[u8])) -> Result<(), Errno> {
        let bytes = message.bytes(NLM_F_DUMP);
        rustix::net::send(&self.0, &bytes, SendFlags::empty())?;
        self.receive(part)
    }

    fn receive(&self, mut part: impl FnMut(&[u8])) -> Result<(), Errno> {
        let mut buffer = vec![0; LARGEST];
        loop {
            if ready(self.0.as_fd(), PollFlags::IN, TIMEOUT).is_empty() {
                return Err(Errno::TIMEDOUT);
            }
            let (count, _) = rustix::net::recv(&self.0, &mut *buffer, RecvFlags::empty())?;
            let mut rest = buffer.get(..count).unwrap_or_default();
            while let Some((kind, body, after)) = split(rest) {
                match kind {
                    NLMSG_DONE => return Ok(()),
                    NLMSG_ERROR => return outcome(body),
                    _ => part(body),
                }
                rest = after;
            }
        }
    }
}

/// Splits off the first message of `bytes`: returns its kind, its body, and the rest.
fn split(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let length = u32::from_ne_bytes(*bytes.first_chunk()?) as usize;
    let kind = u16::from_ne_bytes(*bytes.get(4..)?.first_chunk()?);
    let body = bytes.get(HEADER..length)?;
    let after = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    Some((kind, body, after))
}

/// Parses a `struct nlmsgerr`: 0, or a negative `errno`.
fn outcome(body: &[u8]) -> Result<(), Errno> {
    match body.first_chunk().map(|error| i32::from_ne_bytes(*error)) {
        Some(0) => Ok(()),
        Some(error) => Err(Errno::from_raw_os_error(error.saturating_neg())),
        None => Err(Errno::BADMSG),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_its_header_its_structure_and_padded_attributes() {
        let bytes = Message::new(20, &[1, 2, 3, 4])
            .attribute(5, &[9])
            .bytes(NLM_F_ACK);
        assert_eq!(bytes.len(), HEADER + 4 + 8);
        assert_eq!(bytes[..4], 28_u32.to_ne_bytes());
        assert_eq!(bytes[20..22], 5_u16.to_ne_bytes());
        assert_eq!(bytes[24..], [9, 0, 0, 0]);
    }

    #[test]
    fn messages_cut_short_end_the_answer() {
        let message = Message::new(7, &[1, 2, 3, 4]).bytes(0);
        let (kind, body, after) = split(&message).expect("whole");
        assert_eq!((kind, body, after), (7, &[1, 2, 3, 4][..], &[][..]));
        for length in 0..message.len() {
            assert!(split(&message[..length]).is_none());
        }
        assert!(split(&[0; HEADER]).is_none());
    }
}
