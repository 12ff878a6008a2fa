//! Debian's docker-registry on loopback, and a proxy before it.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use testkit::oracle;

/// A registry, which ends when dropped.
pub(crate) struct Registry {
    process: Child,
    pub(crate) host: String,
    pub(crate) dir: tempfile::TempDir,
}

impl Registry {
    /// Starts one with a single user.
    pub(crate) fn start() -> Option<Self> {
        let mut perl = oracle("perl")?;
        // The hash that `htpasswd -bB` makes of user and secret.
        perl.args([
            "-e",
            r#"print crypt("secret", q($2b$05$abcdefghijklmnopqrstuu))"#,
        ]);
        let hash = String::from_utf8(perl.output().unwrap().stdout).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let users = dir.path().join("htpasswd");
        fs::write(&users, format!("user:{hash}\n")).unwrap();
        let users = users.display();
        let auth = format!("auth:\n  htpasswd:\n    realm: test\n    path: {users}\n");
        Self::start_with(dir, &auth)
    }

    /// Starts one without authentication.
    pub(crate) fn start_open() -> Option<Self> {
        Self::start_with(tempfile::tempdir().unwrap(), "")
    }

    pub(crate) fn start_with(dir: tempfile::TempDir, auth: &str) -> Option<Self> {
        let mut registry = oracle("docker-registry")?;
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let host = listener.local_addr().unwrap().to_string();
        drop(listener);
        let config = format!(
            "version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: {host}\n{auth}",
            dir.path().join("data").display(),
        );
        let file = dir.path().join("config.yml");
        fs::write(&file, config).unwrap();
        registry.arg("serve").arg(&file);
        let process = registry
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let registry = Self { process, host, dir };
        let start = Instant::now();
        while TcpStream::connect(&registry.host).is_err() {
            assert!(start.elapsed() < Duration::from_secs(10), "no registry");
            std::thread::sleep(Duration::from_millis(20));
        }
        Some(registry)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

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
