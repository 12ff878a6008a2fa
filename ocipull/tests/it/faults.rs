//! A registry behind a proxy that fails at random: every transfer ends right or with one error, and
//! nothing wrong is kept.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use ocipull::{CopyOptions, Credentials, Digest, Image, Options, Reference, copy};

use crate::registry::Registry;
use crate::support::{GZIP, Layer, Layout, TAR, ZSTD, read, tar};

/// Numbers that look like chance and are the same each time.
struct Random(AtomicU64);

impl Random {
    fn below(&self, end: u64) -> u64 {
        let mut state = self.0.load(Ordering::Relaxed);
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        self.0.store(state, Ordering::Relaxed);
        state % end
    }
}

/// What happens to a connection.
#[derive(Clone, Copy, Debug)]
enum Fault {
    None,
    /// It ends after so many bytes of the answer.
    Cut(u64),
    /// It ends after so many bytes of the request.
    CutRequest(u64),
    /// Nothing is heard for a while after so many bytes.
    Stall(u64),
    /// The server has no time.
    Busy(&'static str),
    /// A byte of the answer is another one.
    Flip(u64),
    /// The registry says nothing.
    Mute,
    /// Bytes come slowly.
    Slow,
    /// Another server has what is asked for.
    Redirect,
    /// The server does not learn which range is wanted.
    NoRange,
    /// The answer says that it has another range than it has.
    WrongRange,
    /// The answer says that it is shorter than it is.
    WrongLength,
    /// The answer says that it has another digest.
    WrongDigest,
}

/// The proxy; ends when dropped.
struct Proxy {
    host: String,
    stop: Arc<AtomicBool>,
}

impl Proxy {
    fn start(to: String, seed: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let host = listener.local_addr().expect("bound").to_string();
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, random) = (stop.clone(), Arc::new(Random(AtomicU64::new(seed))));
        std::thread::spawn(move || {
            for client in listener.incoming() {
                if stopped.load(Ordering::Relaxed) {
                    break;
                }
                let (Ok(client), fault) = (client, fault(&random)) else {
                    continue;
                };
                let to = to.clone();
                std::thread::spawn(move || serve(client, &to, fault));
            }
        });
        Self { host, stop }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(&self.host);
    }
}

fn fault(random: &Random) -> Fault {
    let at = 1 << random.below(19);
    let at = at + random.below(at);
    match random.below(30) {
        0..=2 => Fault::Cut(at),
        3 => Fault::CutRequest(at),
        4 => Fault::Stall(at),
        5 => Fault::Busy(
            "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
        ),
        6 => Fault::Busy(
            "HTTP/1.1 429 Too Many Requests\r\nRetry-After: 0\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
        ),
        7 => Fault::Flip(at),
        8 => Fault::Mute,
        9 => Fault::Slow,
        10 => Fault::Redirect,
        11 | 12 => Fault::NoRange,
        13 => Fault::WrongRange,
        14 => Fault::WrongLength,
        15 => Fault::WrongDigest,
        _ => Fault::None,
    }
}

fn serve(mut client: TcpStream, to: &str, fault: Fault) {
    if let Fault::Busy(answer) = fault {
        let _ = client.read(&mut [0; 4096]);
        return refuse(client, answer);
    }
    if let Fault::Redirect = fault {
        let mut request = vec![0; 4096];
        let bytes = client.read(&mut request).unwrap_or(0);
        let request = String::from_utf8_lossy(request.get(..bytes).unwrap_or_default());
        let target = request.split(' ').nth(1).unwrap_or("/");
        let answer = format!(
            "HTTP/1.1 307 Temporary Redirect\r\nLocation: http://{to}{target}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        );
        return refuse(client, &answer);
    }
    if matches!(fault, Fault::Mute) {
        return;
    }
    let Ok(server) = TcpStream::connect(to) else {
        return;
    };
    let (Ok(from), Ok(into)) = (client.try_clone(), server.try_clone()) else {
        return;
    };
    let (request, answer) = match fault {
        Fault::CutRequest(at) => (Fault::Cut(at), Fault::None),
        Fault::NoRange => (fault, Fault::None),
        other => (Fault::None, other),
    };
    std::thread::spawn(move || pass_on(from, into, request));
    pass_on(server, client, answer);
}

fn refuse(mut client: TcpStream, answer: &str) {
    let _ = client.write_all(answer.as_bytes());
    // What is not read would reset the connection, and the answer with it.
    let _ = client.set_read_timeout(Some(Duration::from_millis(100)));
    let _ = std::io::copy(&mut client, &mut std::io::sink());
}

/// Passes bytes on, with `fault`; ends both ways then.
fn pass_on(mut from: TcpStream, mut to: TcpStream, fault: Fault) {
    let mut buffer = [0; 16 << 10];
    let mut passed = 0_u64;
    while let Ok(bytes) = from.read(&mut buffer) {
        if bytes == 0 {
            break;
        }
        let end = passed + bytes as u64;
        let mut length = bytes;
        match fault {
            Fault::Cut(at) if end > at => length = (at - passed) as usize,
            Fault::Stall(at) if passed <= at && at < end => {
                std::thread::sleep(Duration::from_millis(700));
            }
            Fault::Flip(at) if passed <= at && at < end => {
                buffer[(at - passed) as usize] ^= 0x20;
            }
            Fault::Slow => std::thread::sleep(Duration::from_millis(2)),
            Fault::NoRange => change(&mut buffer[..bytes], "\r\nrange: ", |name| name[2] = b'x'),
            Fault::WrongRange => {
                change(
                    &mut buffer[..bytes],
                    "\r\ncontent-range: bytes ",
                    another_digit,
                );
            }
            Fault::WrongLength => {
                change(&mut buffer[..bytes], "\r\ncontent-length: ", |value| {
                    // Of a number with several digits the first is gone.
                    if value.get(1).is_some_and(u8::is_ascii_digit) {
                        value[0] = b'0';
                    }
                });
            }
            Fault::WrongDigest => {
                let name = "\r\ndocker-content-digest: sha256:";
                change(&mut buffer[..bytes], name, another_digit);
            }
            _ => {}
        }
        if to.write_all(&buffer[..length]).is_err() || length < bytes {
            break;
        }
        passed = end;
    }
    let _ = to.shutdown(Shutdown::Both);
    let _ = from.shutdown(Shutdown::Both);
}

fn another_digit(value: &mut [u8]) {
    value[0] = if value[0] == b'1' { b'2' } else { b'1' };
}

/// Changes the value of a header in `bytes`, or its name where `name` is all of a request's header.
fn change(bytes: &mut [u8], name: &str, with: impl Fn(&mut [u8])) {
    let found = bytes
        .windows(name.len())
        .position(|window| window.eq_ignore_ascii_case(name.as_bytes()));
    if let Some(at) = found {
        let value = at + if name == "\r\nrange: " { 0 } else { name.len() };
        with(&mut bytes[value..]);
    }
}

fn options() -> Options {
    let mut options = Options::default();
    options.plain_http = true;
    options.credentials = Credentials::Anonymous;
    options.stall_timeout = Duration::from_millis(400);
    options.retries = 3;
    options
}

/// How many transfers, of which a tenth is for every day.
fn transfers(all: u64) -> u64 {
    match std::env::var("OCIPULL_TRANSFERS").as_deref() {
        Ok("all") => all,
        _ => all / 10,
    }
}

#[test]
fn pulls_through_a_failing_proxy_are_right_or_say_what_failed() {
    let Some(registry) = Registry::start() else {
        return;
    };
    let tars = [300_000, 1000, 900_000].map(|size| tar("f", size));
    let layers: Vec<_> = tars
        .iter()
        .zip([GZIP, ZSTD, TAR])
        .map(|(tar, kind)| Layer::new(tar, kind))
        .collect();
    let layout = Layout::of(&layers);
    let source = format!("oci:{}", layout.path().display());
    let place = format!("{}/app:v1", registry.host);
    copied(&source, &place).expect("nothing fails yet");
    let mut right = 0;
    for seed in 1..=transfers(300) {
        let proxy = Proxy::start(registry.host.clone(), seed * 0x9e37_79b9);
        let reference: Reference = format!("{}/app:v1", proxy.host).parse().expect("a name");
        let pulled = Image::open(&reference, &options()).and_then(|image| {
            (0..tars.len())
                .map(|layer| read(&image, layer))
                .collect::<Result<Vec<_>, _>>()
        });
        match pulled {
            Ok(pulled) => {
                assert!(pulled == tars, "seed {seed}");
                right += 1;
            }
            Err(error) => assert!(!error.to_string().is_empty()),
        }
    }
    // Most faults pass, and trying again helps.
    assert!(right * 2 > transfers(300), "{right} pulls");
}

#[test]
fn pulls_in_ranges_that_are_taken_up_again_are_right_whatever_fails() {
    let Some(registry) = Registry::start() else {
        return;
    };
    let tars = [900_000, 400_000].map(|size| tar("f", size));
    let layers = [Layer::new(&tars[0], TAR), Layer::new(&tars[1], GZIP)];
    let layout = Layout::of(&layers);
    let source = format!("oci:{}", layout.path().display());
    copied(&source, &format!("{}/app:v1", registry.host)).expect("nothing fails yet");
    let mut right = 0;
    for seed in 1..=transfers(200) {
        let proxy = Proxy::start(registry.host.clone(), seed * 0xc2b2_ae35);
        let reference: Reference = format!("{}/app:v1", proxy.host).parse().expect("a name");
        let folder = tempfile::tempdir().expect("a folder");
        let mut options = options();
        options.range_bytes = 32 << 10;
        options.partial_downloads = Some(folder.path().to_owned());
        // The next attempt goes on with what came in this one.
        options.retries = 1;
        for _ in 0..4 {
            let pulled = Image::open(&reference, &options).and_then(|image| {
                (0..tars.len())
                    .map(|layer| read(&image, layer))
                    .collect::<Result<Vec<_>, _>>()
            });
            match pulled {
                Ok(pulled) => {
                    assert!(pulled == tars, "seed {seed}");
                    right += 1;
                    break;
                }
                Err(error) => assert!(!error.to_string().is_empty()),
            }
        }
    }
    assert!(right * 2 > transfers(200), "{right} pulls");
}

fn copied(source: &str, target: &str) -> Result<Digest, ocipull::Error> {
    let mut copying = CopyOptions::default();
    (copying.source, copying.target) = (options(), options());
    let reference = |text: &str| text.parse::<Reference>().expect("a reference");
    copy(&reference(source), &reference(target), &copying)
}

#[test]
fn pushes_through_a_failing_proxy_leave_the_registry_right() {
    let Some(registry) = Registry::start() else {
        return;
    };
    let mut right = 0;
    for seed in 1..=transfers(100) {
        let tars = [200_000 + seed as usize, 500_000].map(|size| tar("f", size));
        let layout = Layout::of(&[Layer::new(&tars[0], GZIP), Layer::new(&tars[1], TAR)]);
        let source = format!("oci:{}", layout.path().display());
        let proxy = Proxy::start(registry.host.clone(), seed * 0x85eb_ca6b);
        let pushed = copied(&source, &format!("{}/app{seed}:v1", proxy.host));
        right += u64::from(pushed.is_ok());
        // Whatever the client reported, the tag names the image or nothing.
        let reference: Reference = format!("{}/app{seed}:v1", registry.host)
            .parse()
            .expect("a name");
        match (Image::open(&reference, &options()), pushed) {
            (Ok(image), pushed) => {
                if let Ok(digest) = pushed {
                    assert_eq!(*image.manifest_digest(), digest, "seed {seed}");
                }
                for (layer, tar) in tars.iter().enumerate() {
                    let there = read(&image, layer).expect("whole");
                    assert!(there == *tar, "seed {seed}");
                }
            }
            (Err(error), Ok(_)) => panic!("seed {seed}: pushed, but {error}"),
            (Err(_), Err(_)) => {}
        }
    }
    assert!(right * 2 > transfers(100), "{right} pushes");
}
