//! A registry behind a proxy that fails at random: every transfer ends right or with one error, and nothing wrong is kept.

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
    match random.below(20) {
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
        _ => Fault::None,
    }
}

fn serve(mut client: TcpStream, to: &str, fault: Fault) {
    if let Fault::Busy(answer) = fault {
        let _ = client.read(&mut [0; 4096]);
        let _ = client.write_all(answer.as_bytes());
        // What is not read would reset the connection, and the answer with it.
        let _ = client.set_read_timeout(Some(Duration::from_millis(100)));
        let _ = std::io::copy(&mut client, &mut std::io::sink());
        return;
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
    let request = match fault {
        Fault::CutRequest(at) => Fault::Cut(at),
        _ => Fault::None,
    };
    std::thread::spawn(move || pass_on(from, into, request));
    let answer = match fault {
        Fault::CutRequest(_) => Fault::None,
        other => other,
    };
    pass_on(server, client, answer);
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
        // Whatever the client was told: what the tag leads to, if anything, is the image.
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
