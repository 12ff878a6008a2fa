//! A server that answers as a test wants it to.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

/// What was asked.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    /// The first byte of the range.
    pub(crate) range: Option<usize>,
    /// The last one, where the range has an end.
    pub(crate) last: Option<usize>,
    pub(crate) authorization: Option<String>,
    /// How many requests for this path came before.
    pub(crate) count: usize,
}

/// What to answer.
#[derive(Clone, Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) body: Vec<u8>,
    /// Hang up after so many bytes of the body.
    pub(crate) cut: Option<usize>,
    /// How long to say nothing where `cut` is, or before the first byte.
    pub(crate) stall: Duration,
    /// How long to wait after each byte of the body.
    pub(crate) drip: Duration,
    /// Hang up without an answer.
    pub(crate) mute: bool,
}

impl Reply {
    pub(crate) fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self {
            status,
            headers: Vec::new(),
            body: body.into(),
            cut: None,
            stall: Duration::ZERO,
            drip: Duration::ZERO,
            mute: false,
        }
    }

    /// No answer at all.
    pub(crate) fn none() -> Self {
        Self {
            mute: true,
            ..Self::new(200, "")
        }
    }

    pub(crate) fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    pub(crate) fn stall(mut self, time: Duration) -> Self {
        self.stall = time;
        self
    }

    pub(crate) fn drip(mut self, time: Duration) -> Self {
        self.drip = time;
        self
    }

    pub(crate) fn cut(mut self, after: usize) -> Self {
        self.cut = Some(after);
        self
    }

    /// What of `body` the request wants.
    pub(crate) fn ranged(request: &Request, body: &[u8]) -> Self {
        let end = request
            .last
            .map_or(body.len(), |last| (last + 1).min(body.len()));
        match (request.range, request.last) {
            (None | Some(0), None) => Self::new(200, body),
            (Some(from), _) if from >= end => Self::new(416, ""),
            (from, _) => {
                let from = from.unwrap_or_default();
                let range = format!("bytes {from}-{}/{}", end - 1, body.len());
                Self::new(206, &body[from..end]).header("Content-Range", range)
            }
        }
    }
}

/// The server; stops when dropped.
pub(crate) struct Server {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    requests: Arc<Mutex<Vec<Request>>>,
    connections: Arc<AtomicUsize>,
}

/// What a server speaks.
#[derive(Clone)]
enum Protocol {
    Http,
    /// Connections stay open for further requests.
    Persistent,
    Tls(Arc<rustls::ServerConfig>),
}

impl Server {
    pub(crate) fn start(handler: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Self {
        Self::start_with(Protocol::Http, handler)
    }

    /// One whose connections stay open for further requests.
    pub(crate) fn start_persistent(
        handler: impl Fn(&Request) -> Reply + Send + Sync + 'static,
    ) -> Self {
        Self::start_with(Protocol::Persistent, handler)
    }

    /// One that speaks TLS.
    pub(crate) fn start_tls(
        identity: &Identity,
        handler: impl Fn(&Request) -> Reply + Send + Sync + 'static,
    ) -> Self {
        Self::start_with(Protocol::Tls(identity.config()), handler)
    }

    fn start_with(
        protocol: Protocol,
        handler: impl Fn(&Request) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("bound");
        let stop = Arc::new(AtomicBool::new(false));
        let requests = Arc::new(Mutex::new(Vec::new()));
        let connections = Arc::new(AtomicUsize::new(0));
        let handler = Arc::new(handler);
        let thread = std::thread::spawn({
            let (stop, requests) = (stop.clone(), requests.clone());
            let connections = connections.clone();
            move || {
                for stream in listener.incoming() {
                    if stop.load(Ordering::SeqCst) {
                        break;
                    }
                    connections.fetch_add(1, Ordering::SeqCst);
                    let (handler, requests) = (handler.clone(), requests.clone());
                    let protocol = protocol.clone();
                    std::thread::spawn(move || {
                        let mut stream = stream.expect("a connection");
                        match protocol {
                            Protocol::Http => {
                                let _ = answer(stream, &*handler, &requests, false);
                            }
                            Protocol::Persistent => {
                                while answer(&mut stream, &*handler, &requests, true).is_ok() {}
                            }
                            Protocol::Tls(config) => {
                                let connection = rustls::ServerConnection::new(config);
                                let connection = connection.expect("a configuration");
                                let stream = rustls::StreamOwned::new(connection, stream);
                                let _ = answer(stream, &*handler, &requests, false);
                            }
                        }
                    });
                }
            }
        });
        Self {
            address,
            stop,
            thread: Some(thread),
            requests,
            connections,
        }
    }

    /// Host and port.
    pub(crate) fn host(&self) -> String {
        self.address.to_string()
    }

    /// How many connections were made.
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    pub(crate) fn requests(&self) -> Vec<Request> {
        self.requests.lock().expect("no panic").clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn answer(
    mut stream: impl Read + Write,
    handler: &dyn Fn(&Request) -> Reply,
    requests: &Mutex<Vec<Request>>,
    persistent: bool,
) -> std::io::Result<()> {
    let mut input = BufReader::new(&mut stream);
    // A TLS handshake, which real servers answer so, too.
    if input.fill_buf()?.first() == Some(&0x16) {
        return stream.write_all(b"HTTP/1.0 400 Bad Request\r\n\r\n");
    }
    let mut line = String::new();
    if input.read_line(&mut line)? == 0 {
        return Err(ErrorKind::UnexpectedEof.into());
    }
    let mut words = line.split(' ').map(str::to_owned);
    let method = words.next().unwrap_or_default();
    let path = words.next().unwrap_or_default();
    let mut headers = Vec::new();
    loop {
        line.clear();
        if input.read_line(&mut line)? == 0 || line.trim().is_empty() {
            break;
        }
        let (name, value) = line.trim().split_once(": ").unwrap_or_default();
        headers.push((name.to_ascii_lowercase(), value.to_owned()));
    }
    let header = |name: &str| {
        let found = headers.iter().find(|(key, _)| key == name);
        found.map(|(_, value)| value.clone())
    };
    let asked = header("range").unwrap_or_default();
    let asked = asked.strip_prefix("bytes=").unwrap_or_default();
    let (first, last) = asked.split_once('-').unwrap_or_default();
    let (range, last) = (first.parse().ok(), last.parse().ok());
    let authorization = header("authorization");
    let length = header("content-length").and_then(|length| length.parse().ok());
    let mut body = Vec::new();
    input.take(length.unwrap_or(0)).read_to_end(&mut body)?;
    let request = {
        let mut requests = requests.lock().expect("no panic");
        let count = requests
            .iter()
            .filter(|request| request.path == path)
            .count();
        let request = Request {
            method,
            path,
            headers,
            body,
            range,
            last,
            authorization,
            count,
        };
        requests.push(request.clone());
        request
    };
    let reply = handler(&request);
    if reply.mute {
        return Ok(());
    }
    if reply.cut.is_none() {
        std::thread::sleep(reply.stall);
    }
    let mut head = format!("HTTP/1.1 {} Status\r\n", reply.status);
    if !persistent {
        head += "Connection: close\r\n";
    }
    if !reply
        .headers
        .iter()
        .any(|(name, _)| *name == "Content-Length")
    {
        head += &format!("Content-Length: {}\r\n", reply.body.len());
    }
    for (name, value) in &reply.headers {
        head += &format!("{name}: {value}\r\n");
    }
    stream.write_all(head.as_bytes())?;
    stream.write_all(b"\r\n")?;
    if !reply.drip.is_zero() {
        for byte in &reply.body {
            stream.write_all(&[*byte])?;
            stream.flush()?;
            std::thread::sleep(reply.drip);
        }
    } else if request.method != "HEAD" {
        stream.write_all(&reply.body[..reply.cut.unwrap_or(reply.body.len())])?;
    }
    stream.flush()?;
    if reply.cut.is_some() {
        std::thread::sleep(reply.stall);
    }
    Ok(())
}

/// A certificate for 127.0.0.1 and its key, and the authority that vouches for it.
pub(crate) struct Identity {
    dir: tempfile::TempDir,
}

impl Identity {
    /// Made by openssl, where it is installed.
    pub(crate) fn new() -> Option<Self> {
        let dir = tempfile::tempdir().expect("a temporary directory");
        std::fs::write(
            dir.path().join("extensions"),
            "subjectAltName=IP:127.0.0.1,DNS:client\nbasicConstraints=CA:false\n",
        )
        .expect("written");
        let authority = "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=authority \
            -addext basicConstraints=critical,CA:true -keyout ca.key -out ca.crt";
        let request =
            "req -newkey rsa:2048 -nodes -subj /CN=registry -keyout host.key -out host.csr";
        let sign = "x509 -req -in host.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 \
            -extfile extensions -out host.cert";
        for command in [authority, request, sign] {
            let output = testkit::oracle("openssl")?
                .args(command.split_whitespace())
                .current_dir(dir.path())
                .output()
                .expect("openssl starts");
            assert!(output.status.success(), "{output:?}");
        }
        Some(Self { dir })
    }

    /// `ca.crt`, `host.cert` or `host.key`.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn config(&self) -> Arc<rustls::ServerConfig> {
        use rustls_pki_types::pem::PemObject as _;
        use rustls_pki_types::{CertificateDer, PrivateKeyDer};
        let certificate =
            CertificateDer::from_pem_file(self.file("host.cert")).expect("a certificate");
        let key = PrivateKeyDer::from_pem_file(self.file("host.key")).expect("a key");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key);
        Arc::new(config.expect("a sound identity"))
    }
}
