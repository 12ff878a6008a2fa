//! Published ports of a guest with Linux's TCP/IP in a network namespace.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests too")]

mod common;

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use blockbox_net::Config;
use common::PATIENCE;
use common::lab::{AT_ONCE, Lab};
use socket2::{Domain, Socket, Type};

/// A public address.
const PUBLIC: &str = "93.184.1.1";

fn at(address: &str, port: u16) -> SocketAddr {
    SocketAddr::new(address.parse().unwrap(), port)
}

#[test]
fn a_published_port_reaches_a_server_on_any_address_of_the_guest() {
    let config = Config::new().publish(["0:80".parse().unwrap(), "0:53/udp".parse().unwrap()]);
    for address in ["0.0.0.0", "127.0.0.1", "fd62:6c6f:636b:6278::2"] {
        let Some(mut lab) = Lab::with(&[PUBLIC], config.clone()) else {
            return;
        };
        // What the guest's init sets, so that the gateway reaches servers on the guest's loopback.
        lab.set(true, "ipv4/conf/eth0/route_localnet", "1");
        let ports = lab.gateway().bound.ports.clone();
        lab.guest(|| {
            let listener = TcpListener::bind(at(address, 80)).unwrap();
            let socket = UdpSocket::bind(at(address, 53)).unwrap();
            std::thread::spawn(move || {
                let (mut peer, _) = listener.accept().unwrap();
                let mut all = Vec::new();
                peer.read_to_end(&mut all).unwrap();
                peer.write_all(&all).unwrap();
            });
            std::thread::spawn(move || {
                let mut data = [0; 100];
                let (count, peer) = socket.recv_from(&mut data).unwrap();
                socket.send_to(&data[..count], peer).unwrap();
            });
        });
        let (mut stream, socket) = lab.outside(|| {
            let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
            socket.connect(ports[1].host).unwrap();
            (TcpStream::connect(ports[0].host).unwrap(), socket)
        });
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(b"question").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut all = Vec::new();
        stream.read_to_end(&mut all).unwrap();
        assert_eq!(all, b"question", "{address}");
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.send(b"datagram").unwrap();
        let mut data = [0; 100];
        let count = socket.recv(&mut data).unwrap();
        assert_eq!(&data[..count], b"datagram", "{address}");
    }
}

/// Linux drops connections that do not fit a server's queue; each retry waits twice as long as the
/// one before.
#[test]
fn a_busy_server_on_the_guests_loopback_gets_every_connection() {
    const CLIENTS: usize = 6;
    let config = Config::new().publish(["0:80".parse().unwrap()]);
    let Some(mut lab) = Lab::with(&[PUBLIC], config) else {
        return;
    };
    lab.set(true, "ipv4/conf/eth0/route_localnet", "1");
    let port = lab.gateway().bound.ports[0].host;
    lab.guest(|| {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.bind(&at("127.0.0.1", 80).into()).unwrap();
        socket.listen(1).unwrap();
        let listener = TcpListener::from(socket);
        std::thread::spawn(move || {
            for served in 0..CLIENTS {
                if served == 1 {
                    // Longer than the retries after 1, 3 and 7 seconds.
                    std::thread::sleep(Duration::from_secs(10));
                }
                let (mut peer, _) = listener.accept().unwrap();
                peer.read_exact(&mut [0; 8]).unwrap();
                peer.write_all(b"served").unwrap();
            }
        });
    });
    let ask = || {
        let mut stream = TcpStream::connect(port)?;
        stream.set_read_timeout(Some(3 * PATIENCE))?;
        stream.write_all(b"question")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok::<_, io::Error>(answer)
    };
    lab.outside(|| {
        std::thread::scope(|scope| {
            let clients: Vec<_> = (0..CLIENTS)
                .map(|_| {
                    // One at a time, because Linux checks the queue when a connection begins.
                    std::thread::sleep(Duration::from_millis(50));
                    scope.spawn(ask)
                })
                .collect();
            for client in clients {
                assert_eq!(client.join().unwrap().unwrap(), "served");
            }
        });
    });
}

#[test]
fn a_published_port_without_a_server_is_reset_at_once() {
    let config = Config::new().publish(["0:80".parse().unwrap()]);
    let Some(mut lab) = Lab::with(&[PUBLIC], config) else {
        return;
    };
    lab.set(true, "ipv4/conf/eth0/route_localnet", "1");
    let port = lab.gateway().bound.ports[0].host;
    let start = Instant::now();
    let mut stream = lab.outside(|| TcpStream::connect(port).unwrap());
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let error = stream.read(&mut [0]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    let took = start.elapsed();
    assert!(took < AT_ONCE, "{took:?}");
}
