//! Two network namespaces: the host, where sandboxes run, and the outside world behind its router.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use nix::sched::{CloneFlags, setns};

use crate::common::Blockbox;
use crate::common::guest::until;

/// The world's name server.
const NAME_SERVER: &str = "93.184.216.53:53";

/// The names of the outside world, and their addresses.
const NAMES: [(&str, &str); 4] = [
    ("site.example", "93.184.216.34"),
    ("site.example", "2606:2800:220:1::34"),
    ("inside.example", "10.99.0.1"),
    ("long.example", "93.184.216.34"),
];

pub(crate) struct Lab {
    host: String,
    world: String,
}

fn ip(arguments: &str) {
    let status = Command::new("ip")
        .args(arguments.split_whitespace())
        .status()
        .unwrap();
    assert!(status.success(), "ip {arguments}");
}

impl Lab {
    /// Creates a host with another address besides those of its link, and an outside world with
    /// these addresses.
    pub(crate) fn new(own: &str, world: &[&str]) -> Option<Self> {
        testkit::oracle("ip")?;
        if !Path::new("/proc/self/ns/net").exists() || !rustix::process::geteuid().is_root() {
            testkit::skip("network namespaces need root");
            return None;
        }
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = |side: &str| format!("bbcli{}-{number}{side}", std::process::id());
        let lab = Self {
            host: name("h"),
            world: name("w"),
        };
        for namespace in [&lab.host, &lab.world] {
            ip(&format!("netns add {namespace}"));
            ip(&format!("-n {namespace} link set lo up"));
        }
        let (host, outside) = (&lab.host, &lab.world);
        ip(&format!(
            "link add out0 netns {host} type veth peer name in0 netns {outside}"
        ));
        for command in [
            format!("-n {host} addr add 10.50.0.2/24 dev out0"),
            format!("-n {host} addr add fd50::2/64 dev out0 nodad"),
            format!("-n {host} addr add {own}/32 dev lo"),
            format!("-n {outside} addr add 10.50.0.1/24 dev in0"),
            format!("-n {outside} addr add fd50::1/64 dev in0 nodad"),
            format!("-n {host} link set out0 up"),
            format!("-n {outside} link set in0 up"),
            format!("-n {host} route add default via 10.50.0.1"),
            format!("-n {host} -6 route add default via fd50::1"),
            format!("-n {outside} addr add 93.184.216.53/32 dev lo"),
        ] {
            ip(&command);
        }
        for address in world {
            let rest = if address.contains(':') {
                "/128 dev lo nodad"
            } else {
                "/32 dev lo"
            };
            ip(&format!("-n {outside} addr add {address}{rest}"));
        }
        // `ip netns exec` shows this folder's files in /etc.
        std::fs::create_dir_all(lab.folder()).unwrap();
        let address: SocketAddr = NAME_SERVER.parse().unwrap();
        lab.write("hosts", "127.0.0.1 localhost\n");
        lab.resolve_with(&[address.ip()]);
        lab.name_server(address.ip(), &NAMES);
        Some(lab)
    }

    /// Changes a file of the host's `/etc`, also for programs that run there already.
    pub(crate) fn write(&self, file: &str, text: &str) {
        std::fs::write(self.folder().join(file), text).unwrap();
    }

    /// Gives the host these name servers.
    pub(crate) fn resolve_with(&self, servers: &[IpAddr]) {
        let lines = servers
            .iter()
            .map(|server| format!("nameserver {server}\n"));
        self.write("resolv.conf", &lines.collect::<String>());
    }

    /// Starts another name server outside, which is silent while the flag is set.
    pub(crate) fn name_server(&self, address: IpAddr, names: Names) -> Arc<AtomicBool> {
        let silent = Arc::<AtomicBool>::default();
        let address = SocketAddr::new(address, 53);
        let flag = Arc::clone(&silent);
        self.inside(&self.world, || {
            let listener = TcpListener::bind(address).unwrap();
            serve_names(UdpSocket::bind(address).unwrap(), listener, names, flag);
        });
        silent
    }

    /// Runs `work` in the host's namespace.
    pub(crate) fn on_the_host(&self, work: impl FnOnce() + Send) {
        self.inside(&self.host, work);
    }

    fn folder(&self) -> PathBuf {
        Path::new("/etc/netns").join(&self.host)
    }

    /// Returns the command in the host's namespace.
    pub(crate) fn command(&self, blockbox: &Blockbox) -> Command {
        let mut command = Command::new("ip");
        command
            .args(["netns", "exec", &self.host])
            .arg(env!("CARGO_BIN_EXE_blockbox"))
            .env("BLOCKBOX_HOME", blockbox.home());
        command
    }

    fn inside(&self, namespace: &str, work: impl FnOnce() + Send) {
        let file = File::open(Path::new("/run/netns").join(namespace)).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                setns(file, CloneFlags::CLONE_NEWNET).unwrap();
                work();
            });
        });
    }

    /// Sends a greeting to clients that connect to this port on any address of the host and
    /// outside.
    pub(crate) fn greet(&self, port: u16) {
        for namespace in [&self.host, &self.world] {
            self.inside(namespace, || serve(port, |_| ()));
        }
    }

    /// Sends a greeting to senders of datagrams to this port outside.
    pub(crate) fn answer(&self, port: u16) {
        self.inside(&self.world, || {
            serve(port, |stream| drop(stream.read(&mut [0; 512])));
        });
    }
}

fn serve(port: u16, before: fn(&mut TcpStream)) {
    let listener = TcpListener::bind(("::", port)).unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            before(&mut stream);
            // The client may have disconnected already.
            let _ = stream.write_all(b"hello\n");
        }
    });
}

impl Drop for Lab {
    fn drop(&mut self) {
        for namespace in [&self.host, &self.world] {
            let _ = Command::new("ip")
                .args(["netns", "del", namespace])
                .status();
        }
        let _ = std::fs::remove_dir_all(self.folder());
    }
}

/// Names and their addresses.
type Names = &'static [(&'static str, &'static str)];

/// Starts a name server on a free port of this host's loopback.
pub(crate) fn name_server_on_loopback(names: Names) -> SocketAddr {
    // A port that is free for streams may be in use for datagrams.
    let (socket, listener) = until("a free port", || {
        let listener = TcpListener::bind("127.0.0.1:0").ok()?;
        let socket = UdpSocket::bind(listener.local_addr().ok()?).ok()?;
        Some((socket, listener))
    });
    let address = socket.local_addr().unwrap();
    serve_names(socket, listener, names, Arc::default());
    address
}

/// Answers DNS queries over UDP and TCP in separate threads, unless it is to be silent.
fn serve_names(socket: UdpSocket, listener: TcpListener, names: Names, silent: Arc<AtomicBool>) {
    std::thread::spawn(move || {
        let mut bytes = [0; 1500];
        while let Ok((count, peer)) = socket.recv_from(&mut bytes) {
            if !silent.load(Ordering::Relaxed) {
                let _ = socket.send_to(&reply(&bytes[..count], names, false), peer);
            }
        }
    });
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut length = [0; 2];
            while stream.read_exact(&mut length).is_ok() {
                let mut bytes = vec![0; u16::from_be_bytes(length).into()];
                stream.read_exact(&mut bytes).unwrap();
                let reply = reply(&bytes, names, true);
                let length = u16::try_from(reply.len()).unwrap().to_be_bytes();
                stream.write_all(&[&length, &reply[..]].concat()).unwrap();
            }
        }
    });
}

/// Returns the answer to a query (RFC 1035). The one for `long.example` does not fit into a
/// datagram.
fn reply(question: &[u8], names: Names, stream: bool) -> Vec<u8> {
    let mut labels = Vec::new();
    let mut at = 12;
    while let Some(length @ 1..) = question.get(at).map(|length| usize::from(*length)) {
        let label = &question[at + 1..at + 1 + length];
        labels.push(String::from_utf8_lossy(label).to_ascii_lowercase());
        at += 1 + length;
    }
    let name = labels.join(".");
    let kind = u16::from_be_bytes([question[at + 1], question[at + 2]]);
    let end = at + 5;
    let known = names.iter().any(|(own, _)| *own == name);
    let truncated = name == "long.example" && !stream;
    let addresses: Vec<IpAddr> = names
        .iter()
        .filter(|(own, _)| *own == name && !truncated)
        .map(|(_, address)| address.parse().unwrap())
        .filter(|address: &IpAddr| kind == if address.is_ipv4() { 1 } else { 28 })
        .collect();
    let flags: u16 = 0x8180 | if truncated { 0x200 } else { 0 } | if known { 0 } else { 3 };
    let mut out = question[..2].to_vec();
    for word in [flags, 1, u16::try_from(addresses.len()).unwrap(), 0, 0] {
        out.extend(word.to_be_bytes());
    }
    out.extend(&question[12..end]);
    for address in addresses {
        let data = match address {
            IpAddr::V4(address) => address.octets().to_vec(),
            IpAddr::V6(address) => address.octets().to_vec(),
        };
        // The question's name, the type, class IN, five minutes.
        out.extend([0xc0, 12]);
        out.extend(kind.to_be_bytes());
        out.extend([0, 1, 0, 0, 1, 44]);
        out.extend(u16::try_from(data.len()).unwrap().to_be_bytes());
        out.extend(data);
    }
    out
}
