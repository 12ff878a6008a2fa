//! Malformed frames that no well-behaved kernel sends, and floods of frames.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests too")]

mod common;

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener};
use std::time::Duration;

use blockbox_net::{Addresses, Config, Limits, Mode};
use common::{Guest, Running, host};
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::socket::tcp::{Socket, State};
use smoltcp::wire::{
    IpProtocol, IpRepr, Ipv4Packet, Ipv4Repr, TcpControl, TcpPacket, TcpRepr, TcpSeqNumber,
    UdpPacket, UdpRepr,
};

fn frame(to: [u8; 6], ethertype: u16, body: &[u8]) -> Vec<u8> {
    let mut frame = to.to_vec();
    frame.extend(Addresses::default().guest_mac.0);
    frame.extend(ethertype.to_be_bytes());
    frame.extend(body);
    frame
}

/// Returns a frame with a SYN.
fn syn(from: IpAddr, from_port: u16, to: IpAddr, to_port: u16) -> Vec<u8> {
    let segment = TcpRepr {
        src_port: from_port,
        dst_port: to_port,
        control: TcpControl::Syn,
        seq_number: TcpSeqNumber(1),
        ack_number: None,
        window_len: 1000,
        window_scale: None,
        max_seg_size: None,
        sack_permitted: false,
        sack_ranges: [None; 3],
        timestamp: None,
        payload: &[],
    };
    let checks = ChecksumCapabilities::default();
    packet(from, to, IpProtocol::Tcp, segment.buffer_len(), |bytes| {
        let mut bytes = TcpPacket::new_unchecked(bytes);
        segment.emit(&mut bytes, &from.into(), &to.into(), &checks);
    })
}

/// Returns a frame with a datagram.
fn datagram(from: IpAddr, to: IpAddr, to_port: u16) -> Vec<u8> {
    let header = UdpRepr {
        src_port: 1000,
        dst_port: to_port,
    };
    let (data, checks) = (b"anyone?", ChecksumCapabilities::default());
    let length = header.header_len() + data.len();
    packet(from, to, IpProtocol::Udp, length, |bytes| {
        header.emit(
            &mut UdpPacket::new_unchecked(bytes),
            &from.into(),
            &to.into(),
            data.len(),
            |bytes| bytes.copy_from_slice(data),
            &checks,
        );
    })
}

/// Returns a frame to the gateway with an IP packet.
fn packet(
    from: IpAddr,
    to: IpAddr,
    protocol: IpProtocol,
    length: usize,
    emit: impl FnOnce(&mut [u8]),
) -> Vec<u8> {
    let ip = IpRepr::new(from.into(), to.into(), protocol, length, 64);
    let mut body = vec![0; ip.buffer_len()];
    ip.emit(&mut body[..], &ChecksumCapabilities::default());
    emit(&mut body[ip.header_len()..]);
    let ethertype = if to.is_ipv4() { 0x0800 } else { 0x86dd };
    frame(Addresses::default().gateway_mac.0, ethertype, &body)
}

/// Starts a gateway that opens one port of the loopback interface, where a server holds all
/// connections.
fn setup(limits: Limits) -> (u16, Running, Guest) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        let _kept: Vec<_> = listener.incoming().collect();
    });
    let config = Config::new()
        .mode(Mode::None)
        .host_ports([port])
        .limits(limits);
    let (running, link) = Running::start(config);
    (port, running, Guest::new(link))
}

/// Checks that the gateway still serves a well-behaved guest.
fn works(guest: &mut Guest, port: u16) {
    let handle = guest.connect(host(port));
    guest.until(|sockets| sockets.get::<Socket<'_>>(handle).state() == State::Established);
}

#[test]
fn frames_that_are_not_the_guests_or_not_frames_are_dropped() {
    let (port, mut running, mut guest) = setup(Limits::default());
    let gateway = Addresses::default().gateway_mac.0;
    let to = host(port).ip();
    let mut short = syn(Addresses::default().guest_v4.into(), 1, to, port);
    short.truncate(30);
    let frames = [
        syn([10, 187, 1, 3].into(), 1, to, port),
        syn([93, 184, 1, 1].into(), 1, to, port),
        syn([0, 0, 0, 0].into(), 1, to, port),
        frame([2, 0, 0, 0, 0, 9], 0x0800, &[0x45; 40]),
        frame(gateway, 0x88cc, &[0; 40]),
        frame(gateway, 0x0800, &[]),
        frame(gateway, 0x0800, &[0x4f; 20]),
        frame(gateway, 0x86dd, &[0x60; 10]),
        short,
        Vec::new(),
        vec![0; 13],
    ];
    for bytes in &frames {
        guest.card.send(bytes);
    }
    // The loopback address is only valid as a source of answers.
    guest
        .card
        .send(&syn(Ipv4Addr::LOCALHOST.into(), 1, to, port));
    let expected = frames.len() as u64;
    let status = running.status_where(|status| status.dropped_frames >= expected);
    assert_eq!(status.dropped_frames, expected);
    assert_eq!(status.tcp_total, 0);
    works(&mut guest, port);
    running.end();
}

/// Destinations that lead to the host's loopback interface, or nowhere, in every notation. No mode
/// and no rule opens them.
const CLOSED: [&str; 24] = [
    "127.0.0.1",
    "127.1.2.3",
    "0.0.0.0",
    "0.1.2.3",
    "224.0.0.1",
    "255.255.255.255",
    "10.187.1.2",
    "10.187.1.77",
    "10.187.1.255",
    "::1",
    "::",
    "::ffff:127.0.0.1",
    "::ffff:93.184.1.1",
    "::127.0.0.1",
    "::ffff:0:127.0.0.1",
    "64:ff9b::127.0.0.1",
    "64:ff9b::0.0.0.0",
    "2002:7f00:1::1",
    "2002:0:0::1",
    "2606:4700::5efe:127.0.0.1",
    "2606:4700::200:5efe:7f00:1",
    "ff02::1",
    "fd62:6c6f:636b:6278::2",
    "fd62:6c6f:636b:6278::77",
];

#[test]
fn no_notation_of_the_loopback_in_a_raw_frame_reaches_it() {
    // Servers listen at the port on both loopback addresses, and another port is open.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let open = TcpListener::bind("127.0.0.1:0").unwrap();
    let open_port = open.local_addr().unwrap().port();
    let listeners = [Some(listener), TcpListener::bind(("::1", port)).ok()];
    let udp = std::net::UdpSocket::bind(("127.0.0.1", port)).unwrap();
    let config = Config::new()
        .mode(Mode::All)
        .allow(["0.0.0.0/0".parse().unwrap(), "::/0".parse().unwrap()])
        .host_ports([open_port]);
    let (mut running, link) = Running::start(config);
    let mut guest = Guest::new(link);
    let addresses = Addresses::default();
    let mut from = 1000;
    for to in CLOSED {
        let to: IpAddr = to.parse().unwrap();
        let own: IpAddr = match to {
            IpAddr::V4(_) => addresses.guest_v4.into(),
            IpAddr::V6(_) => addresses.guest_v6.into(),
        };
        // With the guest's source address, and with the host's.
        let loopback: IpAddr = match to {
            IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        };
        for source in [own, loopback, to] {
            from += 1;
            guest.card.send(&syn(source, from, to, port));
            guest.card.send(&datagram(source, to, port));
            guest.poll();
        }
    }
    // The host's ports that are not open are not reached either.
    guest.card.send(&syn(
        addresses.guest_v4.into(),
        from + 1,
        addresses.host_v4.into(),
        port,
    ));
    guest.card.send(&syn(
        addresses.guest_v6.into(),
        from + 2,
        addresses.host_v6.into(),
        port,
    ));
    // The gateway handles frames in order, so it has handled those above when this returns.
    works(&mut guest, open_port);
    let status = running.status();
    assert_eq!((status.tcp_total, status.udp_total), (1, 0), "{status:#?}");
    assert!(status.denials_total >= 20, "{status:#?}");
    for listener in listeners.iter().flatten() {
        listener.set_nonblocking(true).unwrap();
        assert_eq!(listener.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
    }
    udp.set_nonblocking(true).unwrap();
    let received = udp.recv_from(&mut [0; 16]);
    assert_eq!(received.unwrap_err().kind(), ErrorKind::WouldBlock);
    running.end();
}

#[test]
fn a_flood_of_connections_stays_within_the_limits() {
    let mut limits = Limits::default();
    limits.tcp_flows = 50;
    limits.connect_seconds = 1;
    limits.idle_seconds = 1;
    let (port, mut running, mut guest) = setup(limits);
    let guests = Addresses::default().guest_v4.into();
    for n in 0..5000u16 {
        guest
            .card
            .send(&syn(guests, 10_000 + n, host(port).ip(), port));
        if n % 100 == 0 {
            assert!(running.status().flows.len() <= 50);
            guest.poll();
        }
    }
    let status = running.status();
    assert!(status.denials_total > 0 && status.denials.len() <= 256);
    // Connections that the guest never answered end, and then there is room again.
    running.status_where(|status| {
        guest.poll();
        status.flows.is_empty()
    });
    works(&mut guest, port);
    running.end();
}

#[test]
fn scan_of_denied_addresses_is_counted_in_bounded_memory() {
    let (port, mut running, mut guest) = setup(Limits::default());
    let guests = Addresses::default().guest_v4.into();
    for n in 0..10_000u32 {
        let to = Ipv4Addr::from_bits(0x0a00_0000 + n);
        guest.card.send(&syn(guests, 1000, to.into(), 22));
        if n % 50 == 0 {
            guest.poll();
        }
    }
    let status = running.status_where(|status| {
        guest.poll();
        status.denials_total == 10_000
    });
    assert_eq!(status.denials.len(), 256);
    assert_eq!(status.tcp_total, 0);
    works(&mut guest, port);
    running.end();
}

#[test]
fn changed_frames_of_live_connections_break_only_those() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for peer in listener.incoming() {
            let mut peer = peer.unwrap();
            std::thread::spawn(move || std::io::copy(&mut peer.try_clone().unwrap(), &mut peer));
        }
    });
    let config = Config::new().mode(Mode::None).host_ports([port]);
    let (mut running, link) = Running::start(config);
    let mut guest = Guest::new(link);
    works(&mut guest, port);
    for round in 0..300 {
        guest.card.noise = 2 * round + 1;
        let handles: Vec<_> = (0..4).map(|_| guest.connect(host(port))).collect();
        for turn in 0..60 {
            for (n, handle) in handles.iter().enumerate() {
                let socket = guest.sockets.get_mut::<Socket<'_>>(*handle);
                // The connection may be broken now.
                let _ = socket.send_slice(&[turn; 700]);
                let _ = socket.recv(|bytes| (bytes.len(), ()));
                if turn == 40 && n % 2 == 0 {
                    socket.close();
                }
            }
            guest.poll_now();
        }
        for handle in handles {
            guest.tcp(handle).abort();
        }
        guest.poll_now();
        guest.sockets = smoltcp::iface::SocketSet::new(Vec::new());
        let status = running.status();
        assert!(status.buffer_bytes <= Limits::default().buffer_bytes);
    }
    guest.card.noise = 0;
    works(&mut guest, port);
    running.end();
}

#[test]
fn guest_that_never_reads_loses_only_its_answers() {
    let (port, running, mut guest) = setup(Limits::default());
    let addresses = Addresses::default();
    let mut body = vec![8, 0, 0, 0, 0, 1, 0, 1];
    body.extend([7; 1400]);
    let ip = Ipv4Repr {
        src_addr: addresses.guest_v4,
        dst_addr: addresses.gateway_v4,
        next_header: IpProtocol::Icmp,
        payload_len: body.len(),
        hop_limit: 64,
    };
    let mut packet = vec![0; 20];
    ip.emit(
        &mut Ipv4Packet::new_unchecked(&mut packet),
        &ChecksumCapabilities::default(),
    );
    packet.extend(body);
    let request = frame(addresses.gateway_mac.0, 0x0800, &packet);
    guest.card.paused = true;
    for _ in 0..5000 {
        guest.card.send(&request);
        if guest.card.is_full() {
            guest.work_for(Duration::from_millis(1));
        }
    }
    guest.work_for(Duration::from_millis(100));
    guest.card.paused = false;
    works(&mut guest, port);
    running.end();
}
