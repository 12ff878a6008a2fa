//! TCP between two Linux stacks through the gateway: much data, many connections at once, and peers
//! that behave badly.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests too")]

mod common;

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Barrier;
use std::time::{Duration, Instant};

use blockbox_net::{Config, Limits};
use common::PATIENCE;
use common::lab::Lab;
use nix::sys::socket::{setsockopt, sockopt::TcpRepair};
use sha2::{Digest, Sha256};

const PUBLIC: &str = "93.184.1.1";
const PUBLIC_V6: &str = "2606:4700::1";

/// The size of a block of random data, which is sent repeatedly after its number.
const BLOCK: usize = 1 << 20;

fn at(address: &str) -> SocketAddr {
    SocketAddr::new(address.parse().unwrap(), 80)
}

fn listen(lab: &Lab, address: &str) -> TcpListener {
    lab.outside(|| TcpListener::bind(at(address)).unwrap())
}

/// Connects from the guest. Returns the guest's end and the server's.
fn pair(lab: &Lab, listener: &TcpListener) -> (TcpStream, TcpStream) {
    let to = listener.local_addr().unwrap().to_string();
    let guest = lab.connect(&to).unwrap();
    let (server, _) = listener.accept().unwrap();
    server.set_read_timeout(Some(PATIENCE)).unwrap();
    (guest, server)
}

/// Sends `blocks` blocks and closes its side. Returns their digest.
fn send(mut stream: &TcpStream, blocks: u64, seed: u64) -> [u8; 32] {
    let mut block = testkit::noise(seed, BLOCK);
    let mut hash = Sha256::new();
    for number in 0..blocks {
        block[..8].copy_from_slice(&number.to_le_bytes());
        hash.update(&block);
        stream.write_all(&block).unwrap();
    }
    stream.shutdown(Shutdown::Write).unwrap();
    hash.finalize().into()
}

/// Reads to the end. Returns the number of bytes and their digest.
fn receive(mut stream: &TcpStream) -> (u64, [u8; 32]) {
    let mut buffer = vec![0; BLOCK];
    let (mut count, mut hash) = (0, Sha256::new());
    loop {
        match stream.read(&mut buffer).unwrap() {
            0 => return (count, hash.finalize().into()),
            read => {
                hash.update(&buffer[..read]);
                count += read as u64;
            }
        }
    }
}

/// Sends `mebibytes` to a server and back, and then both ways at once.
fn transfer(mebibytes: u64) {
    let Some(mut lab) = Lab::with(&[PUBLIC], Config::new()) else {
        return;
    };
    let listener = listen(&lab, PUBLIC);
    let size = mebibytes << 20;
    let start = Instant::now();
    let (guest, server) = pair(&lab, &listener);
    std::thread::scope(|scope| {
        for (from, to, seed) in [(&guest, &server, 1), (&server, &guest, 2)] {
            let sent = scope.spawn(move || send(from, mebibytes, seed));
            scope.spawn(move || {
                let received = receive(to);
                assert_eq!(received, (size, sent.join().unwrap()));
            });
        }
    });
    eprintln!("{mebibytes} MiB both ways in {:?}", start.elapsed());
    drop((guest, server));
    let status = lab.gateway().status_where(|status| status.flows.is_empty());
    assert_eq!((status.sent, status.received), (size, size));
    assert_eq!(status.buffer_bytes, 0);
}

#[test]
fn a_quarter_of_a_gibibyte_arrives_as_it_was_sent_both_ways() {
    transfer(256);
}

#[test]
#[ignore = "takes long without optimization; `cargo test -- --ignored` runs it"]
fn a_gibibyte_arrives_as_it_was_sent_both_ways() {
    transfer(1024);
}

#[test]
fn a_thousand_connections_a_hundred_at_once_have_each_their_own_bytes() {
    const AT_ONCE: usize = 100;
    let Some(mut lab) = Lab::with(&[PUBLIC, PUBLIC_V6], Config::new()) else {
        return;
    };
    lab.outside(|| {
        let listener = TcpListener::bind(("::", 80)).unwrap();
        std::thread::spawn(move || {
            for peer in listener.incoming() {
                let mut peer = peer.unwrap();
                std::thread::spawn(move || {
                    let mut all = Vec::new();
                    peer.read_to_end(&mut all).unwrap();
                    all.reverse();
                    peer.write_all(&all).unwrap();
                });
            }
        });
    });
    let barrier = Barrier::new(AT_ONCE);
    lab.guest(|| {
        std::thread::scope(|scope| {
            for number in 0..AT_ONCE {
                let barrier = &barrier;
                scope.spawn(move || {
                    for round in 0..10 {
                        let address = [PUBLIC, PUBLIC_V6][number % 2];
                        let mut stream = TcpStream::connect(at(address)).unwrap();
                        stream.set_read_timeout(Some(PATIENCE)).unwrap();
                        // Each connection is held until all are established.
                        barrier.wait();
                        let mut bytes = testkit::noise((number * 10 + round) as u64, 2000);
                        stream.write_all(&bytes).unwrap();
                        stream.shutdown(Shutdown::Write).unwrap();
                        let mut answer = Vec::new();
                        stream.read_to_end(&mut answer).unwrap();
                        bytes.reverse();
                        assert_eq!(answer, bytes, "{number} {round}");
                    }
                });
            }
        });
    });
    let status = lab.gateway().status_where(|status| status.flows.is_empty());
    assert_eq!((status.tcp_total, status.denials_total), (1000, 0));
    assert_eq!((status.sent, status.received), (2_000_000, 2_000_000));
    assert_eq!(status.buffer_bytes, 0);
}

#[test]
fn a_side_that_has_ended_still_reads_what_the_other_sends() {
    let Some(mut lab) = Lab::with(&[PUBLIC], Config::new()) else {
        return;
    };
    let listener = listen(&lab, PUBLIC);
    for guest_first in [true, false] {
        let (guest, server) = pair(&lab, &listener);
        let (first, mut second) = if guest_first {
            (&guest, &server)
        } else {
            (&server, &guest)
        };
        first.shutdown(Shutdown::Write).unwrap();
        assert_eq!(second.read(&mut [0]).unwrap(), 0);
        std::thread::scope(|scope| {
            let sent = scope.spawn(|| send(second, 4, 3));
            assert_eq!(receive(first), (4 << 20, sent.join().unwrap()));
            // The last bytes of the slower thread.
            second.flush().unwrap();
        });
        drop((guest, server));
        lab.gateway().status_where(|status| status.flows.is_empty());
    }
}

/// Closes a socket as if the machine lost its power: nothing is sent.
fn vanish(stream: TcpStream) {
    setsockopt(&stream, TcpRepair, &1).unwrap();
    drop(stream);
}

#[test]
fn a_peer_that_vanished_and_came_back_resets_its_half_open_connection() {
    let Some(mut lab) = Lab::with(&[PUBLIC], Config::new()) else {
        return;
    };
    let listener = listen(&lab, PUBLIC);
    for guest_vanishes in [true, false] {
        let (guest, server) = pair(&lab, &listener);
        let (gone, mut stays) = if guest_vanishes {
            (guest, server)
        } else {
            (server, guest)
        };
        stays.set_nodelay(true).unwrap();
        vanish(gone);
        // The other side does not notice until there is something to send.
        assert_eq!(lab.gateway().status().flows.len(), 1);
        stays.write_all(b"anyone?").unwrap();
        let error = stays.read(&mut [0]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{guest_vanishes}");
        let status = lab.gateway().status_where(|status| status.flows.is_empty());
        assert_eq!(status.buffer_bytes, 0);
    }
}

#[test]
fn a_peer_that_never_comes_back_is_forgotten_after_its_time() {
    let mut limits = Limits::default();
    limits.idle_seconds = 2;
    let Some(mut lab) = Lab::with(&[PUBLIC], Config::new().limits(limits)) else {
        return;
    };
    let listener = listen(&lab, PUBLIC);
    let (_guest, mut server) = pair(&lab, &listener);
    lab.disconnect();
    // Retransmitted data is no sign of life.
    server.write_all(&[7; 1000]).unwrap();
    let error = server.read(&mut [0]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    let status = lab.gateway().status_where(|status| status.flows.is_empty());
    assert_eq!(status.buffer_bytes, 0);
}

/// Writes until nothing moves for a while. Returns the number of bytes written.
fn fill(mut stream: &TcpStream) -> usize {
    stream.set_nonblocking(true).unwrap();
    let block = [7; 65_536];
    let (mut count, mut last) = (0, Instant::now());
    while last.elapsed() < Duration::from_millis(500) {
        match stream.write(&block) {
            Ok(written) => {
                count += written;
                last = Instant::now();
            }
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::WouldBlock);
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    }
    stream.set_nonblocking(false).unwrap();
    count
}

#[test]
fn peers_that_stop_reading_hold_their_senders_and_bounded_memory() {
    const CONNECTIONS: usize = 20;
    let mut limits = Limits::default();
    limits.buffer_bytes = 4 << 20;
    let Some(mut lab) = Lab::with(&[PUBLIC], Config::new().limits(limits)) else {
        return;
    };
    let listener = listen(&lab, PUBLIC);
    let pairs: Vec<_> = (0..CONNECTIONS).map(|_| pair(&lab, &listener)).collect();
    let filled: Vec<[usize; 2]> = std::thread::scope(|scope| {
        let threads: Vec<_> = pairs
            .iter()
            .map(|(guest, server)| scope.spawn(|| [fill(guest), fill(server)]))
            .collect();
        threads.into_iter().map(|one| one.join().unwrap()).collect()
    });
    // The kernels on both sides have buffers of some megabytes.
    assert!(filled.iter().flatten().all(|&count| count < 32 << 20));
    let status = lab.gateway().status();
    assert_eq!(status.flows.len(), CONNECTIONS);
    assert!(status.buffer_bytes <= limits.buffer_bytes, "{status:?}");
    // All of it arrives once they read.
    std::thread::scope(|scope| {
        for ((guest, server), [up, down]) in pairs.iter().zip(filled) {
            for (from, to, count) in [(guest, server, up), (server, guest, down)] {
                from.shutdown(Shutdown::Write).unwrap();
                scope.spawn(move || assert_eq!(receive(to).0, count as u64));
            }
        }
    });
    drop(pairs);
    let status = lab.gateway().status_where(|status| status.flows.is_empty());
    assert_eq!(status.buffer_bytes, 0);
}

/// Returns how many packets the guest's interface has received and sent.
fn packets(lab: &Lab) -> [u64; 2] {
    let shown = lab.run("cat", &["/proc/net/dev"]);
    let shown = String::from_utf8(shown.stdout).unwrap();
    let line = shown
        .lines()
        .find_map(|line| line.trim().strip_prefix("eth0:"));
    let fields: Vec<u64> = line
        .unwrap()
        .split_whitespace()
        .map(|field| field.parse().unwrap())
        .collect();
    [fields[1], fields[9]]
}

#[test]
fn segments_are_as_large_as_the_guests_interface_allows() {
    const BLOCKS: u64 = 8;
    let Some(lab) = Lab::with(&[PUBLIC], Config::new()) else {
        return;
    };
    let listener = listen(&lab, PUBLIC);
    for mtu in [1500, 15_000, 60_000] {
        let set = lab.run("ip", &["link", "set", "eth0", "mtu", &mtu.to_string()]);
        assert!(set.status.success(), "{set:?}");
        let (guest, server) = pair(&lab, &listener);
        let before = packets(&lab);
        let received = std::thread::scope(|scope| {
            let sent = scope.spawn(|| [send(&guest, BLOCKS, 1), send(&server, BLOCKS, 2)]);
            let up = scope.spawn(|| receive(&server));
            let down = receive(&guest);
            let [first, second] = sent.join().unwrap();
            assert_eq!(up.join().unwrap().1, first);
            assert_eq!(down.1, second);
            down.0
        });
        assert_eq!(received, BLOCKS << 20);
        let moved: Vec<_> = packets(&lab)
            .iter()
            .zip(before)
            .map(|(now, before)| now - before)
            .collect();
        // Half of the segments may be short, and as many acknowledgements go the other way.
        let most = (BLOCKS << 20) / (mtu - 40) * 4 + 100;
        assert!(
            moved.iter().all(|count| *count < most),
            "{mtu}: {moved:?}, {most}"
        );
    }
}
