//! The guest's name server, with a guest that runs smoltcp and name servers on the loopback
//! interface.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests too")]

mod common;

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use blockbox_net::{
    Addresses, Config, HostEntry, Mode, Nameserver, Reason, Remedy, Request, ResolverData, Response,
};
use common::upstream::{Answer, addresses, serve};
use common::{Guest, Running};
use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RecordType};

fn resolver(servers: &[SocketAddr]) -> ResolverData {
    let mut data = ResolverData::default();
    data.nameservers = servers.iter().copied().map(Nameserver::new).collect();
    data
}

fn setup(config: Config) -> (Running, Guest) {
    let (running, link) = Running::start(config);
    (running, Guest::new(link))
}

fn question(name: &str, kind: RecordType) -> Vec<u8> {
    let mut message = Message::new(4711, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message.to_vec().unwrap()
}

fn server() -> SocketAddr {
    (Addresses::default().gateway_v4, 53).into()
}

fn exchange(guest: &mut Guest, message: &[u8]) -> Message {
    let handle = guest.udp();
    guest.send_to(handle, server(), message);
    let (answer, from) = guest.receive(handle);
    assert_eq!(from, server());
    guest.sockets.remove(handle);
    Message::from_vec(&answer).unwrap()
}

fn lookup(guest: &mut Guest, name: &str, kind: RecordType) -> Result<Vec<IpAddr>, ResponseCode> {
    let message = exchange(guest, &question(&format!("{name}."), kind));
    found(&message)
}

fn found(message: &Message) -> Result<Vec<IpAddr>, ResponseCode> {
    assert_eq!(message.metadata.id, 4711);
    assert_eq!(message.queries.len(), 1);
    match message.metadata.response_code {
        ResponseCode::NoError => Ok(message
            .answers
            .iter()
            .filter_map(|record| record.data.ip_addr())
            .collect()),
        code => Err(code),
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn names_are_asked_of_the_hosts_name_servers() {
    let upstream = serve(|name| match name {
        "example.org" => addresses(&["93.184.1.1", "2606:4700::1"]),
        _ => Answer::Code(ResponseCode::NXDomain),
    });
    let (running, mut guest) = setup(Config::new().resolver(resolver(&[upstream])));
    for (name, kind, expected) in [
        ("example.org", RecordType::A, Ok(vec![ip("93.184.1.1")])),
        (
            "Example.ORG",
            RecordType::AAAA,
            Ok(vec![ip("2606:4700::1")]),
        ),
        ("example.com", RecordType::A, Err(ResponseCode::NXDomain)),
    ] {
        assert_eq!(lookup(&mut guest, name, kind), expected, "{name}");
    }
    running.end();
}

#[test]
fn the_gateway_knows_its_own_names_the_extra_ones_and_the_hosts() {
    let mut data = resolver(&[serve(|_| addresses(&["93.184.1.1"]))]);
    data.hosts = vec![
        HostEntry::new("printer", ip("10.1.1.1")),
        HostEntry::new("both", ip("10.1.1.2")),
    ];
    let config = Config::new()
        .resolver(data)
        .extra_hosts([HostEntry::new("Both", ip("10.1.1.3"))]);
    let (running, mut guest) = setup(config);
    let addresses = Addresses::default();
    for (name, kind, expected) in [
        (
            "host.blockbox.internal",
            RecordType::A,
            vec![addresses.host_v4.into()],
        ),
        ("host.blockbox.internal", RecordType::AAAA, vec![]),
        ("host.blockbox.internal", RecordType::MX, vec![]),
        ("localhost", RecordType::A, vec![ip("127.0.0.1")]),
        ("printer", RecordType::A, vec![ip("10.1.1.1")]),
        ("PRINTER", RecordType::AAAA, vec![]),
        ("both", RecordType::A, vec![ip("10.1.1.3")]),
        ("elsewhere", RecordType::A, vec![ip("93.184.1.1")]),
    ] {
        assert_eq!(
            lookup(&mut guest, name, kind),
            Ok(expected),
            "{name} {kind}"
        );
    }
    running.end();
}

#[test]
fn a_long_answer_is_fetched_over_a_stream() {
    let upstream = serve(|_| Answer::Long(200));
    let (running, mut guest) = setup(Config::new().resolver(resolver(&[upstream])));
    let message = question("long.example.", RecordType::A);
    let short = exchange(&mut guest, &message);
    assert!(short.metadata.truncation);
    // Two questions at once on one connection, split at any place.
    let handle = guest.connected(server());
    let mut bytes = u16::try_from(message.len()).unwrap().to_be_bytes().to_vec();
    bytes.extend_from_slice(&message);
    let twice = bytes.repeat(2);
    guest.send(handle, &twice[..5]);
    guest.send(handle, &twice[5..]);
    for _ in 0..2 {
        let length = guest.read(handle, 2);
        let answer = guest.read(handle, u16::from_be_bytes([length[0], length[1]]).into());
        let message = Message::from_vec(&answer).unwrap();
        assert_eq!(found(&message).unwrap().len(), 200);
    }
    guest.tcp(handle).close();
    assert_eq!(guest.read_to_end(handle), b"");
    running.end();
}

#[test]
fn a_stream_is_answered_where_name_servers_take_datagrams_only() {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let upstream = socket.local_addr().unwrap();
    std::thread::spawn(move || {
        let mut bytes = [0; 512];
        let (count, peer) = socket.recv_from(&mut bytes).unwrap();
        let question = Message::from_vec(&bytes[..count]).unwrap();
        let mut reply = Message::response(question.metadata.id, OpCode::Query);
        reply.add_queries(question.queries.clone());
        socket.send_to(&reply.to_vec().unwrap(), peer).unwrap();
    });
    let (running, mut guest) = setup(Config::new().resolver(resolver(&[upstream])));
    let handle = guest.connected(server());
    let message = question("example.org.", RecordType::A);
    guest.send(handle, &u16::try_from(message.len()).unwrap().to_be_bytes());
    guest.send(handle, &message);
    let length = guest.read(handle, 2);
    let answer = guest.read(handle, u16::from_be_bytes([length[0], length[1]]).into());
    assert_eq!(found(&Message::from_vec(&answer).unwrap()), Ok(vec![]));
    running.end();
}

#[test]
fn the_next_name_server_answers_in_seconds_where_one_does_not() {
    let refusing = {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.local_addr().unwrap()
    };
    let good = || serve(|_| addresses(&["93.184.1.1"]));
    for (first, limit) in [
        (refusing, 500),
        (serve(|_| Answer::Code(ResponseCode::ServFail)), 500),
        (serve(|_| Answer::Silence), 2000),
        (serve(|_| Answer::Wrong), 2000),
    ] {
        let data = resolver(&[first, good()]);
        let (running, mut guest) = setup(Config::new().resolver(data));
        let start = Instant::now();
        assert_eq!(
            lookup(&mut guest, "example.org", RecordType::A),
            Ok(vec![ip("93.184.1.1")])
        );
        assert!(start.elapsed() < Duration::from_millis(limit));
        // From then on the server that answers is asked first.
        let start = Instant::now();
        lookup(&mut guest, "example.com", RecordType::A).unwrap();
        assert!(start.elapsed() < Duration::from_millis(500));
        running.end();
    }
}

#[test]
fn unanswered_query_fails_in_bounded_time() {
    let silent = serve(|_| Answer::Silence);
    let (running, mut guest) = setup(Config::new().resolver(resolver(&[silent])));
    let start = Instant::now();
    let answer = lookup(&mut guest, "example.org", RecordType::A);
    assert_eq!(answer, Err(ResponseCode::ServFail));
    assert!(start.elapsed() < Duration::from_secs(10));
    running.end();
    let (running, mut guest) = setup(Config::new());
    let answer = lookup(&mut guest, "example.org", RecordType::A);
    assert_eq!(answer, Err(ResponseCode::ServFail));
    running.end();
}

#[test]
fn domains_with_their_own_name_server_are_asked_there() {
    let public = serve(|_| addresses(&["93.184.1.1"]));
    let corporate = serve(|_| addresses(&["93.184.1.2"]));
    let mut data = resolver(&[public]);
    let server = Nameserver::new(corporate).domains(["corp.example".to_owned()]);
    data.nameservers.push(server);
    let (running, mut guest) = setup(Config::new().resolver(data));
    for (name, expected) in [
        ("example.org", "93.184.1.1"),
        ("wiki.corp.example", "93.184.1.2"),
        ("notcorp.example", "93.184.1.1"),
    ] {
        let answer = lookup(&mut guest, name, RecordType::A);
        assert_eq!(answer, Ok(vec![ip(expected)]), "{name}");
    }
    running.end();
}

#[test]
fn the_resolver_is_replaced_while_the_gateway_runs() {
    let (mut running, mut guest) = setup(Config::new());
    assert!(lookup(&mut guest, "example.org", RecordType::A).is_err());
    let data = resolver(&[serve(|_| addresses(&["93.184.1.1"]))]);
    assert_eq!(running.ask(&Request::Resolver { data }), Response::Done);
    assert_eq!(
        lookup(&mut guest, "example.org", RecordType::A),
        Ok(vec![ip("93.184.1.1")])
    );
    running.end();
}

#[test]
fn a_table_of_a_hundred_thousand_blocked_names_replaces_another_in_time() {
    let (mut running, mut guest) = setup(Config::new());
    let mut data = resolver(&[serve(|_| addresses(&["93.184.1.1"]))]);
    data.hosts = (0..100_000)
        .map(|n| HostEntry::new(format!("advertisements-{n}.example"), ip("0.0.0.0")))
        .collect();
    assert_eq!(running.ask(&Request::Resolver { data }), Response::Done);
    for (name, expected) in [
        ("advertisements-99999.example", "0.0.0.0"),
        ("example.org", "93.184.1.1"),
    ] {
        let start = Instant::now();
        let answer = lookup(&mut guest, name, RecordType::A);
        assert_eq!(answer, Ok(vec![ip(expected)]), "{name}");
        assert!(start.elapsed() < Duration::from_secs(2), "{name}");
    }
    running.end();
}

#[test]
fn a_public_name_with_a_private_address_is_refused_and_explained() {
    let upstream = serve(|name| match name {
        "mixed.example" => addresses(&["93.184.1.1", "192.168.0.1"]),
        "six.example" => addresses(&["::ffff:127.0.0.1"]),
        "metadata.example" => addresses(&["169.254.169.254"]),
        _ => addresses(&["10.0.0.1"]),
    });
    let config = Config::new().resolver(resolver(&[upstream])).allow([
        "intern.example".parse().unwrap(),
        "metadata.example".parse().unwrap(),
    ]);
    let (mut running, mut guest) = setup(config);
    for (name, kind, refused) in [
        ("evil.example", RecordType::A, true),
        ("mixed.example", RecordType::A, true),
        ("six.example", RecordType::AAAA, true),
        ("metadata.example", RecordType::A, true),
        ("intern.example", RecordType::A, false),
    ] {
        let answer = lookup(&mut guest, name, kind);
        assert_eq!(
            answer == Err(ResponseCode::Refused),
            refused,
            "{name} {answer:?}"
        );
    }
    let denials = running.status().denials;
    assert_eq!(denials.len(), 4);
    assert_eq!(denials[0].name.as_deref(), Some("evil.example"));
    let address = ip("10.0.0.1");
    assert_eq!(denials[0].reason, Reason::Rebinding { address });
    let rule = "evil.example".parse().unwrap();
    assert_eq!(denials[0].remedy, Some(Remedy::Allow(rule)));
    running.end();
}

#[test]
fn without_a_network_only_allowed_names_are_asked_outside() {
    let upstream = serve(|_| addresses(&["93.184.1.1"]));
    let config = Config::new()
        .mode(Mode::None)
        .allow(["good.example:443".parse().unwrap()])
        .deny(["bad.good.example".parse().unwrap()])
        .resolver(resolver(&[upstream]));
    let (mut running, mut guest) = setup(config);
    assert!(lookup(&mut guest, "good.example", RecordType::A).is_ok());
    for name in ["secret.leaks.example", "bad.good.example"] {
        let answer = lookup(&mut guest, name, RecordType::TXT);
        assert_eq!(answer, Err(ResponseCode::Refused), "{name}");
    }
    assert_eq!(running.status().denials_total, 2);
    running.end();
}

#[test]
fn malformed_query_gets_an_error_or_no_answer() {
    let (running, mut guest) = setup(Config::new());
    let mut two = Message::new(4711, MessageType::Query, OpCode::Query);
    for _ in 0..2 {
        two.add_query(Query::query(Name::from_ascii("a.").unwrap(), RecordType::A));
    }
    let mut update = question("a.", RecordType::A);
    update[2] |= 5 << 3;
    let mut chaos = question("version.bind.", RecordType::TXT);
    let last = chaos.len() - 1;
    chaos[last] = 3;
    let mut cut = question("example.org.", RecordType::A);
    cut.truncate(20);
    for (message, expected) in [
        (two.to_vec().unwrap(), ResponseCode::FormErr),
        (update, ResponseCode::NotImp),
        (chaos, ResponseCode::NotImp),
        (cut, ResponseCode::FormErr),
    ] {
        let answer = exchange(&mut guest, &message);
        assert_eq!(answer.metadata.response_code, expected);
    }
    // Replies and short datagrams are not answered: the next answer is for the next question.
    let handle = guest.udp();
    let mut reply = question("a.", RecordType::A);
    reply[2] |= 0x80;
    guest.send_to(handle, server(), &reply);
    guest.send_to(handle, server(), b"xy");
    guest.send_to(handle, server(), &question("localhost.", RecordType::A));
    let (answer, _) = guest.receive(handle);
    assert_eq!(
        found(&Message::from_vec(&answer).unwrap()),
        Ok(vec![ip("127.0.0.1")])
    );
    running.end();
}
