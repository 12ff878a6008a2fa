//! The link to the guest: Ethernet frames, each preceded by its length, on a Unix stream socket.
//!
//! QEMU's `-netdev stream` and libkrun's `krun_add_net_unixstream` use the same framing: four bytes
//! of length, big-endian, followed by the frame.

use std::io::{self, ErrorKind, Read, Write};
use std::ops::Range;

use blockbox_protocol::network::MacAddress;
use mio::net::UnixStream;

/// The longest frame in bytes: the largest IP packet. A virtio-net device sends no longer frames.
const MAX_FRAME: usize = 65_535 + ETHERNET;
/// The length of an Ethernet header in bytes.
pub(crate) const ETHERNET: usize = 14;
/// The largest IP packet that every guest receives, in bytes.
pub(crate) const MTU: usize = 1500;
/// The largest IP packet that a guest may ask for with the maximum segment size of its TCP, in
/// bytes. Segments never exceed the MTU of the guest's interface, so the gateway need not know it.
pub(crate) const LARGEST: usize = 65_535;

const LENGTH: usize = 4;
const INPUT: usize = 256 << 10;
const OUTPUT: usize = 256 << 10;
/// The most bytes of queued answers to a guest that sends and never reads; more are dropped.
const OUTPUT_HARD: usize = 2 * OUTPUT;

/// The receiving side.
pub(crate) struct Input {
    buffer: Vec<u8>,
    filled: Range<usize>,
    /// Whether the socket may have more data.
    pub(crate) readable: bool,
    /// Whether the poll has reported that the peer has closed its side.
    pub(crate) closing: bool,
    /// Whether the peer has closed its side, and everything was read.
    pub(crate) ended: bool,
}

impl Input {
    pub(crate) fn new() -> Self {
        Self {
            buffer: vec![0; INPUT],
            filled: 0..0,
            readable: true,
            closing: false,
            ended: false,
        }
    }

    /// Returns a placeholder while the real value is in use.
    pub(crate) fn empty() -> Self {
        Self {
            buffer: Vec::new(),
            filled: 0..0,
            readable: false,
            closing: false,
            ended: false,
        }
    }

    /// Reads once from the socket.
    pub(crate) fn fill(&mut self, stream: &mut UnixStream) -> io::Result<()> {
        if self.filled.is_empty() {
            self.filled = 0..0;
        } else if self.buffer.len() - self.filled.end < MAX_FRAME + LENGTH {
            self.buffer.copy_within(self.filled.clone(), 0);
            self.filled = 0..self.filled.len();
        }
        let space = &mut self.buffer[self.filled.end..];
        let room = space.len();
        if space.is_empty() {
            // The buffer is full of complete frames, which must be handled first.
            return Ok(());
        }
        match stream.read(space) {
            Ok(0) => self.ended = true,
            Ok(count) => {
                self.filled.end += count;
                // A read that leaves room has emptied the socket, and an event reports what arrives
                // later. The end of the stream is not among the bytes: once an event has announced
                // it, it must be read.
                self.readable = count == room || self.closing;
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => self.readable = false,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::ConnectionReset => self.ended = true,
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Takes the next complete frame and returns its range in [`Self::bytes`].
    ///
    /// An error is a length that no device sends: the following frames cannot be found.
    pub(crate) fn next_frame(&mut self) -> Result<Option<Range<usize>>, usize> {
        let filled = &self.buffer[self.filled.clone()];
        let Some((length, rest)) = filled.split_first_chunk::<LENGTH>() else {
            return Ok(None);
        };
        let length = u32::from_be_bytes(*length) as usize;
        if length > MAX_FRAME {
            return Err(length);
        }
        if rest.len() < length {
            return Ok(None);
        }
        let start = self.filled.start + LENGTH;
        self.filled.start = start + length;
        Ok(Some(start..start + length))
    }

    /// Returns the bytes of a frame.
    pub(crate) fn bytes(&self, frame: Range<usize>) -> &[u8] {
        self.buffer.get(frame).unwrap_or_default()
    }
}

/// The sending side: frames wait here until the socket accepts them.
///
/// Senders must check [`Output::has_room`] first, so that data for a guest that does not read is
/// not read from its source. Answers to what the guest itself sent are queued without this check,
/// and dropped beyond a hard limit, so memory stays bounded.
pub(crate) struct Output {
    buffer: Vec<u8>,
    sent: usize,
    /// Whether the socket may accept more data.
    pub(crate) writable: bool,
    guest_mac: MacAddress,
    gateway_mac: MacAddress,
    /// Bytes of frames queued since the start.
    pub(crate) bytes: u64,
    /// Frames queued since the start.
    pub(crate) frames: u64,
    /// Frames dropped since the start.
    pub(crate) dropped: u64,
}

impl Output {
    pub(crate) fn new(guest_mac: MacAddress, gateway_mac: MacAddress) -> Self {
        Self {
            buffer: Vec::with_capacity(OUTPUT),
            sent: 0,
            writable: true,
            guest_mac,
            gateway_mac,
            bytes: 0,
            frames: 0,
            dropped: 0,
        }
    }

    /// Returns whether another frame may be queued.
    pub(crate) fn has_room(&self) -> bool {
        self.buffer.len() - self.sent + LENGTH + ETHERNET + LARGEST <= OUTPUT
    }

    /// Returns the number of unsent bytes.
    pub(crate) fn pending(&self) -> usize {
        self.buffer.len() - self.sent
    }

    /// Queues a frame to the guest; `emit` writes its payload into `length` zeroed bytes.
    pub(crate) fn frame<R>(
        &mut self,
        ethertype: u16,
        length: usize,
        emit: impl FnOnce(&mut [u8]) -> R,
    ) -> R {
        if self.pending() + LENGTH + ETHERNET + length > OUTPUT_HARD {
            self.dropped += 1;
            return emit(&mut vec![0; length]);
        }
        let whole = ETHERNET + length;
        let start = self.buffer.len();
        self.buffer
            .extend_from_slice(&u32::try_from(whole).unwrap_or(0).to_be_bytes());
        self.buffer.extend_from_slice(&self.guest_mac.0);
        self.buffer.extend_from_slice(&self.gateway_mac.0);
        self.buffer.extend_from_slice(&ethertype.to_be_bytes());
        let payload = start + LENGTH + ETHERNET;
        self.buffer.resize(payload + length, 0);
        self.bytes += whole as u64;
        self.frames += 1;
        emit(&mut self.buffer[payload..])
    }

    /// Queues an IP packet that `emit` writes into `length` zeroed bytes; its version determines
    /// the frame's type.
    pub(crate) fn packet<R>(&mut self, length: usize, emit: impl FnOnce(&mut [u8]) -> R) -> R {
        let start = self.buffer.len();
        let result = self.frame(ETHERTYPE_IPV4, length, emit);
        let header = start + LENGTH + ETHERNET;
        if self.buffer.get(header).is_some_and(|first| first >> 4 == 6) {
            self.buffer[header - 2..header].copy_from_slice(&ETHERTYPE_IPV6.to_be_bytes());
        }
        result
    }

    /// Queues an IP packet.
    pub(crate) fn ip(&mut self, packet: &[u8]) {
        self.packet(packet.len(), |bytes| bytes.copy_from_slice(packet));
    }

    /// Writes queued frames as far as the socket accepts them. Returns whether the peer is still
    /// connected.
    pub(crate) fn flush(&mut self, stream: &mut UnixStream) -> io::Result<bool> {
        while self.writable && self.sent < self.buffer.len() {
            match stream.write(&self.buffer[self.sent..]) {
                Ok(count) => self.sent += count,
                Err(error) => match error.kind() {
                    ErrorKind::WouldBlock => self.writable = false,
                    ErrorKind::Interrupted => {}
                    ErrorKind::BrokenPipe | ErrorKind::ConnectionReset => return Ok(false),
                    _ => return Err(error),
                },
            }
        }
        if self.sent == self.buffer.len() {
            self.buffer.clear();
            self.sent = 0;
        } else if self.sent > OUTPUT / 2 {
            self.buffer.drain(..self.sent);
            self.sent = 0;
        }
        Ok(true)
    }
}

pub(crate) const ETHERTYPE_IPV4: u16 = 0x0800;
pub(crate) const ETHERTYPE_ARP: u16 = 0x0806;
pub(crate) const ETHERTYPE_IPV6: u16 = 0x86dd;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_cross_in_pieces_of_any_size() {
        let (mut there, here) = std::os::unix::net::UnixStream::pair().unwrap();
        here.set_nonblocking(true).unwrap();
        let mut here = UnixStream::from_std(here);
        let mut input = Input::new();
        let mut seen = Vec::new();
        let frames: Vec<Vec<u8>> = (0..40usize).map(|n| vec![n as u8; n * 97]).collect();
        let mut sent = Vec::new();
        for frame in &frames {
            sent.extend_from_slice(&(frame.len() as u32).to_be_bytes());
            sent.extend_from_slice(frame);
        }
        for piece in sent.chunks(1009) {
            there.write_all(piece).unwrap();
            input.fill(&mut here).unwrap();
            while let Some(frame) = input.next_frame().unwrap() {
                seen.push(input.bytes(frame).to_vec());
            }
        }
        assert_eq!(seen, frames);
        drop(there);
        input.fill(&mut here).unwrap();
        assert!(input.ended);
    }

    #[test]
    fn a_length_no_device_sends_is_an_error() {
        let (mut there, here) = std::os::unix::net::UnixStream::pair().unwrap();
        here.set_nonblocking(true).unwrap();
        there.write_all(&[0xff; 8]).unwrap();
        let mut input = Input::new();
        input.fill(&mut UnixStream::from_std(here)).unwrap();
        assert_eq!(input.next_frame(), Err(0xffff_ffff));
    }

    #[test]
    fn frames_to_a_peer_that_does_not_read_are_bounded() {
        let (_there, here) = std::os::unix::net::UnixStream::pair().unwrap();
        here.set_nonblocking(true).unwrap();
        let mut here = UnixStream::from_std(here);
        let mut output = Output::new(MacAddress([0; 6]), MacAddress([0; 6]));
        let mut queued = 0;
        while output.has_room() {
            output.frame(ETHERTYPE_IPV4, MTU, |_| ());
            queued += 1;
            output.flush(&mut here).unwrap();
            assert!(queued < 100_000);
        }
        assert!(output.pending() <= OUTPUT);
        for _ in 0..1000 {
            output.frame(ETHERTYPE_IPV4, MTU, |_| ());
        }
        assert!(output.pending() <= OUTPUT_HARD);
        assert!(output.dropped > 0);
    }
}
