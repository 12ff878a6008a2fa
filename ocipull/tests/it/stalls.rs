//! Registries that are slow, silent or busy: nothing waits for ever, and nothing in silence.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ocipull::{Error, Event, Events, Options};

use crate::server::{Reply, Server};
use crate::support::{open_with, read};
use crate::transfer::{Served, options};

const LONG: Duration = Duration::from_secs(20);

/// Why each wait was, and how long.
type Waits = Arc<Mutex<Vec<(String, Duration)>>>;

/// Options that give up on silence soon, and the waits that were reported.
fn impatient() -> (Options, Waits) {
    let waits = Arc::new(Mutex::new(Vec::new()));
    let seen = waits.clone();
    let mut options = options();
    options.stall_timeout = Duration::from_millis(400);
    options.events = Some(Events::new(move |event| {
        if let Event::Waiting { error, delay, .. } = event {
            seen.lock()
                .expect("no panic")
                .push((error.to_string(), *delay));
        }
    }));
    (options, waits)
}

#[test]
fn a_registry_that_never_answers_is_given_up_and_every_wait_is_reported() {
    let registry = Server::start(|_| Reply::new(200, "").stall(LONG));
    let (options, waits) = impatient();
    let start = Instant::now();
    match open_with(&format!("{}/app", registry.host()), &options) {
        Err(error @ Error::Interrupted { .. }) => {
            let cause = std::error::Error::source(&error).expect("a cause");
            assert!(
                error.is_transient() && cause.to_string().contains("no answer within"),
                "{error}: {cause}"
            );
        }
        other => panic!("{other:?}"),
    }
    assert!(start.elapsed() < LONG / 2);
    let waits = waits.lock().unwrap();
    assert_eq!(waits.len(), 2, "{waits:?}");
}

#[test]
fn a_download_that_stalls_goes_on_from_where_it_stalled() {
    let served = Arc::new(Served::new(1 << 20));
    let images = served.clone();
    let registry = Server::start(move |request| {
        let reply = images.reply(request);
        match request.path == images.layer && request.count == 0 {
            true => reply.cut(300_000).stall(LONG),
            false => reply,
        }
    });
    let (options, waits) = impatient();
    let image = open_with(&format!("{}/app", registry.host()), &options).unwrap();
    let start = Instant::now();
    assert!(read(&image, 0).unwrap() == served.tar);
    assert!(start.elapsed() < LONG / 2);
    let ranges: Vec<_> = registry.requests().iter().filter_map(|r| r.range).collect();
    assert_eq!(ranges, [300_000]);
    assert_eq!(waits.lock().unwrap().len(), 1);
}

#[test]
fn a_server_that_never_answers_the_tls_handshake_is_given_up() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let host = listener.local_addr().unwrap();
    let (mut options, _) = impatient();
    options.plain_http = false;
    let start = Instant::now();
    let opened = open_with(&format!("{host}/app"), &options);
    assert!(
        matches!(
            opened,
            Err(Error::Connect { .. } | Error::Interrupted { .. })
        ),
        "{opened:?}"
    );
    assert!(start.elapsed() < LONG);
    drop(listener);
}

#[test]
fn the_wait_that_a_busy_registry_asks_for_is_reported() {
    let served = Served::new(10);
    let registry =
        Server::start(
            move |request| match (request.count, request.path.contains("manifests")) {
                (0, true) => Reply::new(429, r#"{"errors":[{"code":"TOOMANYREQUESTS"}]}"#)
                    .header("Retry-After", "1"),
                (1, true) => Reply::new(408, ""),
                _ => served.reply(request),
            },
        );
    let (options, waits) = impatient();
    open_with(&format!("{}/app", registry.host()), &options).unwrap();
    let waits = waits.lock().unwrap();
    assert_eq!(waits.len(), 2);
    assert!(
        waits[0].0.contains("429") && waits[0].0.contains("TOOMANYREQUESTS"),
        "{waits:?}"
    );
    assert_eq!(waits[0].1, Duration::from_secs(1));
}

#[test]
fn images_open_inside_an_asynchronous_runtime() {
    let served = Arc::new(Served::new(1 << 20));
    let images = served.clone();
    let registry = Server::start(move |request| images.reply(request));
    let reference = format!("{}/app", registry.host());
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .build()
        .unwrap();
    let read = runtime.block_on(async {
        let worker = tokio::spawn(async move {
            let image = open_with(&reference, &options()).unwrap();
            read(&image, 0).unwrap()
        });
        worker.await.unwrap()
    });
    assert!(read == served.tar);
}

#[test]
fn a_server_that_sends_next_to_nothing_is_given_up() {
    let served = Arc::new(Served::new(1 << 20));
    for layer in [true, false] {
        let images = served.clone();
        let registry = Server::start(move |request| {
            let reply = images.reply(request);
            match layer == (request.path == images.layer) {
                true => reply.drip(Duration::from_millis(50)),
                false => reply,
            }
        });
        let mut options = options();
        (options.stall_timeout, options.retries) = (Duration::from_secs(1), 0);
        let start = Instant::now();
        let opened = open_with(&format!("{}/app", registry.host()), &options);
        let given_up = opened
            .and_then(|image| read(&image, 0))
            .map(|bytes| bytes.len());
        match given_up {
            Err(error @ Error::Interrupted { .. }) => {
                let cause = std::error::Error::source(&error).expect("a cause");
                assert!(cause.to_string().contains("bytes in 1 seconds"), "{cause}");
            }
            other => panic!("{other:?}"),
        }
        assert!(start.elapsed() < LONG / 2);
    }
}
