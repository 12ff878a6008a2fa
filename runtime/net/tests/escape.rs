//! A program under the restrictions of a gateway tries to escape.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs::{self, File};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use nix::unistd::Pid;
use testkit::denied;

/// The variable with the test's folder, for the program that tries to escape.
const FOLDER: &str = "ESCAPE_FOLDER";

/// The number of denied attempts, besides what the program must be able to do.
const ATTEMPTS: usize = 17;

#[test]
fn program_confined_like_the_gateway_has_sockets_of_ip_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("socket");
    let _unix = UnixListener::bind(socket).unwrap();
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "try_to_escape", "--ignored", "--nocapture"])
        .env(FOLDER, folder.path())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}{errors}");
    let denied = text.lines().filter(|line| line.starts_with("denied: "));
    assert_eq!(denied.count(), ATTEMPTS, "{text}");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

/// The program that tries to escape, which is not a test.
#[test]
#[ignore = "lays rules on itself"]
fn try_to_escape() {
    let Some(folder) = std::env::var_os(FOLDER).map(PathBuf::from) else {
        return;
    };
    let path = |name: &str| folder.join(name);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let parent = Pid::parent();
    // `cat` ends with its input, which this process holds.
    let mut other = Command::new("cat");
    let other = other.stdin(Stdio::piped()).spawn().unwrap();
    let other = (Pid::from_raw(i32::try_from(other.id()).unwrap()), other);
    let home = std::env::var("HOME").unwrap_or_else(|_| "/root".to_owned());

    let confinement = blockbox_net::confine::enforce().unwrap();
    assert!(confinement.ends_with("seccomp"), "{confinement}");

    // What a gateway needs.
    TcpStream::connect(address).unwrap();
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    udp.send_to(b"datagram", address).unwrap();

    denied("open /etc/passwd", File::open("/etc/passwd"));
    denied("list the home folder", fs::read_dir(home));
    denied("open a library", File::open("/usr/lib/os-release"));
    denied("make a file", File::create(path("escaped")));
    denied("make a folder", fs::create_dir(path("escaped")));
    denied("remove a file", fs::remove_file(path("socket")));
    denied("rename a file", fs::rename(path("socket"), path("escaped")));
    denied(
        "connect to a socket file",
        UnixStream::connect(path("socket")),
    );
    denied("listen", TcpListener::bind("127.0.0.1:0"));
    let flags = SockFlag::SOCK_CLOEXEC;
    let raw = socket(AddressFamily::Inet, SockType::Raw, flags, None);
    denied("open a raw socket", raw);
    let kind = SockType::Datagram;
    denied(
        "open a socket of netlink",
        socket(AddressFamily::Netlink, kind, flags, None),
    );
    denied("execute", Command::new("/bin/true").spawn());
    let thread = std::thread::Builder::new().spawn(|| ());
    denied("start a thread", thread);
    denied("signal its parent", nix::sys::signal::kill(parent, None));
    denied("trace its parent", nix::sys::ptrace::attach(parent));
    denied("signal another", nix::sys::signal::kill(other.0, None));
    denied("trace another", nix::sys::ptrace::attach(other.0));
}
