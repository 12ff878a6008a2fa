//! A guest with Linux's own TCP/IP: a network namespace whose only way out is a tap device that
//! leads to the gateway. The gateway and the servers are in another namespace, which has the
//! addresses that a test wants.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use blockbox_net::{Addresses, Config};
use rustix::thread::LinkNameSpaceType;
use socket2::{Domain, Socket, Type};

use super::Running;

pub(crate) struct Lab {
    outside: String,
    guest: String,
    running: Option<Running>,
}

/// Returns whether a lab can be made here, and prints why not.
fn possible() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root || !Path::new("/dev/net/tun").exists() {
        testkit::skip("network namespaces need root and /dev/net/tun");
        return false;
    }
    testkit::oracle("ip").is_some()
}

fn ip(arguments: &str) {
    let status = Command::new("ip")
        .args(arguments.split_whitespace())
        .status()
        .unwrap();
    assert!(status.success(), "ip {arguments}");
}

/// Puts this thread in a namespace; threads that it starts later are there as well.
fn enter(namespace: &str) {
    let file = File::open(Path::new("/run/netns").join(namespace)).unwrap();
    rustix::thread::move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
        .unwrap();
}

/// Creates a tap device in this thread's namespace.
#[allow(unsafe_code, reason = "no crate here opens tap devices")]
fn tap(name: &str) -> File {
    let file = File::options()
        .read(true)
        .write(true)
        .open("/dev/net/tun")
        .unwrap();
    // struct ifreq: a name of 16 bytes, then IFF_TAP | IFF_NO_PI.
    let mut request = [0u8; 40];
    request[..name.len()].copy_from_slice(name.as_bytes());
    request[16..18].copy_from_slice(&0x1002u16.to_ne_bytes());
    // SAFETY: TUNSETIFF reads and writes a struct ifreq, which has 40 bytes.
    unsafe {
        let request = rustix::ioctl::Updater::<0x4004_54ca, [u8; 40]>::new(&mut request);
        rustix::ioctl::ioctl(&file, request).unwrap();
    }
    file
}

impl Lab {
    /// Creates two namespaces; the outer one has these addresses.
    pub(crate) fn new(addresses: &[&str]) -> Option<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        if !possible() {
            return None;
        }
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = |side: &str| format!("bbnet{}-{number}{side}", std::process::id());
        let lab = Self {
            outside: name("o"),
            guest: name("g"),
            running: None,
        };
        for namespace in [&lab.outside, &lab.guest] {
            ip(&format!("netns add {namespace}"));
            ip(&format!("-n {namespace} link set lo up"));
        }
        for address in addresses {
            let length = if address.contains(':') { 128 } else { 32 };
            let flags = if address.contains(':') { "nodad" } else { "" };
            ip(&format!(
                "-n {} addr add {address}/{length} dev lo {flags}",
                lab.outside
            ));
        }
        // `ip netns exec` mounts the files of this folder in /etc.
        let folder = lab.folder();
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("resolv.conf"), "nameserver 10.187.1.1\n").unwrap();
        Some(lab)
    }

    fn folder(&self) -> PathBuf {
        Path::new("/etc/netns").join(&self.guest)
    }

    /// Creates a lab with a running gateway.
    pub(crate) fn with(addresses: &[&str], config: Config) -> Option<Self> {
        let mut lab = Self::new(addresses)?;
        lab.start(config);
        Some(lab)
    }

    /// Starts the gateway and sets up the guest's interface.
    pub(crate) fn start(&mut self, config: Config) {
        let (running, link) = self.outside(|| Running::start(config));
        self.running = Some(running);
        let tap = self.guest(|| tap("eth0"));
        let addresses = Addresses::default();
        let namespace = &self.guest;
        for command in [
            format!("link set eth0 address {} up", addresses.guest_mac),
            format!("addr add {}/24 dev eth0", addresses.guest_v4),
            format!("addr add {}/64 dev eth0 nodad", addresses.guest_v6),
            format!("route add default via {}", addresses.gateway_v4),
            format!("-6 route add default via {}", addresses.gateway_v6),
        ] {
            ip(&format!("-n {namespace} {command}"));
        }
        bridge(tap, link);
    }

    pub(crate) fn gateway(&mut self) -> &mut Running {
        self.running.as_mut().unwrap()
    }

    fn inside<T: Send>(&self, namespace: &str, work: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            scope
                .spawn(move || {
                    enter(namespace);
                    work()
                })
                .join()
                .unwrap()
        })
    }

    /// Calls `work` in the namespace of the gateway and the servers.
    pub(crate) fn outside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        self.inside(&self.outside, work)
    }

    /// Calls `work` in the namespace of the guest.
    pub(crate) fn guest<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        self.inside(&self.guest, work)
    }

    /// Runs a program in the guest.
    pub(crate) fn run(&self, program: &str, arguments: &[&str]) -> Output {
        Command::new("ip")
            .args(["netns", "exec", &self.guest, program])
            .args(arguments)
            .output()
            .unwrap()
    }

    /// Takes the guest's interface down.
    pub(crate) fn disconnect(&self) {
        ip(&format!("-n {} link set eth0 down", self.guest));
    }

    /// Starts a server in the gateway's namespace, in a folder, and waits until it listens at this
    /// address.
    pub(crate) fn program(&self, address: SocketAddr, folder: &Path, command: &[&str]) -> Server {
        let child = Command::new("ip")
            .args(["netns", "exec", &self.outside])
            .args(command)
            .current_dir(folder)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let server = Server(child);
        let start = Instant::now();
        while self.outside(|| TcpStream::connect(address)).is_err() {
            assert!(start.elapsed() < super::PATIENCE, "{command:?}");
            std::thread::sleep(Duration::from_millis(10));
        }
        server
    }

    /// Sets a kernel parameter of the guest's network.
    pub(crate) fn set(&self, guest: bool, parameter: &str, value: &str) {
        let namespace = if guest { &self.guest } else { &self.outside };
        let status = Command::new("ip")
            .args(["netns", "exec", namespace, "sh", "-c"])
            .arg(format!("echo {value} > /proc/sys/net/{parameter}"))
            .status()
            .unwrap();
        assert!(status.success(), "{parameter}");
    }

    /// Connects from the guest.
    ///
    /// The call blocks in the kernel: `TcpStream::connect_timeout` polls, and now and then it finds
    /// a failed socket without an error.
    pub(crate) fn connect(&self, to: &str) -> std::io::Result<TcpStream> {
        let to: SocketAddr = to.parse().unwrap();
        self.guest(|| {
            let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
            socket.set_write_timeout(Some(super::PATIENCE))?;
            socket.connect(&to.into())?;
            socket.set_write_timeout(None)?;
            socket.set_read_timeout(Some(super::PATIENCE))?;
            Ok(socket.into())
        })
    }

    /// Makes an address unreachable in the outer namespace.
    pub(crate) fn unreachable(&self, address: IpAddr) {
        ip(&format!(
            "-n {} route add unreachable {address}",
            self.outside
        ));
    }
}

impl Lab {
    /// Makes a network of the outer namespace whose hosts never answer: the link-layer address of
    /// its router does not exist.
    pub(crate) fn silent(&self, network: &str) {
        let namespace = &self.outside;
        ip(&format!(
            "-n {namespace} link add void type veth peer name nobody"
        ));
        for end in ["void", "nobody"] {
            ip(&format!("-n {namespace} link set {end} up"));
        }
        let router = "169.254.77.1";
        ip(&format!(
            "-n {namespace} neigh add {router} lladdr 02:00:00:00:00:77 dev void nud permanent"
        ));
        ip(&format!(
            "-n {namespace} route add {network} via {router} dev void onlink"
        ));
    }
}

/// A program that ends with the test.
pub(crate) struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for namespace in [&self.outside, &self.guest] {
            // The rest is removed with the machine.
            let _ = Command::new("ip")
                .args(["netns", "del", namespace])
                .status();
        }
        let _ = std::fs::remove_dir_all(self.folder());
        if !std::thread::panicking()
            && let Some(running) = self.running.take()
        {
            running.end();
        }
    }
}

/// Carries frames between a tap device and the gateway's socket, until either ends.
fn bridge(tap: File, link: UnixStream) {
    let (mut from_tap, mut to_link) = (tap.try_clone().unwrap(), link.try_clone().unwrap());
    std::thread::spawn(move || {
        let mut frame = [0; 65_536];
        while let Ok(count @ 1..) = from_tap.read(&mut frame[4..]) {
            frame[..4].copy_from_slice(&u32::try_from(count).unwrap().to_be_bytes());
            if to_link.write_all(&frame[..4 + count]).is_err() {
                break;
            }
        }
    });
    let (mut from_link, mut to_tap) = (link, tap);
    std::thread::spawn(move || {
        let mut length = [0; 4];
        while from_link.read_exact(&mut length).is_ok() {
            let mut frame = vec![0; u32::from_be_bytes(length) as usize];
            if from_link.read_exact(&mut frame).is_err() {
                break;
            }
            // An interface that is not up yet accepts no frames.
            let _ = to_tap.write_all(&frame);
        }
    });
}

/// The most time that an immediate result takes.
pub(crate) const AT_ONCE: Duration = Duration::from_secs(2);
