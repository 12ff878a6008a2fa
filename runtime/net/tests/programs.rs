//! The gateway with common programs, in network namespaces: HTTP/2, TLS, WebSockets and the C
//! library's resolver.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests too")]

mod common;

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::process::{Command, Output};

use blockbox_net::{Config, Limits, Nameserver, ResolverData};
use common::lab::{Lab, Server};
use common::upstream::{self, Answer};

const PUBLIC: &str = "93.184.1.1";
const PUBLIC_V6: &str = "2606:4700::1";

/// Debian's Python, which has the modules of Debian's packages.
const PYTHON: &str = "/usr/bin/python3";

fn at(address: &str, port: u16) -> SocketAddr {
    SocketAddr::new(address.parse().unwrap(), port)
}

fn text(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// Returns a resolver whose only name server is in the outer namespace of the lab.
fn resolver(lab: &Lab, answer: impl Fn(&str) -> Answer + Send + Clone + 'static) -> ResolverData {
    let mut data = ResolverData::default();
    data.nameservers = vec![Nameserver::new(lab.outside(|| upstream::serve(answer)))];
    data
}

/// Makes a key and a self-signed certificate for `web.example`, as `key` and `certificate`.
fn certificate(openssl: &mut Command, folder: &Path) {
    let output = openssl
        .args(["req", "-x509", "-newkey", "ec", "-nodes"])
        .args(["-pkeyopt", "ec_paramgen_curve:P-256"])
        .args(["-keyout", "key", "-out", "certificate", "-days", "2"])
        .args(["-subj", "/CN=web.example"])
        .args(["-addext", "subjectAltName=DNS:web.example"])
        .current_dir(folder)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn curl_speaks_http2_in_the_clear_and_over_tls_by_both_families() {
    let (Some(mut openssl), Some(_), Some(nghttpd)) = (
        testkit::oracle("openssl"),
        testkit::oracle("curl"),
        testkit::oracle("nghttpd"),
    ) else {
        return;
    };
    let Some(mut lab) = Lab::new(&[PUBLIC, PUBLIC_V6]) else {
        return;
    };
    let data = resolver(&lab, |name| match name {
        "web.example" => upstream::addresses(&[PUBLIC, PUBLIC_V6]),
        _ => upstream::addresses(&[]),
    });
    // The gateway looks for names in the first bytes, so each connection passes through that check
    // too.
    let config = Config::new().deny(["ads.example".parse().unwrap()]);
    lab.start(config.resolver(data));
    let folder = tempfile::tempdir().unwrap();
    certificate(&mut openssl, folder.path());
    let file = folder.path().join("file");
    std::fs::write(&file, testkit::noise(1, 5 << 20)).unwrap();
    std::fs::create_dir(folder.path().join("www")).unwrap();
    std::fs::write(folder.path().join("www/page"), testkit::noise(2, 20_000)).unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();

    let program = nghttpd.get_program().to_str().unwrap();
    let served = |options: &[&str], port: u16| -> Server {
        let port_text = port.to_string();
        let command = [
            &[program, "--echo-upload", "-d", "www"][..],
            options,
            &[&port_text],
            if options.is_empty() {
                &["key", "certificate"]
            } else {
                &[]
            },
        ]
        .concat();
        lab.program(at(PUBLIC, port), folder.path(), &command)
    };
    let _servers = [served(&["--no-tls"], 80), served(&[], 443)];
    for family in ["-4", "-6"] {
        for (scheme, option) in [("http", "--http2-prior-knowledge"), ("https", "--http2")] {
            let (authority, out) = (path("certificate"), path("answer"));
            let common = [family, option, "-sSf", "--cacert", &authority];
            let curl = |more: &[&str]| text(&lab.run("curl", &[&common, more].concat()));
            // Upload and download on one stream.
            let upload = format!("@{}", path("file"));
            let url = format!("{scheme}://web.example/echo");
            let shown = curl(&[
                "--data-binary",
                &upload,
                "-o",
                &out,
                "-w",
                "%{http_version} %{http_code}",
                &url,
            ]);
            assert_eq!(shown, "2 200", "{family} {scheme}");
            let same = std::fs::read(&out).unwrap() == std::fs::read(&file).unwrap();
            assert!(same, "{family} {scheme}");
            // Many streams at once. This version of curl cannot put them on one unencrypted
            // connection.
            if scheme == "http" {
                continue;
            }
            let url = format!("{scheme}://web.example/page?[1-40]");
            let shown = curl(&[
                "--parallel",
                "-o",
                &path("page#1"),
                "-w",
                "%{http_version} %{size_download}\\n",
                &url,
            ]);
            assert_eq!(shown, "2 20000\n".repeat(40), "{family} {scheme}");
        }
    }
    let status = lab.gateway().status_where(|status| status.flows.is_empty());
    assert_eq!((status.denials_total, status.buffer_bytes), (0, 0));
}

/// A server that sends messages back, at port 80.
const WEBSOCKET_SERVER: &str = "
import asyncio, websockets
async def echo(socket):
    try:
        async for message in socket:
            await socket.send(message)
    except websockets.ConnectionClosed:
        pass
async def main():
    async with websockets.serve(echo, '93.184.1.1', 80, ping_interval=None):
        await asyncio.Future()
asyncio.run(main())
";

/// Three clients: one that pings, and two silent ones, one of them for less than two seconds.
const WEBSOCKET_CLIENTS: &str = "
import asyncio, websockets
async def hold(interval, seconds):
    async with websockets.connect('ws://93.184.1.1/', ping_interval=interval) as socket:
        try:
            for message in ['first', 'x' * 300000]:
                await socket.send(message)
                assert await socket.recv() == message
            await asyncio.sleep(seconds)
            await socket.send('last')
            assert await socket.recv() == 'last'
            return 'held'
        except websockets.ConnectionClosed:
            return 'lost'
async def main():
    print(*await asyncio.gather(hold(0.4, 5), hold(None, 0.8), hold(None, 5)))
asyncio.run(main())
";

#[test]
fn a_websocket_stays_open_while_it_is_silent_or_pings_within_the_idle_time() {
    const MODULE: &str = "/usr/lib/python3/dist-packages/websockets";
    if !Path::new(MODULE).exists() {
        return testkit::skip("python3-websockets is not installed");
    }
    // Five seconds are less than the default idle time, and more than a short one.
    for (idle, expected) in [(None, "held held held\n"), (Some(2), "held held lost\n")] {
        let mut limits = Limits::default();
        limits.idle_seconds = idle.unwrap_or(limits.idle_seconds);
        let Some(mut lab) = Lab::with(&[PUBLIC], Config::new().limits(limits)) else {
            return;
        };
        let command = [PYTHON, "-c", WEBSOCKET_SERVER];
        let _server = lab.program(at(PUBLIC, 80), Path::new("/"), &command);
        let shown = text(&lab.run(PYTHON, &["-c", WEBSOCKET_CLIENTS]));
        assert_eq!(shown, expected, "{idle:?}");
        lab.gateway().status_where(|status| status.flows.is_empty());
    }
}

#[test]
fn the_c_library_asks_over_streams_where_it_wants_to_or_an_answer_is_long() {
    let Some(mut lab) = Lab::new(&[]) else {
        return;
    };
    let data = resolver(&lab, |name| match name {
        "short.example" => upstream::addresses(&[PUBLIC]),
        "long.example" => Answer::Long(100),
        _ => upstream::addresses(&[]),
    });
    lab.start(Config::new().resolver(data));
    for (options, name, count, over_stream) in [
        ("", "short.example", 1, false),
        ("use-vc", "short.example", 1, true),
        ("", "long.example", 100, true),
        ("edns0", "long.example", 100, true),
        ("use-vc", "long.example", 100, true),
    ] {
        let before = lab.gateway().status().tcp_total;
        let set = format!("RES_OPTIONS={options}");
        let shown = text(&lab.run("env", &[&set, "getent", "ahostsv4", name]));
        // One line for each kind of socket.
        let found = shown.lines().filter(|line| line.contains("STREAM"));
        let found: Vec<IpAddr> = found
            .map(|line| line.split(' ').next().unwrap().parse().unwrap())
            .collect();
        assert_eq!(found.len(), count, "{options} {name}: {shown}");
        let status = lab.gateway().status_where(|status| status.flows.is_empty());
        assert_eq!(status.tcp_total > before, over_stream, "{options} {name}");
    }
}

#[test]
fn a_frame_of_1500_bytes_crosses_whole_and_nothing_longer_leaves_undivided() {
    if testkit::oracle("ping").is_none() {
        return;
    }
    let Some(lab) = Lab::with(&[PUBLIC, PUBLIC_V6], Config::new()) else {
        return;
    };
    lab.set(false, "ipv4/ping_group_range", "\"0 2147483647\"");
    // 20 or 40 bytes of IP headers and 8 bytes of ICMP header are added; `do` sets "don't
    // fragment".
    for (address, size, divided, answered) in [
        (PUBLIC, "1472", "do", true),
        (PUBLIC, "1473", "do", false),
        (PUBLIC, "1473", "dont", true),
        (PUBLIC_V6, "1452", "do", true),
        (PUBLIC_V6, "1453", "do", false),
        (PUBLIC_V6, "1453", "dont", true),
        (PUBLIC, "20000", "dont", true),
    ] {
        let arguments = ["-c", "1", "-W", "2", "-M", divided, "-s", size, address];
        let output = lab.run("ping", &arguments);
        assert_eq!(
            output.status.success(),
            answered,
            "{arguments:?}: {output:?}"
        );
    }
}
