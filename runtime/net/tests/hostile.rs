//! Frames that no well-behaved kernel sends, and more of them than anybody needs.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests too")]

mod common;

use std::net::{IpAddr, Ipv4Addr, TcpListener};
use std::time::Duration;

use blockbox_net::{Addresses, Config, Limits, Mode};
use common::{Guest, Running, host};
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::socket::tcp::{Socket, State};
use smoltcp::wire::{
    IpProtocol, Ipv4Packet, Ipv4Repr, TcpControl, TcpPacket, TcpRepr, TcpSeqNumber,
};

fn frame(to: [u8; 6], ethertype: u16, body: &[u8]) -> Vec<u8> {
    let mut frame = to.to_vec();
    frame.extend(Addresses::default().guest_mac);
    frame.extend(ethertype.to_be_bytes());
    frame.extend(body);
    frame
}

/// A frame with a SYN.
fn syn(from: Ipv4Addr, from_port: u16, to: IpAddr, to_port: u16) -> Vec<u8> {
    let IpAddr::V4(to) = to else { panic!("{to}") };
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
    let ip = Ipv4Repr {
        src_addr: from,
        dst_addr: to,
        next_header: IpProtocol::Tcp,
        payload_len: segment.buffer_len(),
        hop_limit: 64,
    };
    let checks = ChecksumCapabilities::default();
    let mut body = vec![0; ip.buffer_len() + segment.buffer_len()];
    ip.emit(&mut Ipv4Packet::new_unchecked(&mut body), &checks);
    segment.emit(
        &mut TcpPacket::new_unchecked(&mut body[20..]),
        &from.into(),
        &to.into(),
        &checks,
    );
    frame(Addresses::default().gateway_mac, 0x0800, &body)
}

/// A gateway that opens one port of the loopback, where a server keeps whoever connects.
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

/// The gateway still serves a guest that behaves.
fn works(guest: &mut Guest, port: u16) {
    let handle = guest.connect(host(port));
    guest.until(|sockets| sockets.get::<Socket<'_>>(handle).state() == State::Established);
}

#[test]
fn frames_that_are_not_the_guests_or_not_frames_are_dropped() {
    let (port, mut running, mut guest) = setup(Limits::default());
    let gateway = Addresses::default().gateway_mac;
    let to = host(port).ip();
    let mut short = syn(Addresses::default().guest_v4, 1, to, port);
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
    // The loopback's address is the source of answers only.
    guest.card.send(&syn(Ipv4Addr::LOCALHOST, 1, to, port));
    let expected = frames.len() as u64;
    let status = running.status_where(|status| status.dropped_frames >= expected);
    assert_eq!(status.dropped_frames, expected);
    assert_eq!(status.tcp_total, 0);
    works(&mut guest, port);
    running.end();
}

#[test]
fn a_flood_of_connections_stays_within_the_limits() {
    let mut limits = Limits::default();
    limits.tcp_flows = 50;
    limits.connect_seconds = 1;
    limits.idle_seconds = 1;
    let (port, mut running, mut guest) = setup(limits);
    let guests = Addresses::default().guest_v4;
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
    // Those that the guest never answered end, and then there is room again.
    running.status_where(|status| {
        guest.poll();
        status.flows.is_empty()
    });
    works(&mut guest, port);
    running.end();
}

#[test]
fn a_scan_of_what_is_denied_is_counted_in_bounded_memory() {
    let (port, mut running, mut guest) = setup(Limits::default());
    let guests = Addresses::default().guest_v4;
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
fn changed_frames_of_live_connections_break_nothing_but_those() {
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
                // What comes back may be anything now.
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
fn a_guest_that_asks_and_never_reads_loses_answers_and_nothing_else() {
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
    let request = frame(addresses.gateway_mac, 0x0800, &packet);
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
