//! A proxy before a registry.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// A proxy in front of a registry that counts the bytes of its answers, and stalls after a limit.
pub(crate) struct Proxy {
    pub(crate) host: String,
    pub(crate) passed: Arc<AtomicU64>,
    pub(crate) most: Arc<AtomicU64>,
    /// The limit for the bytes of requests.
    pub(crate) most_sent: Arc<AtomicU64>,
}

impl Proxy {
    pub(crate) fn start(to: String, most: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let number = |value| Arc::new(AtomicU64::new(value));
        let (passed, sent) = (number(0), number(0));
        let (most, most_sent) = (number(most), number(u64::MAX));
        let proxy = Self {
            host,
            passed: passed.clone(),
            most: most.clone(),
            most_sent: most_sent.clone(),
        };
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let server = TcpStream::connect(&to).unwrap();
                let (from, into) = (client.try_clone().unwrap(), server.try_clone().unwrap());
                let (sent, most_sent) = (sent.clone(), most_sent.clone());
                std::thread::spawn(move || pass(&from, &into, &sent, &most_sent));
                let (passed, most) = (passed.clone(), most.clone());
                std::thread::spawn(move || {
                    pass(&server, &client, &passed, &most);
                    let _ = client.shutdown(std::net::Shutdown::Both);
                    let _ = server.shutdown(std::net::Shutdown::Both);
                });
            }
        });
        proxy
    }
}

/// Passes bytes on, and counts them in `passed`, which stays near `most`.
fn pass(mut from: &TcpStream, mut into: &TcpStream, passed: &AtomicU64, most: &AtomicU64) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(bytes @ 1..) = from.read(&mut buffer) {
        while passed.load(Ordering::SeqCst) >= most.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(10));
        }
        passed.fetch_add(bytes as u64, Ordering::SeqCst);
        if into.write_all(&buffer[..bytes]).is_err() {
            break;
        }
    }
}
