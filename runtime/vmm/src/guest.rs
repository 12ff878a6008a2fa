//! The host's side of the protocol with the guest's init: commands, their streams, and a clean
//! shutdown.
//!
//! A thread per session reads the guest's messages and passes them to their receivers. It never
//! writes and never waits for a receiver: each stream is limited by its credit window
//! ([`blockbox_protocol::WINDOW`]), and receivers return credit themselves. So the host cannot
//! deadlock, whatever the order in which it reads and writes.

mod error;
mod exec;
mod inbox;
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
pub use exec::{Exec, ExecControl, Stdin};
pub use inbox::Event;
pub use monitor::Connection;
pub use suspend::{Adoption, RunningCommand, Suspended};

use blockbox_protocol::{PROTOCOL_VERSION, Request};

use crate::{Arch, Vm, VmmError};
use link::{Answer, Link, Peer};

/// The guest's init for the host's architecture.
static INIT: &[u8] = include_bytes!(env!("BLOCKBOX_INIT"));

/// The guest's init for the other architecture; empty if this program was built without it.
static FOREIGN_INIT: &[u8] = include_bytes!(env!("BLOCKBOX_FOREIGN_INIT"));

/// Returns the init of guests of `arch`, a static Linux executable. It belongs at [`INIT_PATH`] on
/// the writable disk, with mode 0755.
///
/// # Errors
///
/// [`VmmError::NoInit`] if this program was built without it.
pub fn init(arch: Arch) -> Result<&'static [u8], VmmError> {
    let init = if arch.is_host() { INIT } else { FOREIGN_INIT };
    match init.is_empty() {
        true => Err(VmmError::NoInit { arch }),
        false => Ok(init),
    }
}

/// [`blockbox_fsbench`] as a static Linux executable for the host's architecture: it runs in any
/// image.
pub static FSBENCH: &[u8] = include_bytes!(env!("BLOCKBOX_FSBENCH"));

pub use blockbox_protocol::{INIT_PATH, PRIVATE_DIR, UPPER_DIR, WORK_DIR};

/// How long init needs, beyond the grace time of processes, to unmount and power off; slow under
/// emulation.
const POWER_OFF_TIME: Duration = Duration::from_secs(20);

/// How long a VM may take to end if its guest did not answer.
const SILENT_OFF_TIME: Duration = Duration::from_secs(3);

/// A session with the init of a running guest.
#[derive(Debug)]
pub struct Session {
    link: Arc<Link>,
    boot: BootTimes,
    kernel: String,
    warnings: Vec<String>,
}

/// How long the guest took to boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BootTimes {
    /// From [`Session::connect`] to init's report, by the host's clock.
    pub connect: Duration,
    /// From the guest kernel's start to init's report, by the guest's clock.
    pub guest: Duration,
}

impl Session {
    /// Sends the guest's settings to init, and waits for its report. If `boot` sets no time or no
    /// entropy, the host's are used.
    ///
    /// # Errors
    ///
    /// [`GuestError::BootTooLarge`] if `boot` does not fit in a message.
    ///
    /// [`GuestError::NeverReported`] if init has not reported after `timeout`, or if the VM ended
    /// before, even with a success status. [`GuestError::SetupFailed`] if init reports that it
    /// could not set the guest up.
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
        // The time in the boot message is old, because the message waited for the guest to boot.
        // Commands come after this request, so there is no need to wait for its answer.
        link.set_clock_soon(true)?;
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

    /// Returns warnings about settings that the guest could not apply.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Returns how long the guest took to boot.
    pub fn boot_times(&self) -> BootTimes {
        self.boot
    }

    /// Returns the guest kernel's release.
    pub fn kernel_release(&self) -> &str {
        &self.kernel
    }

    /// Starts a command and returns once it runs. Any number may run at a time.
    ///
    /// # Errors
    ///
    /// [`GuestError::SpawnFailed`], with docker's exit code, if the command cannot be started.
    pub fn exec(&self, spec: &ExecSpec) -> Result<Exec, GuestError> {
        Exec::start(&self.link, spec)
    }

    /// Starts a task on the container's files in init, and returns once it runs. Its streams and
    /// its end are those of a command.
    ///
    /// # Errors
    ///
    /// [`GuestError::SpawnFailed`] if init fails to start it, or does not support it.
    pub fn files(&self, task: &FileTask) -> Result<Exec, GuestError> {
        Exec::files(&self.link, task)
    }

    /// Writes everything that the guest has cached to its disk.
    ///
    /// # Errors
    ///
    /// If the guest is gone.
    pub fn sync(&self) -> Result<(), GuestError> {
        self.link.request("sync", |id| Request::Sync { id })
    }

    /// Freezes the writable disk: until [`Session::thaw`] its image on the host is consistent and
    /// does not change. The guest thaws the disk itself after `thaw_after` (in whole milliseconds),
    /// in case the host does not; zero means never.
    ///
    /// # Errors
    ///
    /// [`GuestError::Refused`] if the guest's kernel refuses, for example because the disk is
    /// frozen already.
    pub fn freeze(&self, thaw_after: Duration) -> Result<(), GuestError> {
        let thaw_after_ms = milliseconds(thaw_after);
        self.link
            .request("freeze", |id| Request::Freeze { id, thaw_after_ms })
    }

    /// Extends a freeze to `thaw_after` from now on.
    ///
    /// # Errors
    ///
    /// [`GuestError::Refused`] if the disk is not frozen (any more).
    pub fn keep_frozen(&self, thaw_after: Duration) -> Result<(), GuestError> {
        let thaw_after_ms = milliseconds(thaw_after);
        self.link.request("stay frozen", |id| Request::KeepFrozen {
            id,
            thaw_after_ms,
        })
    }

    /// Thaws the writable disk.
    ///
    /// # Errors
    ///
    /// [`GuestError::Refused`] if the disk is not frozen (any more): it may have changed since.
    pub fn thaw(&self) -> Result<(), GuestError> {
        self.link.request("thaw", |id| Request::Thaw { id })
    }

    /// Discards the free blocks of the writable disk, which frees them on the host. The guest also
    /// does so by itself from time to time, and when it shuts down.
    ///
    /// # Errors
    ///
    /// [`GuestError::Refused`] if the disk is frozen, or does not support discards.
    pub fn trim(&self) -> Result<(), GuestError> {
        self.link.request("trim", |id| Request::Trim { id })
    }

    /// Sets the guest's clock to the host's: at once after the host has slept, otherwise gradually.
    ///
    /// # Errors
    ///
    /// If the guest is gone.
    pub fn set_clock(&self) -> Result<(), GuestError> {
        self.link.request("set its clock", |id| Request::SetClock {
            id,
            realtime_ns: link::realtime_ns(),
            step: false,
        })
    }

    /// As [`set_clock`](Self::set_clock), without waiting until the guest has done it.
    ///
    /// # Errors
    ///
    /// If the guest is gone.
    pub fn set_clock_soon(&self) -> Result<(), GuestError> {
        self.link.set_clock_soon(false)
    }

    /// Returns the resources that the guest and its commands use.
    ///
    /// # Errors
    ///
    /// If the guest is gone.
    pub fn stats(&self) -> Result<Stats, GuestError> {
        match self.link.ask("stats", |id| Request::Stats { id })? {
            Answer::Stats(stats) => Ok(stats),
            _ => Err(GuestError::WrongAnswer { request: "stats" }),
        }
    }

    /// Returns the guest's processes.
    ///
    /// # Errors
    ///
    /// If the guest is gone.
    pub fn processes(&self) -> Result<Vec<Process>, GuestError> {
        let request = "list its processes";
        match self.link.ask(request, |id| Request::Processes { id })? {
            Answer::Processes(processes) => Ok(processes),
            _ => Err(GuestError::WrongAnswer { request }),
        }
    }

    /// Gives the guest, a copy of another one, its own identity.
    ///
    /// # Errors
    ///
    /// [`GuestError::Refused`] if a part of it could not be changed, or the image's hook failed or
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
    /// [`GuestError::UncleanShutdown`] if the writable disk was not unmounted cleanly: the next
    /// boot replays its journal.
    pub fn shutdown(&self, vm: &Vm, grace: Duration) -> Result<(), GuestError> {
        let grace_ms = milliseconds(grace);
        let sent = self.link.send(&Request::Shutdown { grace_ms });
        let farewell = sent.and_then(|()| self.link.wait_bye(grace.saturating_add(POWER_OFF_TIME)));
        // A guest that does not answer may be paused, for example because the host's disk is full.
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

/// Opens the control channel, and starts a thread that reads it.
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
