//! Published ports, and ports of the host's loopback.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::common::guest::{Guest, LONG, until};
use crate::{inspect, sh, start, text};

/// Fetches a web page.
fn page(address: SocketAddr) -> io::Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(LONG))?;
    stream.write_all(b"GET /page HTTP/1.0\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    answer
        .split_once("\r\n\r\n")
        .filter(|(head, _)| head.contains(" 200 "))
        .map(|(_, body)| body.to_owned())
        .ok_or_else(|| io::Error::other(answer.clone()))
}

#[test]
fn published_ports_reach_servers_on_any_address_of_the_guest() {
    let Some(guest) = Guest::new(json!({})) else {
        return;
    };
    // One server only on the loopback, one on all addresses.
    let serve = "mkdir -p /srv; echo 'from the guest' >/srv/page\n\
                 busybox httpd -p 127.0.0.1:80 -h /srv; busybox httpd -p [::]:81 -h /srv\n\
                 sleep 1000";
    let options = [
        "-p",
        "0:80",
        "-p",
        "127.0.0.2:0:81",
        "-p",
        "[::1]:0:81",
        "-p",
        "0:7/udp",
    ];
    let started = start(&guest, "box", &options, &["sh", "-c", serve]);
    text(&started);
    let told = String::from_utf8_lossy(&started.stderr).into_owned();

    let state = inspect(&guest, "box")["state"].clone();
    let ports: Vec<SocketAddr> = state["ports"]
        .as_array()
        .unwrap()
        .iter()
        .map(|port| port["host"].as_str().unwrap().parse().unwrap())
        .collect();
    let addresses: Vec<_> = ports.iter().map(|port| port.ip().to_string()).collect();
    assert_eq!(addresses, ["127.0.0.1", "127.0.0.2", "::1", "127.0.0.1"]);
    let ps = guest.blockbox.ok(["ps"]);
    let listed = guest.blockbox.ok(["port", "box"]);
    for (port, end) in ports.iter().zip(["80/tcp", "81/tcp", "81/tcp", "7/udp"]) {
        assert!(told.contains(&format!("published {port}->{end}")), "{told}");
        assert!(ps.contains(&format!("{port}->{end}")), "{ps}");
        assert!(listed.contains(&format!("{end} -> {port}\n")), "{listed}");
    }
    let template = [
        "port",
        "--format",
        "{{.Guest}}/{{.Protocol}} -> {{.Host}}",
        "box",
    ];
    assert_eq!(guest.blockbox.ok(template), listed);
    let one = guest.blockbox.ok(["port", "box", "7/udp"]);
    assert_eq!(one, format!("{}\n", ports[3]));
    assert!(guest.blockbox.fails(["port", "box", "9"]).contains("9/tcp"));

    for port in &ports[..3] {
        let body = until(&format!("an answer of {port}"), || page(*port).ok());
        assert_eq!(body, "from the guest\n");
    }
    // Short connections, one after another and concurrently.
    for _ in 0..200 {
        assert_eq!(page(ports[0]).unwrap(), "from the guest\n");
    }
    std::thread::scope(|scope| {
        let all: Vec<_> = (0..50).map(|_| scope.spawn(|| page(ports[0]))).collect();
        for one in all {
            assert_eq!(one.join().unwrap().unwrap(), "from the guest\n");
        }
    });
    if let Some(mut wrk) = testkit::oracle("wrk") {
        let url = format!("http://{}/page", ports[0]);
        let args = ["-t1", "-c8", "-d1s", "--timeout", "60s", &url];
        let output = wrk.args(args).output().unwrap();
        let report = String::from_utf8_lossy(&output.stdout);
        assert!(report.contains("requests in"), "{report}");
        assert!(!report.contains("Non-2xx"), "{report}");
        assert!(!report.contains("Socket errors"), "{report}");
    }
}

#[test]
fn a_port_in_use_is_reported_before_the_boot_and_leaves_nothing() {
    let Some(guest) = Guest::new(json!({})) else {
        return;
    };
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let publish = format!("{port}:80");
    let failed = start(&guest, "box", &["-p", &publish], &[]);
    let error = String::from_utf8_lossy(&failed.stderr);
    assert_eq!(failed.status.code(), Some(125), "{error}");
    assert!(error.contains(&format!("127.0.0.1:{port}/tcp")), "{error}");
    assert!(!error.contains("booting"), "{error}");
    assert_eq!(guest.sandboxes(), 0);

    // After the port is free again: the same port twice, with a restart in between.
    drop(taken);
    text(&start(&guest, "box", &["-p", &publish], &[]));
    guest.blockbox.ok(["restart", "-t", "0", "box"]);
    let state = inspect(&guest, "box")["state"].clone();
    assert_eq!(state["ports"][0]["host"], format!("127.0.0.1:{port}"));
    guest.blockbox.ok(["stop", "-t", "0", "box"]);
    assert_eq!(inspect(&guest, "box")["state"]["ports"], json!([]));
    TcpListener::bind(("127.0.0.1", port)).unwrap();
    let error = guest.blockbox.fails(["port", "box"]);
    assert!(error.contains("not running"), "{error}");
}

#[test]
fn invalid_rules_and_ports_are_rejected_by_name() {
    let blockbox = crate::common::Blockbox::new();
    for (option, value, expected) in [
        ("--publish", "80:x", "is not a port"),
        ("--publish", "80-81:80", "2 ports at the host and 1"),
        ("--publish", "1:1/sctp", "tcp or udp"),
        ("--allow", "10.0.0.1/8", "10.0.0.0/8"),
        ("--deny", "a b", "host name"),
        ("--network", "host", "public"),
        ("--dns", "dns.example", "IP address"),
        ("--add-host", "db", "NAME:IP"),
        ("--host-port", "0", "1..=65535"),
    ] {
        let output = blockbox.output(["run", option, value, "image"]);
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(125), "{error}");
        assert!(error.contains(value) && error.contains(expected), "{error}");
    }
}

/// Returns bytes that neither compression nor a zeroed page could produce.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let words = (0..length.div_ceil(8)).flat_map(|_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_ne_bytes()
    });
    words.take(length).collect()
}

fn hex(digest: impl AsRef<[u8]>) -> String {
    digest
        .as_ref()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// Sends this many MiB from the host to the guest, and as many back.
fn transfer(mebibytes: usize) {
    let Some(guest) = Guest::new(json!({})) else {
        return;
    };
    let block = noise(1 << 20);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    text(&start(&guest, "box", &["--host-port", &port], &[]));
    let digest = {
        let mut hash = Sha256::new();
        (0..mebibytes).for_each(|_| hash.update(&block));
        hex(hash.finalize())
    };
    std::thread::scope(|scope| {
        let server = scope.spawn(|| {
            let (mut down, _) = listener.accept().unwrap();
            for _ in 0..mebibytes {
                down.write_all(&block).unwrap();
            }
            drop(down);
            let (mut up, _) = listener.accept().unwrap();
            let mut hash = Sha256::new();
            let mut bytes = vec![0; 1 << 20];
            while let Ok(count @ 1..) = up.read(&mut bytes) {
                hash.update(&bytes[..count]);
            }
            hex(hash.finalize())
        });
        let to = format!("host.blockbox.internal {port}");
        let down = sh(
            &guest,
            "box",
            &format!("busybox nc {to} </dev/null | busybox sha256sum"),
        );
        assert_eq!(down.split_whitespace().next(), Some(digest.as_str()));
        let size = mebibytes << 10;
        let up = format!(
            "busybox dd if=/dev/urandom of=/one bs=64k count=16 2>/dev/null\n\
             i=0; while [ $i -lt {mebibytes} ]; do cat /one; i=$((i + 1)); done >/tmp/pipe &\n\
             busybox nc {to} </tmp/pipe >/dev/null\n\
             i=0; while [ $i -lt {mebibytes} ]; do cat /one; i=$((i + 1)); done | busybox sha256sum"
        );
        let up = sh(&guest, "box", &format!("busybox mkfifo /tmp/pipe; {up}"));
        assert_eq!(
            up.split_whitespace().next(),
            Some(server.join().unwrap().as_str()),
            "{size} KiB"
        );
    });
    let status: Value =
        serde_json::from_str(&guest.blockbox.ok(["net", "box", "--format", "json"])).unwrap();
    let least = (mebibytes as u64) << 20;
    assert!(status["sent"].as_u64() >= Some(least), "{status}");
    assert!(status["received"].as_u64() >= Some(least), "{status}");
}

#[test]
fn megabytes_arrive_as_they_were_sent_both_ways() {
    transfer(24);
}

#[test]
#[ignore = "takes minutes where the guest is emulated"]
fn a_gibibyte_arrives_as_it_was_sent_both_ways() {
    transfer(1024);
}
