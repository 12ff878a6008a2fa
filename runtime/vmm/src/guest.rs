//! The host's side of the conversation with the guest's init: commands, their streams, and a clean
//! end.
//!
//! A thread per session reads what the guest says and hands it to whom it concerns. It never writes
//! and never waits for a consumer: each stream is bounded by its credit window
//! ([`blockbox_protocol::WINDOW`]), and consumers return credit themselves. So no order of reading
//! and writing on the host's side can deadlock.

mod error;
mod exec;
mod link;
mod monitor;
mod suspend;

use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

pub use blockbox_protocol::{
    Address, Boot, CommandStats, ExecSpec, ExitStatus, FileTask, Folder, Host, Identity,
    MAX_HOSTNAME, Mount, MountSource, Network, Process, Secret, Stats, Stream, Sysctl, TMPFS_DIRS,
    Ulimit, WindowSize, relay, signal,
};
pub use error::GuestError;
pub use exec::{Event, Exec, ExecControl, Stdin};
pub use monitor::Connection;
pub use suspend::{Adoption, RunningCommand, Suspended};

use blockbox_protocol::{PROTOCOL_VERSION, Request};

use crate::Vm;
use link::{Answer, Link, Peer};

/// The guest's init, a static Linux executable of the host's architecture. It belongs at
/// [`INIT_PATH`] on the writable disk, with mode 0755.
pub static INIT: &[u8] = include_bytes!(env!("BLOCKBOX_INIT"));

/// [`blockbox_fsbench`] as a static Linux executable of the host's architecture: it runs in any
/// image.
pub static FSBENCH: &[u8] = include_bytes!(env!("BLOCKBOX_FSBENCH"));

pub use blockbox_protocol::{INIT_PATH, PRIVATE_DIR, UPPER_DIR, WORK_DIR};

/// How long init needs, beyond the grace given to processes, to unmount and power off; slow under
/// emulation.
const POWER_OFF_TIME: Duration = Duration::from_secs(20);

/// How long a VM may take to end whose guest did not answer.
const SILENT_OFF_TIME: Duration = Duration::from_secs(3);

/// A conversation with the init of a running guest.
#[derive(Debug)]
pub struct Session {
    link: Arc<Link>,
    boot: BootTimes,
    kernel: String,
    warnings: Vec<String>,
}

/// How long the guest took to come up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BootTimes {
    /// From [`Session::connect`] to init's report, as the host's clock saw it.
    pub connect: Duration,
    /// From the guest kernel's start to init's report, as the guest's clock saw it.
    pub guest: Duration,
}

impl Session {
    /// Tells the guest's init how to set the guest up, and waits until it reports. What `boot`
    /// leaves out of the time and of entropy is the host's.
    ///
    /// # Errors
    ///
    /// [`GuestError::BootTooLarge`] when `boot` does not fit in a message.
    ///
    /// [`GuestError::NeverReported`] when it has not after `timeout`, or the VM ended before; a VM
    /// that ends with a success status without init having reported has failed all the same.
    /// [`GuestError::SetupFailed`] when init says that it could not set the guest up.
    pub fn connect(vm: &Vm, boot: &Boot, timeout: Duration) -> Result<Self, GuestError> {
        let started = Instant::now();
        let link = open(vm)?;
        link.send_boot(boot, timeout)?;
        let hello = link.wait_hello(timeout, vm)?;
        if hello.version != PROTOCOL_VERSION {
            return Err(GuestError::VersionMismatch {
                host: PROTOCOL_VERSION,
                guest: hello.version,
            });
        }
        // The boot message waited for the guest to boot. Commands come after this one, so nobody
        // waits for the answer.
        link.send(&Request::SetClock {
            id: 0,
            realtime_ns: link::realtime_ns(),
            step: true,
        })?;
        Ok(Session {
            link,
            boot: BootTimes {
                connect: started.elapsed(),
                guest: Duration::from_nanos(hello.uptime_ns),
            },
            kernel: hello.kernel,
            warnings: hello.warnings,
        })
    }

    /// What could not be set up in the guest, which does without.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// How long the guest took to come up.
    pub fn boot_times(&self) -> BootTimes {
        self.boot
    }

    /// The guest kernel's release.
    pub fn kernel_release(&self) -> &str {
        &self.kernel
    }

    /// Starts a command and returns once it runs. Any number may run at a time.
    ///
    /// # Errors
    ///
    /// [`GuestError::SpawnFailed`] when the command cannot be started, with the exit code docker
    /// would give.
    pub fn exec(&self, spec: &ExecSpec) -> Result<Exec, GuestError> {
        Exec::start(&self.link, spec)
    }

    /// Has init do something with the container's files, and returns once it does. Its streams and
    /// its end are a command's.
    ///
    /// # Errors
    ///
    /// [`GuestError::SpawnFailed`] when init cannot, or is too old to.
    pub fn files(&self, task: &FileTask) -> Result<Exec, GuestError> {
        Exec::files(&self.link, task)
    }

    /// Writes everything the guest has cached to its disk.
    ///
    /// # Errors
    ///
    /// When the guest is gone.
    pub fn sync(&self) -> Result<(), GuestError> {
        self.link.request("sync", |id| Request::Sync { id })
    }

    /// Freezes the writable disk: until [`Session::thaw`] its image on the host is consistent and
    /// does not change. The guest ends the freeze itself after `thaw_after` (in whole
    /// milliseconds), for a host that does not come back; zero is never.
    ///
    /// # Errors
    ///
    /// [`GuestError::Refused`] when the guest's kernel refuses, for example because it is frozen
    /// already.
    pub fn freeze(&self, thaw_after: Duration) -> Result<(), GuestError> {
        let thaw_after_ms = milliseconds(thaw_after);
        self.link
            .request("freeze", |id| Request::Freeze { id, thaw_after_ms })
    }

    /// Gives a freeze `thaw_after` from now on.
    ///
    /// # Errors
    ///
    /// [`GuestError::Refused`] when nothing is frozen (any more).
    pub fn keep_frozen(&self, thaw_after: Duration) -> Result<(), GuestError> {
        let thaw_after_ms = milliseconds(thaw_after);
        self.link.request("stay frozen", |id| Request::KeepFrozen {
            id,
            thaw_after_ms,
        })
    }

    /// Ends a freeze.
    ///
    /// # Errors
    ///
    /// [`GuestError::Refused`] when nothing is frozen (any more): the disk may have changed since.
    pub fn thaw(&self) -> Result<(), GuestError> {
        self.link.request("thaw", |id| Request::Thaw { id })
    }

    /// Gives the free blocks of the writable disk back to the host. The guest does so by itself now
    /// and then, and at its end.
    ///
    /// # Errors
    ///
    /// [`GuestError::Refused`] when the disk is frozen, or its device knows no discards.
    pub fn trim(&self) -> Result<(), GuestError> {
        self.link.request("trim", |id| Request::Trim { id })
    }

    /// Sets the guest's clock to the host's: at once after a sleep of the host, else little by
    /// little.
    ///
    /// # Errors
    ///
    /// When the guest is gone.
    pub fn set_clock(&self) -> Result<(), GuestError> {
        self.link.request("set its clock", |id| Request::SetClock {
            id,
            realtime_ns: link::realtime_ns(),
            step: false,
        })
    }

    /// What the guest and its commands use.
    ///
    /// # Errors
    ///
    /// When the guest is gone.
    pub fn stats(&self) -> Result<Stats, GuestError> {
        match self.link.ask("stats", |id| Request::Stats { id })? {
            Answer::Stats(stats) => Ok(stats),
            _ => Err(GuestError::WrongAnswer { request: "stats" }),
        }
    }

    /// The guest's processes.
    ///
    /// # Errors
    ///
    /// When the guest is gone.
    pub fn processes(&self) -> Result<Vec<Process>, GuestError> {
        let request = "list its processes";
        match self.link.ask(request, |id| Request::Processes { id })? {
            Answer::Processes(processes) => Ok(processes),
            _ => Err(GuestError::WrongAnswer { request }),
        }
    }

    /// Has the guest, a clone of another, become one of its own.
    ///
    /// # Errors
    ///
    /// [`GuestError::Refused`] when something could not be changed, or the image's hook failed or
    /// took too long.
    pub fn identity(&self, identity: &Identity) -> Result<(), GuestError> {
        let identity = identity.clone();
        self.link
            .request("take its identity", |id| Request::Identity { id, identity })
    }

    /// Ends every process of the guest (`SIGTERM`, then `SIGKILL` after `grace`), unmounts its disk
    /// and waits until `vm` has ended. A VM that does not end is killed.
    ///
    /// # Errors
    ///
    /// [`GuestError::UncleanShutdown`] when the writable disk was not unmounted cleanly: its
    /// journal holds what the next boot replays.
    pub fn shutdown(&self, vm: &Vm, grace: Duration) -> Result<(), GuestError> {
        let grace_ms = milliseconds(grace);
        let sent = self.link.send(&Request::Shutdown { grace_ms });
        let farewell = sent.and_then(|()| self.link.wait_bye(grace.saturating_add(POWER_OFF_TIME)));
        // A guest that has not said it is done stands still, on a full disk of the host for one.
        let left = if farewell.is_ok() {
            POWER_OFF_TIME
        } else {
            SILENT_OFF_TIME
        };
        let ended = vm.wait_timeout(left).ok().flatten().is_some();
        if !ended {
            vm.kill();
        }
        match farewell? {
            0 => Ok(()),
            errno => Err(GuestError::UncleanShutdown { errno }),
        }
    }
}

/// Opens the control channel, and a thread that reads it.
fn open(vm: &Vm) -> Result<Arc<Link>, GuestError> {
    let io = GuestError::io("the control channel");
    let channel = vm.channel().map_err(&io)?;
    let reader: UnixStream = channel.try_clone().map_err(&io)?;
    let link = Arc::new(Link::new(channel, Peer::Guest(vm.console().clone())));
    let in_thread = Arc::clone(&link);
    thread::Builder::new()
        .name("guest".to_owned())
        .spawn(move || in_thread.read_from(reader))
        .map_err(&io)?;
    Ok(link)
}

fn milliseconds(time: Duration) -> u32 {
    u32::try_from(time.as_millis()).unwrap_or(u32::MAX)
}
