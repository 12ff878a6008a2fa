//! The links from a guest's network card to the host, with the same addresses in the guest.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::{ECHO, LIMIT, WEB};
use crate::bench::Setting;

/// The guest's address.
pub(super) const GUEST: &str = "10.187.1.2";

/// The address that stands for the host's loopback.
pub(super) const HOST: &str = "10.187.1.254";

/// A kind of link to the host.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Blockbox,
    Passt,
    Slirp,
}

impl Kind {
    pub(super) const ALL: [Self; 3] = [Self::Blockbox, Self::Passt, Self::Slirp];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Blockbox => "blockbox",
            Self::Passt => "passt --fd",
            Self::Slirp => "QEMU's slirp",
        }
    }
}

/// An open link, which is closed when dropped.
pub(super) struct Link {
    /// The value of QEMU's `-netdev`.
    pub(super) netdev: String,
    /// QEMU's standard input, which the `-netdev` refers to.
    pub(super) stdin: Option<OwnedFd>,
    /// The ports on the host for the guest's web server and its echo server.
    pub(super) ports: [u16; 2],
    child: Option<Child>,
    _control: Option<UnixStream>,
}

impl Drop for Link {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Link {
    /// Opens a link for a guest that connects to the host's port `port`.
    pub(super) fn open(setting: &Setting, kind: Kind, port: u16) -> Result<Self> {
        match kind {
            Kind::Blockbox => Self::blockbox(setting, port),
            Kind::Passt => Self::passt(setting),
            Kind::Slirp => Self::slirp(),
        }
    }

    /// Returns the process between QEMU and the host's network, if it is not QEMU itself.
    pub(super) fn process(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    fn stream(machine: UnixStream, ports: [u16; 2], child: Child) -> Self {
        Self {
            netdev: "stream,id=net0,server=off,addr.type=fd,addr.str=0".to_owned(),
            stdin: Some(machine.into()),
            ports,
            child: Some(child),
            _control: None,
        }
    }

    fn blockbox(setting: &Setting, port: u16) -> Result<Self> {
        let (frames, machine) = UnixStream::pair()?;
        let (mut control, theirs) = UnixStream::pair()?;
        let child = Command::new(&setting.blockbox)
            .arg("__net")
            .stdin(OwnedFd::from(theirs))
            .stdout(OwnedFd::from(frames))
            .spawn()?;
        let mut link = Self::stream(machine, [0, 0], child);
        let publish = [WEB, ECHO].map(|port| format!("0:{port}"));
        let config = json!({ "host_ports": [port], "publish": publish });
        writeln!(control, "{config}")?;
        let mut line = String::new();
        control.set_read_timeout(Some(LIMIT))?;
        BufReader::new(&control).read_line(&mut line)?;
        let started: Value = serde_json::from_str(&line)?;
        let bound = started["running"]["bound"]["ports"].as_array();
        let bound = bound.context(line)?;
        let ports: Vec<u16> = bound
            .iter()
            .filter_map(|port| port["host"].as_str()?.rsplit(':').next()?.parse().ok())
            .collect();
        link.ports = ports.try_into().ok().context("not two ports")?;
        link._control = Some(control);
        Ok(link)
    }

    fn passt(setting: &Setting) -> Result<Self> {
        let mut command = setting.peers.passt()?;
        let (frames, machine) = UnixStream::pair()?;
        let ports = [free_port()?, free_port()?];
        let forward = |at: usize, to: u16| format!("127.0.0.1/{}:{to}", ports[at]);
        let child = command
            .args(["--foreground", "--quiet", "--ipv4-only", "--fd", "0"])
            .args(["--address", GUEST, "--netmask", "24", "--gateway", HOST])
            .args(["--tcp-ports", &forward(0, WEB)])
            .args(["--tcp-ports", &forward(1, ECHO)])
            .stdin(OwnedFd::from(frames))
            .stdout(Stdio::null())
            .spawn()?;
        let mut link = Self::stream(machine, ports, child);
        let start = Instant::now();
        while !listens(ports[1])? {
            let ended = link.child.as_mut().map(Child::try_wait).transpose()?;
            ensure!(ended.flatten().is_none(), "passt does not start");
            ensure!(start.elapsed() < LIMIT, "passt does not listen");
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(link)
    }

    fn slirp() -> Result<Self> {
        let ports = [free_port()?, free_port()?];
        let forward =
            |at: usize, to: u16| format!("hostfwd=tcp:127.0.0.1:{}-{GUEST}:{to}", ports[at]);
        Ok(Self {
            netdev: format!(
                "user,id=net0,ipv6=off,net=10.187.1.0/24,host={HOST},{},{}",
                forward(0, WEB),
                forward(1, ECHO)
            ),
            stdin: None,
            ports,
            child: None,
            _control: None,
        })
    }
}

/// Returns a port of the loopback that is free now.
fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// Returns whether a program listens on a port of the loopback, without connecting to it.
fn listens(port: u16) -> Result<bool> {
    /// The kernel's TCP_LISTEN.
    const LISTEN: &str = "0A";
    let address = format!("0100007F:{port:04X}");
    let sockets = std::fs::read_to_string("/proc/net/tcp")?;
    Ok(sockets.lines().any(|line| {
        let mut fields = line.split_whitespace().skip(1);
        fields.next() == Some(&address) && fields.nth(1) == Some(LISTEN)
    }))
}
