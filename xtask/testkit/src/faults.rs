//! A proxy that fails at random, for tests of transfers.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

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

/// A proxy on the loopback interface that fails at random; ends when dropped.
#[derive(Debug)]
pub struct FaultyProxy {
    /// Its host and port.
    pub host: String,
    stop: Arc<AtomicBool>,
}

impl FaultyProxy {
    /// Starts one before the server at `to`. The same `seed` gives the same faults.
    pub fn start(to: String, seed: u64) -> Self {
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

impl Drop for FaultyProxy {
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

/// Returns how many of `all` transfers to make: a tenth, or all with `OCIPULL_TRANSFERS=all`.
pub fn transfers(all: u64) -> u64 {
    match std::env::var("OCIPULL_TRANSFERS").as_deref() {
        Ok("all") => all,
        _ => all / 10,
    }
}
