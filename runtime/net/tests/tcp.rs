//! TCP through the gateway, with a guest that runs smoltcp and servers on the loopback interface.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests too")]

mod common;

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use blockbox_net::{Config, Limits, Request, Response};
use common::{Guest, Running, host, host_v6};
use sha2::{Digest, Sha256};
use smoltcp::iface::SocketHandle;
use smoltcp::socket::tcp::{Socket, State};
use socket2::SockRef;

/// Starts a listener on the loopback interface, a gateway that opens its port, and a guest.
fn setup() -> (TcpListener, u16, Running, Guest) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let (running, link) = Running::start(Config::new().host_ports([port]));
    (listener, port, running, Guest::new(link))
}

/// Accepts the next connection of the guest.
fn accept(listener: &TcpListener) -> TcpStream {
    let (peer, _) = listener.accept().unwrap();
    peer.set_read_timeout(Some(common::PATIENCE)).unwrap();
    peer
}

fn state(guest: &mut Guest, handle: SocketHandle) -> State {
    guest.tcp(handle).state()
}

#[test]
fn connection_refused_outside_is_refused_inside() {
    let (listener, port, running, mut guest) = setup();
    drop(listener);
    let start = Instant::now();
    let handle = guest.connect(host(port));
    guest.until(|sockets| sockets.get::<Socket<'_>>(handle).state() == State::Closed);
    assert!(start.elapsed() < Duration::from_secs(1));
    running.end();
}

#[test]
fn each_side_may_end_while_the_other_goes_on() {
    let (listener, port, mut running, mut guest) = setup();
    for (to, first) in [(host(port), "guest"), (host(port), "server")] {
        let handle = guest.connect(to);
        let server = std::thread::spawn({
            let listener = listener.try_clone().unwrap();
            move || {
                let mut peer = accept(&listener);
                let mut all = Vec::new();
                if first == "server" {
                    peer.write_all(b"early").unwrap();
                    peer.shutdown(Shutdown::Write).unwrap();
                    peer.read_to_end(&mut all).unwrap();
                } else {
                    peer.read_to_end(&mut all).unwrap();
                    peer.write_all(b"late").unwrap();
                }
                all
            }
        });
        guest.until(|sockets| sockets.get::<Socket<'_>>(handle).may_send());
        if first == "server" {
            assert_eq!(guest.read_to_end(handle), b"early");
            guest.send(handle, &[7; 100_000]);
            guest.tcp(handle).close();
        } else {
            guest.send(handle, &[7; 100_000]);
            guest.tcp(handle).close();
            assert_eq!(guest.read_to_end(handle), b"late");
        }
        guest.until(|sockets| {
            matches!(
                sockets.get::<Socket<'_>>(handle).state(),
                State::TimeWait | State::Closed
            )
        });
        assert_eq!(server.join().unwrap(), [7; 100_000]);
    }
    running.status_where(|status| status.flows.is_empty() && status.buffer_bytes == 0);
    running.end();
}

#[test]
fn a_reset_outside_is_a_reset_inside() {
    let (listener, port, running, mut guest) = setup();
    let handle = guest.connected(host(port));
    let peer = accept(&listener);
    guest.send(handle, b"hello");
    SockRef::from(&peer)
        .set_linger(Some(Duration::ZERO))
        .unwrap();
    drop(peer);
    guest.until(|sockets| sockets.get::<Socket<'_>>(handle).state() == State::Closed);
    running.end();
}

#[test]
fn a_reset_inside_is_a_reset_outside() {
    let (listener, port, mut running, mut guest) = setup();
    let handle = guest.connected(host(port));
    let mut peer = accept(&listener);
    guest.send(handle, b"hello");
    let mut bytes = [0; 5];
    peer.read_exact(&mut bytes).unwrap();
    guest.tcp(handle).abort();
    guest.work_for(Duration::from_millis(50));
    let error = peer.read(&mut bytes).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    running.status_where(|status| status.flows.is_empty());
    running.end();
}

#[test]
fn a_connection_given_up_before_it_is_answered_leaves_nothing() {
    let (listener, port, mut running, mut guest) = setup();
    // The first one finds the gateway's Ethernet address, so that the second one's SYN leaves at
    // once.
    for _ in 0..2 {
        let handle = guest.connect(host(port));
        guest.poll();
        guest.tcp(handle).abort();
        guest.work_for(Duration::from_millis(50));
    }
    let mut peer = accept(&listener);
    assert!(peer.read(&mut [0]).is_err());
    running.status_where(|status| status.flows.is_empty() && status.buffer_bytes == 0);
    running.end();
}

#[test]
fn ipv6_inside_reaches_ipv6_outside() {
    let Ok(listener) = TcpListener::bind("[::1]:0") else {
        return testkit::skip("there is no IPv6 loopback");
    };
    let port = listener.local_addr().unwrap().port();
    let (running, link) = Running::start(Config::new().host_ports([port]));
    let mut guest = Guest::new(link);
    let handle = guest.connected(host_v6(port));
    let mut peer = accept(&listener);
    peer.write_all(b"six").unwrap();
    drop(peer);
    assert_eq!(guest.read_to_end(handle), b"six");
    running.end();
}

#[test]
fn servers_on_one_address_of_the_hosts_loopback_are_reached_at_both() {
    for bound in ["127.0.0.1:0", "[::1]:0"] {
        let Ok(listener) = TcpListener::bind(bound) else {
            testkit::skip("there is no IPv6 loopback");
            continue;
        };
        let port = listener.local_addr().unwrap().port();
        let (running, link) = Running::start(Config::new().host_ports([port]));
        let mut guest = Guest::new(link);
        for to in [host(port), host_v6(port)] {
            let handle = guest.connected(to);
            let mut peer = accept(&listener);
            peer.write_all(b"reached").unwrap();
            drop(peer);
            assert_eq!(guest.read_to_end(handle), b"reached", "{bound} {to}");
        }
        drop(listener);
        // A port without a server is refused at both, at once.
        for to in [host(port), host_v6(port)] {
            let handle = guest.connect(to);
            guest.until(|sockets| sockets.get::<Socket<'_>>(handle).state() == State::Closed);
        }
        running.end();
    }
}

#[test]
fn bytes_arrive_as_they_were_sent_both_ways_at_once() {
    const SIZE: usize = 16 << 20;
    let (listener, port, running, mut guest) = setup();
    let contents = |seed: u32| -> Vec<u8> {
        let mut state = seed;
        (0..SIZE)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 24) as u8
            })
            .collect()
    };
    let (up, down) = (contents(1), contents(2));
    let expected = Sha256::digest(&up);
    let handle = guest.connected(host(port));
    let server = std::thread::spawn({
        let down = down.clone();
        move || {
            let mut peer = accept(&listener);
            let mut writer = peer.try_clone().unwrap();
            let writing = std::thread::spawn(move || {
                writer.write_all(&down).unwrap();
                writer.shutdown(Shutdown::Write).unwrap();
            });
            let mut all = Vec::new();
            peer.read_to_end(&mut all).unwrap();
            writing.join().unwrap();
            Sha256::digest(&all)
        }
    });
    let (mut sent, mut received) = (0, Vec::with_capacity(SIZE));
    guest.until(|sockets| {
        let socket = sockets.get_mut::<Socket<'_>>(handle);
        if sent < SIZE {
            sent += socket.send_slice(&up[sent..]).unwrap();
            if sent == SIZE {
                socket.close();
            }
        }
        while socket.can_recv() {
            socket
                .recv(|bytes| {
                    received.extend_from_slice(bytes);
                    (bytes.len(), ())
                })
                .unwrap();
        }
        sent == SIZE && !socket.may_recv()
    });
    assert_eq!(received.len(), SIZE);
    assert_eq!(Sha256::digest(&received), Sha256::digest(&down));
    guest.until(|_| server.is_finished());
    assert_eq!(server.join().unwrap(), expected);
    running.end();
}

/// Starts a server that sends back what each connection sends.
fn echo(listener: TcpListener) {
    std::thread::spawn(move || {
        for peer in listener.incoming() {
            let mut peer = peer.unwrap();
            std::thread::spawn(move || {
                let mut bytes = [0; 4096];
                while let Ok(count @ 1..) = peer.read(&mut bytes) {
                    if peer.write_all(&bytes[..count]).is_err() {
                        break;
                    }
                }
            });
        }
    });
}

#[test]
fn a_hundred_connections_at_once_have_each_their_own_bytes() {
    let (listener, port, mut running, mut guest) = setup();
    echo(listener);
    let handles: Vec<_> = (0..100).map(|_| guest.connect(host(port))).collect();
    for &handle in &handles {
        guest.until(|sockets| sockets.get::<Socket<'_>>(handle).may_send());
    }
    assert_eq!(running.status().flows.len(), 100);
    for (n, &handle) in handles.iter().enumerate() {
        guest.send(handle, &[n as u8; 3000]);
    }
    for (n, &handle) in handles.iter().enumerate() {
        assert_eq!(guest.read(handle, 3000), [n as u8; 3000]);
        guest.tcp(handle).close();
    }
    running.status_where(|status| {
        guest.poll();
        status.flows.is_empty()
    });
    running.end();
}

#[test]
fn a_thousand_short_connections_leave_nothing() {
    let (listener, port, mut running, mut guest) = setup();
    echo(listener);
    for n in 0..1000 {
        let handle = guest.connected(host(port));
        guest.send(handle, b"ping");
        assert_eq!(guest.read(handle, 4), b"ping", "{n}");
        guest.tcp(handle).close();
        guest.until(|sockets| {
            let state = sockets.get::<Socket<'_>>(handle).state();
            matches!(state, State::TimeWait | State::Closed)
        });
        guest.sockets.remove(handle);
    }
    let status = running.status_where(|status| status.flows.is_empty());
    assert_eq!(status.tcp_total, 1000);
    assert_eq!(status.buffer_bytes, 0);
    assert_eq!((status.sent, status.received), (4000, 4000));
    running.end();
}

#[test]
fn a_server_that_stops_reading_stops_the_guest() {
    let (listener, port, mut running, mut guest) = setup();
    let handle = guest.connected(host(port));
    let mut peer = accept(&listener);
    let mut sent = 0usize;
    let mut last = Instant::now();
    guest.until(|sockets| {
        let socket = sockets.get_mut::<Socket<'_>>(handle);
        let count = socket.send_slice(&[1; 4096]).unwrap();
        if count > 0 {
            last = Instant::now();
        }
        sent += count;
        last.elapsed() > Duration::from_millis(500)
    });
    assert!(sent < 16 << 20, "{sent}");
    assert!(running.status().buffer_bytes <= 1 << 20);
    // The transfer continues when the server reads again.
    guest.tcp(handle).close();
    let server = std::thread::spawn(move || {
        let mut all = Vec::new();
        peer.read_to_end(&mut all).unwrap();
        all.len()
    });
    guest.until(|_| server.is_finished());
    assert_eq!(server.join().unwrap(), sent);
    running.end();
}

#[test]
fn a_guest_that_stops_reading_stops_the_server() {
    let (listener, port, mut running, mut guest) = setup();
    let handle = guest.connected(host(port));
    let mut peer = accept(&listener);
    peer.set_nonblocking(true).unwrap();
    // Once with a full window, and once with frames left in the socket.
    for paused in [false, true] {
        guest.card.paused = paused;
        let mut last = Instant::now();
        let mut sent = 0;
        while last.elapsed() < Duration::from_millis(500) {
            match peer.write(&[1; 65536]) {
                Ok(count) => {
                    sent += count;
                    last = Instant::now();
                }
                Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
            }
            guest.poll();
            assert!(sent < 64 << 20);
        }
    }
    // Other connections are served meanwhile, as far as the link has room.
    assert_eq!(running.status().flows.len(), 1);
    guest.card.paused = false;
    drop(peer);
    assert!(!guest.read_to_end(handle).is_empty());
    running.end();
}

#[test]
fn limits_on_connections_and_buffers_hold() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut limits = Limits::default();
    limits.tcp_flows = 10;
    limits.buffer_bytes = 200 << 10;
    let (mut running, link) = Running::start(Config::new().host_ports([port]).limits(limits));
    let mut guest = Guest::new(link);
    let handles: Vec<_> = (0..30).map(|_| guest.connect(host(port))).collect();
    guest.work_for(Duration::from_millis(300));
    let status = running.status();
    assert!(status.buffer_bytes <= limits.buffer_bytes);
    assert!(status.flows.len() <= 10);
    assert!(status.denials_total > 0);
    let open = handles
        .iter()
        .filter(|handle| guest.sockets.get::<Socket<'_>>(**handle).may_send())
        .count();
    assert!((1..=10).contains(&open), "{open}");
    running.end();
}

#[test]
fn a_silent_connection_is_forgotten_after_its_time() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut limits = Limits::default();
    limits.idle_seconds = 1;
    let (mut running, link) = Running::start(Config::new().host_ports([port]).limits(limits));
    let mut guest = Guest::new(link);
    let handle = guest.connected(host(port));
    let mut peer = accept(&listener);
    guest.until(|sockets| sockets.get::<Socket<'_>>(handle).state() == State::Closed);
    assert!(peer.read(&mut [0]).is_err());
    running.status_where(|status| status.flows.is_empty());
    running.end();
}

#[test]
fn a_published_port_reaches_the_guests_server() {
    let (mut running, link) = Running::start(Config::new().publish(["0:80".parse().unwrap()]));
    let mut guest = Guest::new(link);
    let address = running.bound.ports[0].host;
    assert!(address.ip().is_loopback());
    let space = || smoltcp::socket::tcp::SocketBuffer::new(vec![0; 64 << 10]);
    let mut socket = Socket::new(space(), space());
    socket.listen(80).unwrap();
    let handle = guest.sockets.add(socket);
    let client = std::thread::spawn(move || {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(b"question").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut all = Vec::new();
        stream.read_to_end(&mut all).unwrap();
        all
    });
    assert_eq!(guest.read_to_end(handle), b"question");
    let status = running.status();
    assert!(status.flows[0].inbound);
    guest.send(handle, b"answer");
    guest.tcp(handle).close();
    guest.until(|_| client.is_finished());
    assert_eq!(client.join().unwrap(), b"answer");
    running.status_where(|status| {
        guest.poll();
        status.flows.is_empty()
    });
    running.end();
}

#[test]
fn a_published_port_without_a_server_resets_its_client() {
    let (running, link) = Running::start(Config::new().publish(["0:80".parse().unwrap()]));
    let mut guest = Guest::new(link);
    let address = running.bound.ports[0].host;
    let client = std::thread::spawn(move || {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.read(&mut [0]).unwrap_err().kind()
    });
    guest.until(|_| client.is_finished());
    assert_eq!(client.join().unwrap(), ErrorKind::ConnectionReset);
    running.end();
}

#[test]
fn a_port_that_is_taken_is_named_before_anything_starts() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let (frames, _link) = std::os::unix::net::UnixStream::pair().unwrap();
    let (control, _ours) = std::os::unix::net::UnixStream::pair().unwrap();
    let config = Config::new().publish([format!("{port}:80").parse().unwrap()]);
    let Err(error) = blockbox_net::Gateway::new(config, frames, control) else {
        panic!("a taken port was bound");
    };
    assert_eq!(
        error.to_string(),
        format!("cannot publish 127.0.0.1:{port}/tcp")
    );
    assert!(std::error::Error::source(&error).is_some());
}

#[test]
fn the_gateway_ends_with_its_link_its_control_socket_and_on_request() {
    let (mut running, link) = Running::start(Config::new());
    drop(link);
    running.join().unwrap();
    let (running, _link) = Running::start(Config::new());
    running.end();
    let (mut running, _link) = Running::start(Config::new());
    let answer = running.ask_raw(b"nonsense\n");
    assert!(matches!(answer, Response::Error { .. }));
    assert!(matches!(running.ask(&Request::Status), Response::Status(_)));
}

#[test]
fn a_segment_of_no_connection_is_reset() {
    let (_listener, port, running, mut guest) = setup();
    let handle = guest.connected(host(port));
    // A new gateway does not know the connections of the previous one.
    running.end();
    let (running, link) = Running::start(Config::new());
    let mut next = Guest::new(link);
    std::mem::swap(&mut guest.card, &mut next.card);
    guest.tcp(handle).send_slice(b"x").unwrap();
    guest.until(|sockets| sockets.get::<Socket<'_>>(handle).state() == State::Closed);
    assert_eq!(state(&mut guest, handle), State::Closed);
    running.end();
}
