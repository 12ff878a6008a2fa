//! Large blobs: several ranges at once, and downloads that go on after a process is killed.

use std::io::Read;
use std::num::NonZeroUsize;
use std::path::Path;
use std::process::Stdio;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use ocipull::{Document, Error, Image, Options};

use crate::server::{Reply, Request, Server};
use crate::support::{child, is_child, open_with, read};
use crate::transfer::{self, Served};

const RANGE: usize = 64 << 10;
const CONNECTIONS: usize = 3;

/// The longest that a test waits for what must happen.
const LONG: Duration = Duration::from_secs(20);

fn options() -> Options {
    let mut options = transfer::options();
    options.range_bytes = RANGE as u64;
    options.connections = NonZeroUsize::new(CONNECTIONS).expect("not 0");
    options
}

fn keeping(folder: &Path) -> Options {
    let mut options = options();
    options.partial_downloads = Some(folder.to_owned());
    options
}

/// Serves an image of `size` bytes, with `change` made to the answers about its layer.
fn serve(
    size: usize,
    change: impl Fn(&Request, Reply) -> Reply + Send + Sync + 'static,
) -> (Server, Arc<Served>) {
    let served = Arc::new(Served::new(size));
    let images = served.clone();
    let server = Server::start(move |request| {
        let reply = images.reply(request);
        match request.path == images.layer {
            true => change(request, reply),
            false => reply,
        }
    });
    (server, served)
}

fn open(server: &Server, options: &Options) -> Image {
    open_with(&format!("{}/app", server.host()), options).expect("the image is sound")
}

/// The ranges of the layer that were asked for.
fn ranges(server: &Server, served: &Served) -> Vec<(Option<usize>, Option<usize>)> {
    let requests = server.requests().into_iter();
    let layer = requests.filter(|request| request.path == served.layer);
    layer.map(|request| (request.range, request.last)).collect()
}

/// The answer of a server that knows no ranges.
fn whole(served: &Served, request: &Request) -> Reply {
    served.reply(&Request {
        range: None,
        last: None,
        ..request.clone()
    })
}

#[test]
fn a_large_blob_comes_in_ranges_over_several_connections() {
    // Ranges after the first wait for each other: one connection alone would take long.
    let waiting = Arc::new((Mutex::new(0), Condvar::new()));
    let (server, served) = serve(10 * RANGE, {
        let waiting = waiting.clone();
        move |request, reply| {
            if request.range.is_some_and(|first| first > 0) {
                let mut count = waiting.0.lock().expect("no panic");
                *count += 1;
                waiting.1.notify_all();
                let (count, _) = waiting
                    .1
                    .wait_timeout_while(count, LONG, |count| *count < 2)
                    .expect("no panic");
                assert!(*count >= 2, "one range at a time");
            }
            reply
        }
    });
    let start = Instant::now();
    assert!(read(&open(&server, &options()), 0).unwrap() == served.tar);
    assert!(start.elapsed() < LONG);
    let mut asked = ranges(&server, &served);
    asked.sort();
    let size = served.tar.len();
    let expected =
        (0..size.div_ceil(RANGE)).map(|n| (Some(n * RANGE), Some(((n + 1) * RANGE).min(size) - 1)));
    assert!(asked.iter().copied().eq(expected), "{asked:?}");
}

#[test]
fn no_more_ranges_are_fetched_ahead_than_there_are_connections() {
    let (server, served) = serve(30 * RANGE, |_, reply| reply);
    let image = open(&server, &options());
    // The pipeline reads ahead by as many chunks as its channels hold; a range has half of a chunk.
    let mut reader = image.layer(0).unwrap();
    let mut buffer = [0; 1000];
    loop {
        let bytes = reader.read(&mut buffer).unwrap();
        let fetched = reader.bytes_fetched() as usize;
        // What the next read of the source has, and what is after it.
        let most = fetched / RANGE + 2 + CONNECTIONS + 2;
        let asked = ranges(&server, &served).len();
        assert!(asked <= most, "{asked} ranges after {fetched} bytes");
        if bytes == 0 {
            break;
        }
    }
    reader.finish().unwrap();
}

#[test]
fn ranges_after_the_first_ones_use_connections_that_are_open() {
    let served = Arc::new(Served::new(40 * RANGE));
    let images = served.clone();
    let server = Server::start_persistent(move |request| images.reply(request));
    assert!(read(&open(&server, &options()), 0).unwrap() == served.tar);
    assert!(ranges(&server, &served).len() > 40);
    let connections = server.connections();
    assert!(connections <= CONNECTIONS + 1, "{connections} connections");
}

#[test]
fn a_server_that_ignores_ranges_gives_the_blob_over_one_connection() {
    let served = Arc::new(Served::new(10 * RANGE));
    let images = served.clone();
    let server = Server::start(move |request| whole(&images, request));
    assert!(read(&open(&server, &options()), 0).unwrap() == served.tar);
    assert_eq!(ranges(&server, &served).len(), 1);
}

#[test]
fn a_server_that_refuses_ranges_is_asked_without() {
    for status in [400, 416, 501] {
        let (server, served) = serve(10 * RANGE, move |request, reply| match request.range {
            Some(_) => Reply::new(status, ""),
            None => reply,
        });
        assert!(read(&open(&server, &options()), 0).unwrap() == served.tar);
        assert_eq!(ranges(&server, &served).len(), 2, "{status}");
    }
}

#[test]
fn a_server_that_forgets_ranges_on_the_way_gives_the_right_blob() {
    let served = Arc::new(Served::new(10 * RANGE));
    let images = served.clone();
    let server = Server::start(move |request| match request.range {
        Some(first) if first >= 3 * RANGE => whole(&images, request),
        _ => images.reply(request),
    });
    assert!(read(&open(&server, &options()), 0).unwrap() == served.tar);
}

#[test]
fn other_ranges_than_those_asked_for_are_not_used() {
    for wrong in [
        "bytes 0-65535/700000",
        "bytes 1-65536/656384",
        "bytes 131072-196607/656384",
        "bytes 131072-196608/*",
        "bytes x",
        "",
    ] {
        for from in [0, 2 * RANGE] {
            let (server, served) = serve(10 * RANGE, move |request, reply| {
                match (request.range, request.last) {
                    (Some(first), Some(_))
                        if first >= from && first != 2 * RANGE || first == from =>
                    {
                        Reply {
                            headers: Vec::new(),
                            ..reply
                        }
                        .header("Content-Range", wrong)
                    }
                    _ => reply,
                }
            });
            let got = read(&open(&server, &options()), 0);
            assert!(got.unwrap() == served.tar, "{wrong} from {from}");
        }
    }
}

#[test]
fn ranges_that_are_cut_or_refused_for_a_while_go_on_where_they_broke_off() {
    let count = AtomicUsize::new(0);
    let (server, served) = serve(20 * RANGE, move |_, reply| {
        match count.fetch_add(1, Ordering::Relaxed) % 3 {
            0 => {
                let most = reply.body.len();
                reply.cut(most / 2)
            }
            1 => Reply::new(503, "later").header("Retry-After", "0"),
            _ => reply,
        }
    });
    let mut options = options();
    options.retries = 10;
    assert!(read(&open(&server, &options), 0).unwrap() == served.tar);
}

#[test]
fn a_range_that_never_comes_ends_the_download_with_one_error() {
    let (server, _) = serve(20 * RANGE, |request, reply| match request.range {
        Some(first) if first >= 5 * RANGE => reply.cut(10),
        _ => reply,
    });
    match read(&open(&server, &options()), 0) {
        Err(error @ Error::Interrupted { .. }) => assert!(error.is_transient()),
        other => panic!("{:?}", other.map(|bytes| bytes.len())),
    }
}

#[test]
fn a_blob_in_ranges_that_is_another_one_is_refused() {
    let (server, _) = serve(10 * RANGE, |request, mut reply| {
        if request.range == Some(4 * RANGE) {
            reply.body[100] ^= 1;
        }
        reply
    });
    let changed = read(&open(&server, &options()), 0);
    let document = match changed {
        Err(Error::DigestMismatch { document, .. }) => document,
        other => panic!("{:?}", other.map(|bytes| bytes.len())),
    };
    assert_eq!(document, Document::Layer);
    for change in [-50_000_isize, 50_000] {
        let served = Arc::new(Served::new(10 * RANGE));
        let images = served.clone();
        let server = Server::start(move |request| {
            let mut reply = whole(&images, request);
            if request.path != images.layer {
                return reply;
            }
            let size = reply
                .body
                .len()
                .checked_add_signed(change)
                .expect("positive");
            reply.body.resize(size, 0);
            Reply::ranged(request, &reply.body)
        });
        let lies = read(&open(&server, &options()), 0);
        let lies = lies.map(|bytes| bytes.len());
        assert!(matches!(lies, Err(Error::SizeMismatch { .. })), "{lies:?}");
    }
}

const HOST: &str = "OCIPULL_TEST_HOST";
const FOLDER: &str = "OCIPULL_TEST_FOLDER";

#[test]
fn a_download_goes_on_after_its_process_was_killed() {
    const NAME: &str = "ranges::a_download_goes_on_after_its_process_was_killed";
    if is_child() {
        let variable = |name| std::env::var(name).expect("set");
        let mut options = keeping(Path::new(&variable(FOLDER)));
        options.stall_timeout = 3 * LONG;
        let image = open_with(&format!("{}/app", variable(HOST)), &options).unwrap();
        let _ = read(&image, 0);
        panic!("it was to be killed");
    }
    let folder = tempfile::tempdir().unwrap();
    // The first process gets the first half of the layer.
    let killed = Arc::new(Mutex::new(false));
    let (server, served) = serve(20 * RANGE, {
        let killed = killed.clone();
        move |request, reply| match request.range {
            Some(first) if first >= 10 * RANGE && !*killed.lock().expect("no panic") => {
                reply.cut(1).stall(LONG)
            }
            _ => reply,
        }
    });
    let kept = folder.path().join(server.host()).join(
        served
            .layer
            .rsplit('/')
            .next()
            .expect("a digest")
            .replace(':', "-")
            + ".known",
    );
    let place = folder.path().display().to_string();
    let environment = [(HOST, server.host()), (FOLDER, place)];
    let environment = environment
        .each_ref()
        .map(|(name, value)| (*name, value.as_str()));
    let mut process = child(NAME, &environment)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let start = Instant::now();
    let lines = || std::fs::read_to_string(&kept).map_or(0, |list| list.lines().count());
    while lines() < 10 {
        assert!(start.elapsed() < LONG, "{} pieces", lines());
        std::thread::sleep(Duration::from_millis(10));
    }
    process.kill().unwrap();
    process.wait().unwrap();
    *killed.lock().unwrap() = true;
    let before = ranges(&server, &served).len();

    let image = open(&server, &keeping(folder.path()));
    assert!(read(&image, 0).unwrap() == served.tar);
    let asked = ranges(&server, &served).split_off(before);
    let first = asked.iter().map(|(first, _)| first.unwrap_or(0)).min();
    assert_eq!(first, Some(10 * RANGE));
    assert!(!kept.exists(), "nothing is kept of what is complete");
}

#[test]
fn a_download_that_broke_off_goes_on_when_it_is_asked_for_again() {
    let folder = tempfile::tempdir().unwrap();
    let works = Arc::new(Mutex::new(false));
    let (server, served) = serve(20 * RANGE, {
        let works = works.clone();
        move |request, reply| match request.range {
            Some(first) if first >= 7 * RANGE && !*works.lock().expect("no panic") => reply.cut(0),
            _ => reply,
        }
    });
    let mut options = keeping(folder.path());
    options.retries = 0;
    assert!(read(&open(&server, &options), 0).is_err());
    let before = ranges(&server, &served).len();
    *works.lock().unwrap() = true;
    assert!(read(&open(&server, &options), 0).unwrap() == served.tar);
    let asked = ranges(&server, &served).split_off(before);
    let first = asked.iter().map(|(first, _)| first.unwrap_or(0)).min();
    assert_eq!(first, Some(7 * RANGE));
}

#[test]
fn a_server_without_ranges_begins_again_and_the_kept_bytes_are_not_used_twice() {
    let folder = tempfile::tempdir().unwrap();
    let served = Arc::new(Served::new(20 * RANGE));
    let images = served.clone();
    let server = Server::start(move |request| {
        let reply = whole(&images, request);
        match request.path == images.layer && request.count == 0 {
            true => reply.cut(5 * RANGE),
            false => reply,
        }
    });
    let mut options = keeping(folder.path());
    options.retries = 0;
    assert!(read(&open(&server, &options), 0).is_err());
    assert!(read(&open(&server, &options), 0).unwrap() == served.tar);
}

#[test]
fn wrong_bytes_are_not_kept_for_the_next_download() {
    let wrong = |served: &Served, request: &Request| {
        let mut reply = whole(served, request);
        if request.path == served.layer {
            reply.body[10] ^= 1;
        }
        reply
    };
    let folder = tempfile::tempdir().unwrap();
    let served = Arc::new(Served::new(20 * RANGE));
    let images = served.clone();
    let server = Server::start(move |request| match request.count {
        0 | 1 if request.path == images.layer => wrong(&images, request),
        _ => whole(&images, request),
    });
    let options = keeping(folder.path());
    // One that fails at the end, and one whose reader cannot make anything of it before.
    let end = read(&open(&server, &options), 0);
    assert!(matches!(end, Err(Error::DigestMismatch { .. })));
    let image = open(&server, &options);
    let early: Result<(), Error> = image.read_layer(0, |reader| {
        reader.read_exact(&mut vec![0; 3 * RANGE]).expect("there");
        Err(Error::Failed)
    });
    assert!(early.is_err());
    assert!(read(&open(&server, &options), 0).unwrap() == served.tar);
}

#[test]
fn a_reader_that_stops_for_its_own_reasons_may_have_its_bytes_kept() {
    let folder = tempfile::tempdir().unwrap();
    let (server, served) = serve(20 * RANGE, |_, reply| reply);
    let options = keeping(folder.path());
    let image = open(&server, &options);
    let stopped: Result<(), Error> = image.read_layer(0, |reader| {
        reader.fetched().keep();
        reader.read_exact(&mut vec![0; 3 * RANGE]).expect("there");
        Err(Error::Failed)
    });
    assert!(stopped.is_err());
    // Another registry's bytes are not used for it.
    let (other, _) = serve(20 * RANGE, |_, reply| reply);
    assert!(read(&open(&other, &options), 0).unwrap() == served.tar);
    assert_eq!(ranges(&other, &served).first().expect("asked").0, Some(0));
    // The first one's thread may still be at work.
    let start = Instant::now();
    let first = loop {
        let before = ranges(&server, &served).len();
        assert!(read(&open(&server, &options), 0).unwrap() == served.tar);
        let asked = ranges(&server, &served).split_off(before);
        let first = asked.iter().map(|(first, _)| first.unwrap_or(0)).min();
        if first != Some(0) || start.elapsed() > LONG {
            break first;
        }
    };
    assert!(first >= Some(3 * RANGE), "{first:?}");
}
