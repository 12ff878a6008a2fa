//! The gateway as a process, as its parent process sees it.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests too")]

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::os::unix::net::UnixStream;

use blockbox_net::{Config, Error, Request, Response, helper};

/// Starts a gateway on a thread. Returns the parent's ends, and the thread.
fn start(
    first: &[u8],
) -> (
    BufReader<UnixStream>,
    UnixStream,
    std::thread::JoinHandle<Result<(), Error>>,
) {
    let (control, mut ours) = UnixStream::pair().unwrap();
    let (frames, link) = UnixStream::pair().unwrap();
    ours.write_all(first).unwrap();
    let thread =
        std::thread::spawn(move || helper::run(control, frames, || Ok("as a test".to_owned())));
    (BufReader::new(ours), link, thread)
}

fn line<T: serde::de::DeserializeOwned>(control: &mut BufReader<UnixStream>) -> T {
    let mut line = String::new();
    control.read_line(&mut line).unwrap();
    serde_json::from_str(&line).unwrap_or_else(|error| panic!("{line:?}: {error}"))
}

#[test]
fn a_process_takes_its_configuration_and_reports_its_ports() {
    let config = Config::new().publish(["0:80".parse().unwrap()]);
    let mut first = serde_json::to_vec(&config).unwrap();
    first.push(b'\n');
    // A request sent together with the configuration is not lost.
    serde_json::to_writer(&mut first, &Request::Status).unwrap();
    first.push(b'\n');
    let (mut control, _link, thread) = start(&first);
    let helper::Started::Running(running) = line(&mut control) else {
        panic!("not running");
    };
    assert_eq!(running.confinement, "as a test");
    let bound = running.bound;
    assert_ne!(bound.ports[0].host.port(), 0);
    let Response::Status(status) = line(&mut control) else {
        panic!("no status");
    };
    assert_eq!(status.ports, bound.ports);
    // The parent is gone.
    drop(control);
    thread.join().unwrap().unwrap();
}

#[test]
fn a_process_that_cannot_start_says_why() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let config = format!("{{\"publish\": [\"{port}:80\"]}}\n");
    for (config, expected) in [
        (
            config.as_str(),
            format!("cannot publish 127.0.0.1:{port}/tcp: "),
        ),
        (
            "{\"allow\": [\"1.2.3.4:0\"]}\n",
            "the gateway's configuration is not valid: ".to_owned(),
        ),
        (
            "\n",
            "the gateway's configuration is not valid: ".to_owned(),
        ),
    ] {
        let (mut control, _link, thread) = start(config.as_bytes());
        let helper::Started::Failed { message } = line(&mut control) else {
            panic!("it started");
        };
        assert!(message.starts_with(&expected), "{message}");
        assert!(thread.join().unwrap().is_err());
    }
}

#[test]
fn a_configuration_survives_its_text() {
    let config = Config::new()
        .mode(blockbox_net::Mode::None)
        .allow([
            "*.example.org:443".parse().unwrap(),
            "10.0.0.0/8".parse().unwrap(),
        ])
        .deny(["[2001:db8::/32]:80".parse().unwrap()])
        .host_ports([8080])
        .publish(["0.0.0.0:8000-8001:80-81/udp".parse().unwrap()])
        .extra_hosts([blockbox_net::HostEntry::new(
            "a",
            "10.0.0.1".parse().unwrap(),
        )]);
    let text = serde_json::to_string(&config).unwrap();
    assert_eq!(serde_json::from_str::<Config>(&text).unwrap(), config);
    assert_eq!(serde_json::from_str::<Config>("{}").unwrap(), Config::new());
}
