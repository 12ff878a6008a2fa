//! Frames of a hostile guest into the network gateway: raw ones, and segments that fit a connection
//! well enough to get far into it. Nothing leaves the process: the policy opens one port of the
//! loopback, and nothing else.
#![no_main]

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::net::UnixStream;
use std::sync::LazyLock;
use std::time::Duration;

use blockbox_net::{Addresses, Config, Gateway, Limits, Mode, Nameserver, ResolverData};
use libfuzzer_sys::fuzz_target;

/// A server and a name server on the loopback; the latter never answers.
struct Host {
    listener: TcpListener,
    _datagrams: UdpSocket,
    resolver: UdpSocket,
}

static HOST: LazyLock<Host> = LazyLock::new(|| {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.set_nonblocking(true).expect("non-blocking");
    let address = listener.local_addr().expect("an address");
    Host {
        listener,
        _datagrams: UdpSocket::bind(address).expect("the same port"),
        resolver: UdpSocket::bind("127.0.0.1:0").expect("a port"),
    }
});

const GUEST_PORT: u16 = 4000;

/// A guest that follows one connection.
struct Guest {
    link: UnixStream,
    peer: Option<TcpStream>,
    port: u16,
    /// The next byte of each side.
    own: u32,
    theirs: u32,
}

impl Guest {
    fn frame(&mut self, ethertype: u16, body: &[u8]) {
        let addresses = Addresses::default();
        let mut frame = addresses.gateway_mac.0.to_vec();
        frame.extend(addresses.guest_mac.0);
        frame.extend(ethertype.to_be_bytes());
        frame.extend(body);
        self.raw(&frame);
    }

    fn raw(&mut self, frame: &[u8]) {
        let mut bytes = (frame.len() as u32).to_be_bytes().to_vec();
        bytes.extend(frame);
        // A full socket loses the frame.
        let _ = self.link.write(&bytes);
    }

    fn ip(&mut self, protocol: u8, to: Ipv4Addr, payload: &[u8]) {
        let mut packet = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, protocol, 0, 0];
        packet[2..4].copy_from_slice(&(20 + payload.len() as u16).to_be_bytes());
        packet.extend(Addresses::default().guest_v4.octets());
        packet.extend(to.octets());
        packet.extend(payload);
        self.frame(0x0800, &packet);
    }

    /// A segment near where the connection is: its flags, how far off its numbers are, its window,
    /// its contents.
    fn segment(&mut self, record: &[u8]) {
        let &[flags, off, ack_off, window, options, ref data @ ..] = record else {
            return;
        };
        let seq = self.own.wrapping_add_signed(i32::from(off as i8) * 256);
        let ack = self.theirs.wrapping_add_signed(i32::from(ack_off as i8));
        let options = usize::from(options & 7) * 4;
        let options = options.min(data.len() & !3);
        let mut segment = GUEST_PORT.to_be_bytes().to_vec();
        segment.extend(self.port.to_be_bytes());
        segment.extend(seq.to_be_bytes());
        segment.extend(ack.to_be_bytes());
        segment.push(((20 + options) as u8 / 4) << 4);
        segment.push(flags);
        segment.extend((u16::from(window) << 8).to_be_bytes());
        segment.extend([0; 4]);
        segment.extend(data);
        let long = (data.len() - options) as u32 + u32::from(flags & 3 != 0);
        if off == 0 {
            self.own = self.own.wrapping_add(long);
        }
        self.ip(6, Addresses::default().host_v4, &segment);
    }

    /// Reads what the gateway sent, and notes how far its side of the connection is.
    fn listen(&mut self) {
        let mut bytes = vec![0; 64 << 10];
        while let Ok(count @ 1..) = self.link.read(&mut bytes) {
            let mut rest = &bytes[..count];
            while let Some((length, after)) = rest.split_first_chunk::<4>() {
                let length = (u32::from_be_bytes(*length) as usize).min(after.len());
                let (frame, next) = after.split_at(length);
                rest = next;
                if frame.len() >= 54 && frame[12..14] == [8, 0] && frame[23] == 6 {
                    let seq = u32::from_be_bytes([frame[38], frame[39], frame[40], frame[41]]);
                    let header = usize::from(frame[46] >> 4) * 4;
                    let data = frame.len().saturating_sub(34 + header) as u32;
                    self.theirs = seq.wrapping_add(data + u32::from(frame[47] & 3 != 0));
                }
            }
        }
    }
}

fuzz_target!(|bytes: &[u8]| {
    let port = HOST.listener.local_addr().expect("an address").port();
    let mut limits = Limits::default();
    limits.tcp_flows = 8;
    limits.udp_flows = 8;
    limits.buffer_bytes = 512 << 10;
    let mut resolver = ResolverData::default();
    let address = HOST.resolver.local_addr().expect("an address");
    resolver.nameservers = vec![Nameserver::new(address)];
    let config = Config::new()
        .mode(Mode::None)
        .allow(["good.example".parse().expect("a rule")])
        .host_ports([port])
        .resolver(resolver)
        .limits(limits);
    let (frames, link) = UnixStream::pair().expect("sockets");
    let (control, _ours) = UnixStream::pair().expect("sockets");
    let (mut gateway, _) = Gateway::new(config, frames, control).expect("a gateway");
    link.set_nonblocking(true).expect("non-blocking");
    let mut guest = Guest {
        link,
        peer: None,
        port,
        own: 1000,
        theirs: 0,
    };
    // Each record: what it is, how long, and its bytes.
    let mut rest = bytes;
    while let Some((&[kind, length], after)) = rest.split_first_chunk::<2>() {
        let (record, next) = after.split_at(usize::from(length).min(after.len()));
        rest = next;
        match kind % 9 {
            0 => guest.raw(record),
            1 => guest.frame(0x0800, record),
            2 => guest.frame(0x86dd, record),
            3 => guest.segment(record),
            4 => guest.ip(17, Addresses::default().host_v4, record),
            5 => {
                // A question to the name server.
                let mut datagram = vec![0x10, 0, 0, 53];
                datagram.extend((8 + record.len() as u16).to_be_bytes());
                datagram.extend([0, 0]);
                datagram.extend(record);
                guest.ip(17, Addresses::default().gateway_v4, &datagram);
            }
            6 => {
                if let Some(peer) = &mut guest.peer {
                    let _ = peer.write(record);
                }
            }
            7 => guest.peer = None,
            _ => guest.frame(0x0806, record),
        }
        // A few turns: the loopback needs one to connect.
        for _ in 0..3 {
            if !gateway
                .turn(Duration::ZERO)
                .expect("frames of a legal length")
            {
                return;
            }
        }
        if let Ok((peer, _)) = HOST.listener.accept() {
            let _ = peer.set_nonblocking(true);
            guest.peer = Some(peer);
        }
        guest.listen();
        let status = gateway.status();
        assert!(status.buffer_bytes <= limits.buffer_bytes);
        assert!(status.flows.len() <= limits.tcp_flows + limits.udp_flows);
    }
});
