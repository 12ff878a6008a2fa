//! The monitor's side of the gateway's process.
//!
//! The monitor makes two socket pairs. The machine gets one end of the first, for its frames; the
//! second carries the configuration to the gateway, its ports back, and from then on requests and
//! answers. The gateway ends when either socket closes, so it outlives neither its machine nor its
//! monitor.

use std::io::{self, BufRead, BufReader, Write};
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use blockbox_net::helper::{Running, Started};
use blockbox_net::host_resolver::{HostResolver, host_addresses};
use blockbox_net::{Request, Response, Status};
use blockbox_store::spec::Network;
use blockbox_vmm::NetworkCard;
use blockbox_vmm::process::Process;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::helper::SUBCOMMAND;
use super::settings;
use crate::error::{Error, Result};

/// How long the gateway may take to answer.
const ANSWER: Duration = Duration::from_secs(10);

/// How long the gateway may take to start on a busy host.
const START: Duration = Duration::from_secs(60);

/// The longest answer, in bytes.
const LONGEST: usize = 16 << 20;

/// How often the host's resolver and addresses are checked.
const LOOK: Duration = Duration::from_secs(2);

/// A running gateway.
#[derive(Debug)]
pub(crate) struct Gateway {
    process: Arc<Process>,
    control: Mutex<BufReader<UnixStream>>,
    network: Network,
    host: Mutex<Host>,
    /// Set once the gateway has answered.
    started: OnceLock<Running>,
    search: Vec<String>,
}

/// The host's settings that were last sent to the gateway.
#[derive(Debug)]
struct Host {
    resolver: HostResolver,
    addresses: Vec<IpAddr>,
}

impl Gateway {
    /// Starts the gateway of a sandbox, which binds the published ports:
    /// [`started`](Self::started) waits for that. Also returns the machine's network card.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] if the process cannot be started.
    pub(crate) fn start(network: &Network) -> Result<(Self, NetworkCard)> {
        let helper = blockbox_vmm::helper::locate(None)?;
        let failed = || Error::io(&helper);
        let (frames, machine) = UnixStream::pair().map_err(failed())?;
        let (control, theirs) = UnixStream::pair().map_err(failed())?;
        let mut command = blockbox_vmm::helper::command(&helper);
        command
            .arg(SUBCOMMAND)
            .stdin(OwnedFd::from(theirs))
            .stdout(OwnedFd::from(frames))
            .current_dir("/");
        let process = Process::spawn(command).map_err(failed())?;

        let mut host = Host {
            resolver: HostResolver::new(),
            addresses: host_addresses().map_err(Error::io("the host's network interfaces"))?,
        };
        let resolver = settings::resolver(network, host.resolver.read());
        let search = resolver.search.clone();
        let config = settings::config(network, resolver, host.addresses.clone());
        let mut control = BufReader::new(control);
        send(&mut control, &config, START).map_err(|error| not_started(&process, &error))?;
        let card = NetworkCard::new(machine, settings::addresses(network).guest_mac.0);
        let gateway = Self {
            process,
            control: Mutex::new(control),
            network: network.clone(),
            host: Mutex::new(host),
            started: OnceLock::new(),
            search,
        };
        Ok((gateway, card))
    }

    /// Waits until the gateway has bound the published ports and confined itself, and returns its
    /// report.
    ///
    /// # Errors
    ///
    /// [`Error::Gateway`] names the port that cannot be published.
    pub(crate) fn started(&self) -> Result<&Running> {
        let mut control = lock(&self.control);
        if let Some(started) = self.started.get() {
            return Ok(started);
        }
        match receive(&mut control, START) {
            Ok(Started::Running(running)) => Ok(self.started.get_or_init(|| running)),
            Ok(Started::Failed { message }) => Err(Error::Gateway(message)),
            Ok(_) => Err(Error::Gateway("an unknown answer".to_owned())),
            Err(error) => Err(not_started(&self.process, &error)),
        }
    }

    /// Returns the search domains for the guest's `/etc/resolv.conf`.
    pub(crate) fn search(&self) -> &[String] {
        &self.search
    }

    /// Returns the network activity.
    ///
    /// # Errors
    ///
    /// [`Error::Gateway`] if the gateway has ended.
    pub(crate) fn status(&self) -> Result<Status> {
        match self.ask(&Request::Status)? {
            Response::Status(status) => Ok(*status),
            other => Err(Error::Gateway(format!("an unexpected answer: {other:?}"))),
        }
    }

    /// Reports changes of the host's resolver and addresses to the gateway, until it ends.
    pub(crate) fn follow(&self) {
        while let Ok(None) = self.process.wait_timeout(LOOK) {
            if let Err(error) = self.look() {
                // If the gateway has ended, the wait in the loop reports it.
                tracing::debug!("the gateway was not told of the host's network: {error}");
            }
        }
    }

    fn look(&self) -> Result<()> {
        let mut host = lock(&self.host);
        if let Some(data) = host.resolver.changed() {
            let data = settings::resolver(&self.network, data);
            self.ask(&Request::Resolver { data })?;
        }
        let addresses = host_addresses().map_err(Error::io("the host's network interfaces"))?;
        if addresses != host.addresses {
            host.addresses.clone_from(&addresses);
            self.ask(&Request::HostAddresses { addresses })?;
        }
        Ok(())
    }

    /// Ends the gateway and all connections. Its ports are free when this returns.
    pub(crate) fn stop(&self) {
        // If it has ended already, it needs no request.
        let _ = self.ask(&Request::Shutdown);
        if !matches!(self.process.wait_timeout(ANSWER), Ok(Some(_))) {
            self.process.kill();
            let _ = self.process.wait();
        }
    }

    fn ask(&self, request: &Request) -> Result<Response> {
        exchange(&mut lock(&self.control), request, ANSWER).map_err(|error| {
            // A late answer must not be mistaken for the next one.
            self.process.kill();
            Error::Gateway(format!("no answer: {error}"))
        })
    }
}

/// Sends a line and reads one.
fn exchange<T: DeserializeOwned>(
    control: &mut BufReader<UnixStream>,
    message: &impl Serialize,
    limit: Duration,
) -> io::Result<T> {
    send(control, message, limit)?;
    receive(control, limit)
}

fn send(
    control: &mut BufReader<UnixStream>,
    message: &impl Serialize,
    limit: Duration,
) -> io::Result<()> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    let socket = control.get_mut();
    socket.set_write_timeout(Some(limit))?;
    socket.write_all(&line)
}

fn receive<T: DeserializeOwned>(
    control: &mut BufReader<UnixStream>,
    limit: Duration,
) -> io::Result<T> {
    let mut line = Vec::new();
    let end = Instant::now() + limit;
    while !line.ends_with(b"\n") {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() || line.len() > LONGEST {
            return Err(io::ErrorKind::TimedOut.into());
        }
        control.get_ref().set_read_timeout(Some(left))?;
        let read = control.fill_buf()?;
        if read.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let newline = read.iter().position(|&byte| byte == b'\n');
        let count = newline.map_or(read.len(), |at| at + 1);
        line.extend_from_slice(&read[..count]);
        control.consume(count);
    }
    Ok(serde_json::from_slice(&line)?)
}

/// Kills a gateway that does not start, and returns the error.
fn not_started(process: &Process, error: &io::Error) -> Error {
    process.kill();
    Error::Gateway(format!("the process does not start: {error}"))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
