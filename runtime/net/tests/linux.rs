//! The gateway and a guest with Linux's own TCP/IP, in network namespaces: what programs see.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests too")]

mod common;

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use blockbox_net::{Config, Mode, Reason, Remedy};
use common::PATIENCE;
use common::lab::{AT_ONCE, Lab};

/// A public address, one of the host itself, a private one, a cloud's metadata service, and public
/// IPv6.
const PUBLIC: &str = "93.184.1.1";
const HOSTS: &str = "93.184.1.9";
const PRIVATE: &str = "10.9.8.7";
const METADATA: &str = "169.254.169.254";
const PUBLIC_V6: &str = "2606:4700::1";
const PRIVATE_V6: &str = "fd77::1";
const ALL: [&str; 6] = [PUBLIC, HOSTS, PRIVATE, METADATA, PUBLIC_V6, PRIVATE_V6];

fn at(address: &str, port: u16) -> SocketAddr {
    SocketAddr::new(address.parse().unwrap(), port)
}

/// Starts a server on every outer address that sends a greeting.
fn serve(lab: &Lab, port: u16) {
    lab.outside(|| {
        let listener = TcpListener::bind(("::", port)).unwrap();
        std::thread::spawn(move || {
            for peer in listener.incoming() {
                let mut peer = peer.unwrap();
                std::thread::spawn(move || {
                    let _ = peer.write_all(b"hello");
                    let _ = peer.shutdown(Shutdown::Write);
                    let _ = peer.read_to_end(&mut Vec::new());
                });
            }
        });
    });
}

/// Returns the outcome of a connection from the guest.
fn reaches(lab: &Lab, to: SocketAddr) -> Result<(), ErrorKind> {
    let mut stream = lab.connect(&to.to_string()).map_err(|error| {
        eprintln!("{to}: {error}");
        error.kind()
    })?;
    let mut all = String::new();
    stream
        .read_to_string(&mut all)
        .map_err(|error| error.kind())?;
    assert_eq!(all, "hello");
    Ok(())
}

#[test]
fn each_mode_reaches_what_it_documents_and_programs_see_why_not() {
    for (mode, reached) in [
        (Mode::None, &[][..]),
        (Mode::Public, &[PUBLIC, PUBLIC_V6][..]),
        (Mode::All, &ALL[..]),
    ] {
        let hosts: IpAddr = HOSTS.parse().unwrap();
        let config = Config::new().mode(mode).host_addresses([hosts]);
        let Some(mut lab) = Lab::with(&ALL, config) else {
            return;
        };
        serve(&lab, 80);
        for address in ALL {
            let start = Instant::now();
            let result = reaches(&lab, at(address, 80));
            assert!(start.elapsed() < AT_ONCE, "{mode:?} {address}");
            if reached.contains(&address) {
                assert_eq!(result, Ok(()), "{mode:?} {address}");
                continue;
            }
            // EHOSTUNREACH, EACCES: "administratively prohibited" of ICMP and ICMPv6.
            let expected = if address.contains(':') {
                ErrorKind::PermissionDenied
            } else {
                ErrorKind::HostUnreachable
            };
            assert_eq!(result, Err(expected), "{mode:?} {address}");
            let status = lab.gateway().status();
            let denial = status.denials.last().unwrap();
            assert_eq!(denial.destination, Some(at(address, 80)));
            assert!(matches!(&denial.remedy, Some(Remedy::Allow(_))));
        }
    }
}

#[test]
fn the_rule_of_a_denial_opens_what_was_denied_and_no_more() {
    let Some(mut lab) = Lab::with(&ALL, Config::new()) else {
        return;
    };
    serve(&lab, 80);
    assert!(reaches(&lab, at(PRIVATE, 80)).is_err());
    let status = lab.gateway().status();
    let Some(Remedy::Allow(rule)) = status.denials[0].remedy.clone() else {
        panic!("{status:?}");
    };
    drop(lab);
    let Some(lab) = Lab::with(&ALL, Config::new().allow([rule])) else {
        return;
    };
    serve(&lab, 80);
    serve(&lab, 81);
    assert_eq!(reaches(&lab, at(PRIVATE, 80)), Ok(()));
    assert!(reaches(&lab, at(PRIVATE, 81)).is_err());
    assert!(reaches(&lab, at(METADATA, 80)).is_err());
}

#[test]
fn no_address_in_disguise_reaches_the_hosts_loopback() {
    let Some(lab) = Lab::with(&[PUBLIC], Config::new().mode(Mode::All)) else {
        return;
    };
    serve(&lab, 80);
    // A guest's kernel sends none of these by itself; a hostile guest does.
    for address in [
        "127.0.0.1",
        "127.1.2.3",
        "0.0.0.0",
        "::1",
        "::",
        "::ffff:127.0.0.1",
        "64:ff9b::127.0.0.1",
    ] {
        lab.set(true, "ipv4/conf/all/route_localnet", "1");
        let result = lab.guest(|| TcpStream::connect_timeout(&at(address, 80), AT_ONCE));
        assert!(result.is_err(), "{address}");
    }
    let host = blockbox_net::Addresses::default();
    for address in [
        IpAddr::V4(host.host_v4),
        host.gateway_v4.into(),
        host.host_v6.into(),
    ] {
        assert!(
            reaches(&lab, SocketAddr::new(address, 80)).is_err(),
            "{address}"
        );
    }
}

#[test]
fn refused_is_refused_and_unreachable_is_unreachable() {
    let Some(lab) = Lab::with(&[PUBLIC, PUBLIC_V6], Config::new()) else {
        return;
    };
    lab.unreachable("93.184.2.2".parse().unwrap());
    for (address, expected) in [
        (PUBLIC, ErrorKind::ConnectionRefused),
        (PUBLIC_V6, ErrorKind::ConnectionRefused),
        ("93.184.2.2", ErrorKind::HostUnreachable),
        // There is no route.
        ("8.8.8.8", ErrorKind::HostUnreachable),
        ("2606:4700::2", ErrorKind::HostUnreachable),
    ] {
        let start = Instant::now();
        let result = lab.connect(&at(address, 81).to_string());
        assert_eq!(result.unwrap_err().kind(), expected, "{address}");
        assert!(start.elapsed() < AT_ONCE, "{address}");
    }
}

#[test]
fn a_host_that_never_answers_is_unreachable_after_its_time() {
    let mut limits = blockbox_net::Limits::default();
    limits.connect_seconds = 1;
    let Some(mut lab) = Lab::with(&[PUBLIC], Config::new().limits(limits)) else {
        return;
    };
    lab.silent("93.184.3.0/24");
    let start = Instant::now();
    let error = lab.connect("93.184.3.3:80").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::HostUnreachable);
    let took = start.elapsed();
    assert!(
        took > Duration::from_millis(900) && took < 3 * AT_ONCE,
        "{took:?}"
    );
    assert!(lab.gateway().status().flows.is_empty());
}

/// Starts a UDP server that sends back what it receives.
fn udp_echo(lab: &Lab, address: SocketAddr) {
    lab.outside(|| {
        let socket = UdpSocket::bind(address).unwrap();
        std::thread::spawn(move || {
            let mut data = [0; 65_536];
            while let Ok((count, peer)) = socket.recv_from(&mut data) {
                socket.send_to(&data[..count], peer).unwrap();
            }
        });
    });
}

fn guest_udp(lab: &Lab, to: SocketAddr) -> UdpSocket {
    let socket = lab.guest(|| {
        let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let socket = UdpSocket::bind(any).unwrap();
        socket.connect(to).unwrap();
        socket
    });
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

#[test]
fn datagrams_of_every_size_come_back_fragmented_if_necessary() {
    let Some(mut lab) = Lab::with(&[PUBLIC, PUBLIC_V6], Config::new()) else {
        return;
    };
    for address in [PUBLIC, PUBLIC_V6] {
        let to = at(address, 7);
        udp_echo(&lab, to);
        let socket = guest_udp(&lab, to);
        for size in [0, 1, 1452, 1453, 1472, 1473, 4000, 20_000, 60_000] {
            let data = testkit::noise(size as u64, size);
            socket.send(&data).unwrap();
            let mut answer = vec![0; 65_536];
            let count = socket.recv(&mut answer).unwrap();
            assert_eq!(answer[..count], data, "{address} {size}");
        }
    }
    assert_eq!(lab.gateway().status().udp_total, 2);
}

#[test]
fn undeliverable_datagram_is_reported_to_its_sender() {
    let Some(lab) = Lab::with(&[PUBLIC, PUBLIC_V6, PRIVATE], Config::new()) else {
        return;
    };
    for (address, expected) in [
        (PUBLIC, ErrorKind::ConnectionRefused),
        (PUBLIC_V6, ErrorKind::ConnectionRefused),
        (PRIVATE, ErrorKind::HostUnreachable),
    ] {
        let socket = guest_udp(&lab, at(address, 9));
        socket.send(b"anyone?").unwrap();
        let error = socket.recv(&mut [0; 16]).unwrap_err();
        assert_eq!(error.kind(), expected, "{address}");
    }
}

#[test]
fn ping_is_answered_for_the_gateway_and_for_reachable_hosts() {
    let Some(lab) = Lab::with(&[PUBLIC, PRIVATE, PUBLIC_V6], Config::new()) else {
        return;
    };
    if testkit::oracle("ping").is_none() {
        return;
    }
    lab.set(false, "ipv4/ping_group_range", "\"0 2147483647\"");
    for (address, size, answered) in [
        ("10.187.1.1", "56", true),
        ("10.187.1.254", "56", true),
        ("fd62:6c6f:636b:6278::1", "56", true),
        ("10.187.1.1", "4000", true),
        (PUBLIC, "56", true),
        (PUBLIC, "4000", true),
        (PUBLIC_V6, "56", true),
        (PRIVATE, "56", false),
    ] {
        let output = lab.run("ping", &["-c", "1", "-W", "2", "-s", size, address]);
        assert_eq!(
            output.status.success(),
            answered,
            "{address} {size}: {output:?}"
        );
    }
}

#[test]
fn a_reset_in_the_middle_crosses_both_ways() {
    let Some(lab) = Lab::with(&[PUBLIC], Config::new()) else {
        return;
    };
    let listener = lab.outside(|| TcpListener::bind(at(PUBLIC, 80)).unwrap());
    for guest_resets in [false, true] {
        let stream = lab.connect(&at(PUBLIC, 80).to_string()).unwrap();
        let (peer, _) = listener.accept().unwrap();
        peer.set_read_timeout(Some(PATIENCE)).unwrap();
        let (first, mut second) = if guest_resets {
            (stream, peer)
        } else {
            (peer, stream)
        };
        second.write_all(&[0; 1000]).unwrap();
        std::thread::sleep(Duration::from_millis(50));
        let reset = socket2::SockRef::from(&first);
        reset.set_linger(Some(Duration::ZERO)).unwrap();
        drop(first);
        let error = second.read(&mut [0]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{guest_resets}");
    }
}

#[test]
fn every_denial_is_explained() {
    let config = Config::new()
        .host_ports([8080])
        .deny(["93.184.1.1:25".parse().unwrap()]);
    let Some(mut lab) = Lab::with(&[PUBLIC, PRIVATE], config) else {
        return;
    };
    assert!(reaches(&lab, at(PUBLIC, 25)).is_err());
    assert!(reaches(&lab, at("10.187.1.254", 22)).is_err());
    let status = lab.gateway().status();
    let reasons: Vec<_> = status
        .denials
        .iter()
        .map(|denial| (denial.reason.clone(), denial.remedy.clone()))
        .collect();
    let rule: blockbox_net::Rule = "93.184.1.1:25".parse().unwrap();
    assert_eq!(
        reasons,
        [
            (
                Reason::Denied { rule: rule.clone() },
                Some(Remedy::RemoveDeny(rule))
            ),
            (Reason::HostPort, Some(Remedy::HostPort(22))),
        ]
    );
}

/// Starts an outer name server that answers every name with the public address.
fn named(lab: &mut Lab, config: Config) {
    let upstream =
        lab.outside(|| common::upstream::serve(|_| common::upstream::addresses(&[PUBLIC])));
    let mut data = blockbox_net::ResolverData::default();
    data.nameservers = vec![blockbox_net::Nameserver::new(upstream)];
    lab.start(config.resolver(data));
}

/// Looks up a name as the guest's programs do.
fn look_up(lab: &Lab, name: &str) {
    use hickory_proto::op::{Message, MessageType, OpCode, Query};
    let socket = guest_udp(lab, at("10.187.1.1", 53));
    let mut message = Message::new(1, MessageType::Query, OpCode::Query);
    let name = hickory_proto::rr::Name::from_ascii(name).unwrap();
    message.add_query(Query::query(name, hickory_proto::rr::RecordType::A));
    socket.send(&message.to_vec().unwrap()).unwrap();
    socket.recv(&mut [0; 512]).unwrap();
}

/// Returns a ClientHello that asks for a name.
fn hello(name: &str) -> Vec<u8> {
    let sized = |length: usize, bytes: &[u8]| {
        let mut out = bytes.len().to_be_bytes()[8 - length..].to_vec();
        out.extend_from_slice(bytes);
        out
    };
    let names = [&[0][..], &sized(2, name.as_bytes())].concat();
    let extension = [&[0, 0][..], &sized(2, &sized(2, &names))].concat();
    let body = [
        &[3, 3][..],
        &[7; 32],
        &[0],
        &sized(2, &[0x13, 1]),
        &sized(1, &[0]),
        &sized(2, &extension),
    ]
    .concat();
    let handshake = [&[1][..], &sized(3, &body)].concat();
    [&[22, 3, 1][..], &sized(2, &handshake)].concat()
}

#[test]
fn a_name_opens_its_address_and_a_connection_that_asks_for_another_is_reset() {
    let Some(mut lab) = Lab::new(&[PUBLIC]) else {
        return;
    };
    let config = Config::new()
        .mode(Mode::None)
        .allow(["good.example:80".parse().unwrap()]);
    named(&mut lab, config);
    let listener = lab.outside(|| TcpListener::bind(at(PUBLIC, 80)).unwrap());
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
    let to = at(PUBLIC, 80).to_string();
    // The name has not been looked up yet; other names with the same address open nothing.
    assert!(lab.connect(&to).is_err());
    look_up(&lab, "other.example.");
    assert!(lab.connect(&to).is_err());
    look_up(&lab, "good.example.");
    assert!(lab.connect(&at(PUBLIC, 81).to_string()).is_err());
    let http = |host: &str| format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n").into_bytes();
    for (bytes, passes) in [
        (http("good.example"), true),
        (http("Good.Example:80"), true),
        (http("evil.example"), false),
        (
            b"GET http://evil.example/ HTTP/1.1\r\nHost: good.example\r\n\r\n".to_vec(),
            false,
        ),
        (hello("good.example"), true),
        (hello("evil.example"), false),
        (b"\x01binary".to_vec(), true),
    ] {
        let mut stream = lab.connect(&to).unwrap();
        // In two segments, of which the first does not contain the name.
        let (head, tail) = bytes.split_at(4);
        stream.set_nodelay(true).unwrap();
        stream.write_all(head).unwrap();
        std::thread::sleep(Duration::from_millis(30));
        let result = stream.write_all(tail).and_then(|()| {
            let mut all = vec![0; bytes.len()];
            stream.read_exact(&mut all)?;
            Ok(all)
        });
        let shown = String::from_utf8_lossy(&bytes).into_owned();
        match result {
            Ok(all) => assert!(passes && all == bytes, "{shown}"),
            Err(error) => {
                assert!(!passes, "{shown}: {error}");
                assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{shown}");
            }
        }
    }
    let denials = lab.gateway().status().denials;
    let others = denials
        .iter()
        .filter(
            |denial| matches!(&denial.reason, Reason::OtherName { name } if name == "evil.example"),
        )
        .map(|denial| denial.count)
        .sum::<u64>();
    assert_eq!(others, 3, "{denials:#?}");
}

#[test]
fn denied_name_is_refused_at_every_address() {
    let Some(mut lab) = Lab::new(&[PUBLIC]) else {
        return;
    };
    named(
        &mut lab,
        Config::new().deny(["ads.example".parse().unwrap()]),
    );
    serve(&lab, 80);
    let to = at(PUBLIC, 80);
    // A server that sends first is not delayed.
    assert_eq!(reaches(&lab, to), Ok(()));
    let mut stream = lab.connect(&to.to_string()).unwrap();
    stream
        .write_all(b"GET / HTTP/1.1\r\nHost: ads.example\r\n\r\n")
        .unwrap();
    let rule: blockbox_net::Rule = "ads.example".parse().unwrap();
    let status = lab
        .gateway()
        .status_where(|status| status.denials_total == 1);
    assert_eq!(status.denials[0].reason, Reason::Denied { rule });
    assert_eq!(status.denials[0].name.as_deref(), Some("ads.example"));
    // The server has not received a byte of the request.
    assert!(status.flows.iter().all(|flow| flow.sent == 0));
    let mut all = Vec::new();
    let _ = stream.read_to_end(&mut all);
    assert!(all == b"hello" || all.is_empty());
}

#[test]
fn connection_without_a_server_name_is_closed_in_bounded_time() {
    let Some(mut lab) = Lab::new(&[PUBLIC]) else {
        return;
    };
    named(
        &mut lab,
        Config::new().deny(["ads.example".parse().unwrap()]),
    );
    let _listener = lab.outside(|| TcpListener::bind(at(PUBLIC, 80)).unwrap());
    let mut stream = lab.connect(&at(PUBLIC, 80).to_string()).unwrap();
    stream.write_all(b"GET / HTT").unwrap();
    let start = Instant::now();
    let error = stream.read(&mut [0]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    assert!(start.elapsed() < Duration::from_secs(8));
    let status = lab.gateway().status();
    assert_eq!(status.denials[0].reason, Reason::NameNotFound);
}

#[test]
fn programs_fetch_by_name() {
    let Some(mut lab) = Lab::new(&[PUBLIC]) else {
        return;
    };
    if testkit::oracle("curl").is_none() {
        return;
    }
    named(&mut lab, Config::new());
    let listener = lab.outside(|| TcpListener::bind(at(PUBLIC, 80)).unwrap());
    std::thread::spawn(move || {
        let (mut peer, _) = listener.accept().unwrap();
        let _ = peer.read(&mut [0; 4096]).unwrap();
        let head = "HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\nConnection: close\r\n\r\n";
        peer.write_all(head.as_bytes()).unwrap();
        peer.write_all(&[b'x'; 1_000_000]).unwrap();
    });
    let output = lab.run("curl", &["-sS", "http://web.example/"]);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(output.stdout.len(), 1_000_000);
}
