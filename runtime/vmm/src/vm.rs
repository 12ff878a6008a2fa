//! A running VM under any monitor.

mod share_server;

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::ExitStatus;
use std::sync::mpsc::Receiver;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use serde_json::Value;

use super::alias::Aliases;
use super::confine::{Confinement, Rules};
use super::console::Console;
use super::events::{Events, VmEvent, Watch};
use super::helper::{self, Launch};
use super::process::Process;
use super::qmp::Qmp;
use super::{Arch, Disk, MemoryBacking, VmConfig, Vmm, VmmError, handoff, streams};
use share_server::Server;

/// How a VM's process ended. This says neither how the command in the guest ended nor whether the
/// guest booted at all: libkrun exits with 0 on an early reset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VmExit {
    /// The exit status of the process.
    pub status: ExitStatus,
}

/// A running VM. Dropping it kills it.
#[derive(Debug)]
pub struct Vm {
    vmm: Vmm,
    arch: Arch,
    channel: UnixStream,
    /// The report of the VM's process, once it was read.
    confinement: OnceLock<Option<Confinement>>,
    console: Console,
    process: Arc<Process>,
    events: Events,
    qmp: Option<Qmp>,
    /// Dropped last: the servers end by themselves once the VM's process is gone.
    servers: Vec<Server>,
    /// The links to files that the VM has open.
    aliases: Aliases,
    /// The disks that are detached to save the machine, by the names of their nodes.
    pub(super) removable: Vec<(String, Disk)>,
}

/// Creates the file of a machine's memory, which only its owner may read. The confined process
/// could not create it itself.
fn make_memory(path: &Path, mebibytes: u32) -> Result<(), VmmError> {
    let mut options = File::options();
    options.write(true).create(true).truncate(false).mode(0o600);
    let size = u64::from(mebibytes) << 20;
    options
        .open(path)
        .and_then(|file| file.set_len(size))
        .map_err(VmmError::io(format!("cannot make {}", path.display())))
}

/// The console's pipe, and the capture of its output.
struct Ends {
    console: io::PipeReader,
    console_end: io::PipeWriter,
    log: Option<File>,
}

impl Vm {
    pub(super) fn start(vmm: Vmm, given: &VmConfig) -> Result<Self, VmmError> {
        given.check(vmm)?;
        let mut aliases = Aliases::default();
        let config = &aliases.rename(given)?;
        let helper = helper::locate(config.helper.as_deref())?;
        let (console, console_end) = io::pipe().map_err(VmmError::io("cannot make a pipe"))?;
        let cmdline = config.cmdline(vmm);
        if let MemoryBacking::File(path) = &config.memory {
            make_memory(path, config.memory_mib)?;
        }
        let (control, control_end) =
            UnixStream::pair().map_err(VmmError::io("cannot make a socket pair"))?;
        let mut files = Vec::new();
        if vmm != Vmm::Libkrun {
            files.push(control_end.as_fd());
        }
        files.extend(config.networks.iter().map(|card| card.socket.as_fd()));
        let confine = config.confine && cfg!(target_os = "linux");
        let rules = confine.then(|| Rules::of(vmm, config)).transpose()?;
        let mut servers = Vec::new();
        let mut sockets = Vec::new();
        let launch = match vmm {
            Vmm::Libkrun => Launch::Krun(super::krun::machine(config, cmdline, rules)?),
            Vmm::Qemu { accel } => {
                for share in &config.shares {
                    let (server, socket) = Server::start(share, &helper, &console_end)?;
                    servers.push(server);
                    sockets.push(socket);
                }
                files.extend(sockets.iter().map(AsFd::as_fd));
                if let MemoryBacking::Shared(memory) = &config.memory {
                    files.push(memory.file().as_fd());
                }
                Launch::Qemu(super::qemu::machine(
                    config,
                    accel,
                    &cmdline,
                    files.len(),
                    rules,
                )?)
            }
        };
        let log = match &config.console_log {
            Some(path) => Some(
                File::create(path)
                    .map_err(VmmError::io(format!("cannot create {}", path.display())))?,
            ),
            None => None,
        };
        let ends = Ends {
            console,
            console_end,
            log,
        };
        let writable = config.disks.iter().filter(|disk| !disk.read_only);
        let hold: Vec<_> = writable.map(|disk| disk.path.as_path()).collect();
        let mut vm = Self::spawn(vmm, &launch, &helper, &hold, ends, &files)?;
        vm.arch = config.arch;
        vm.servers = servers;
        let disks = config.disks.iter().enumerate();
        vm.removable = disks
            .filter(|(_, disk)| config.is_removable(disk))
            .map(|(index, disk)| (format!("disk{index}"), disk.clone()))
            .collect();
        vm.aliases = aliases;
        if vmm != Vmm::Libkrun {
            let disks = given.disks.iter().map(|disk| disk.path.clone()).collect();
            let watch = Watch::new(vm.events.clone(), disks);
            let on_event = move |qmp: &Qmp, name: &str, data: &Value| {
                watch.event(Some(qmp), name, data);
            };
            vm.qmp = Some(Qmp::connect(control, Box::new(on_event))?);
        }
        Ok(vm)
    }

    /// Starts a helper process that becomes a VM without servers.
    pub(super) fn launch(
        vmm: Vmm,
        launch: &Launch,
        helper: Option<&Path>,
    ) -> Result<Self, VmmError> {
        let (console, console_end) = io::pipe().map_err(VmmError::io("cannot make a pipe"))?;
        let ends = Ends {
            console,
            console_end,
            log: None,
        };
        Self::spawn(vmm, launch, &helper::locate(helper)?, &[], ends, &[])
    }

    /// Starts a helper process, which locks the disks `hold` until it ends.
    fn spawn(
        vmm: Vmm,
        launch: &Launch,
        helper: &Path,
        hold: &[&Path],
        ends: Ends,
        files: &[BorrowedFd<'_>],
    ) -> Result<Self, VmmError> {
        let (channel, guest_end) =
            UnixStream::pair().map_err(VmmError::io("cannot make a socket pair"))?;
        handoff::send(&channel, files).map_err(VmmError::io("cannot pass on open files"))?;
        let stderr = ends
            .console_end
            .try_clone()
            .map_err(VmmError::io("cannot duplicate a pipe"))?;
        let mut command = helper::command(helper);
        command
            .args(helper::arguments(launch)?)
            .args(hold)
            .stdin(OwnedFd::from(guest_end))
            .stdout(ends.console_end)
            .stderr(stderr);
        let process = Process::spawn(command)
            .map_err(VmmError::io(format!("cannot start {}", helper.display())))?;
        Ok(Vm {
            vmm,
            arch: Arch::HOST,
            channel,
            confinement: OnceLock::new(),
            console: Console::capture(ends.console, ends.log),
            process,
            events: Events::default(),
            qmp: None,
            servers: Vec::new(),
            aliases: Aliases::default(),
            removable: Vec::new(),
        })
    }

    /// Returns the monitor that runs this VM.
    pub fn vmm(&self) -> Vmm {
        self.vmm
    }

    /// Returns the processor architecture of this VM.
    pub(crate) fn arch(&self) -> Arch {
        self.arch
    }

    /// Returns the host's end of the control channel, which closes when the VM ends. Waits until
    /// the VM's process has confined itself.
    pub fn channel(&self) -> io::Result<UnixStream> {
        // The process reports that before the guest's first message.
        self.confinement();
        self.channel.try_clone()
    }

    /// Returns how the VM's process has confined itself, and waits until it has; `None` if it ended
    /// before.
    pub fn confinement(&self) -> Option<Confinement> {
        let report = || streams::read_report(&self.channel);
        *self.confinement.get_or_init(report)
    }

    /// Returns the last console output of the guest's kernel and init, and of the monitor itself.
    pub fn console_tail(&self) -> String {
        self.console.tail()
    }

    pub(crate) fn console(&self) -> &Console {
        &self.console
    }

    /// Returns the control of QEMU; `None` under libkrun.
    pub fn qmp(&self) -> Option<&Qmp> {
        self.qmp.as_ref()
    }

    /// Returns a receiver of the VM's events from now on. libkrun reports none.
    pub fn events(&self) -> Receiver<VmEvent> {
        self.events.subscribe()
    }

    /// Returns the id of the VM's process; `None` once it has ended. It is in a process group of
    /// its own, and ignores the signals that are usually sent to groups, except `SIGKILL`.
    pub fn process_id(&self) -> Option<u32> {
        let pid = self.process.pid()?;
        u32::try_from(pid.as_raw_nonzero().get()).ok()
    }

    /// Waits until the VM has ended.
    ///
    /// # Errors
    ///
    /// If the wait fails.
    pub fn wait(&self) -> io::Result<VmExit> {
        self.process.wait().map(|status| VmExit { status })
    }

    /// Waits until the VM has ended; `None` after the timeout.
    ///
    /// # Errors
    ///
    /// If the wait fails.
    pub fn wait_timeout(&self, timeout: Duration) -> io::Result<Option<VmExit>> {
        let status = self.process.wait_timeout(timeout)?;
        Ok(status.map(|status| VmExit { status }))
    }

    /// Pauses the VM. Its disks do not change until [`resume`](Self::resume).
    ///
    /// # Errors
    ///
    /// If the VM has ended, or its monitor refuses.
    pub fn pause(&self) -> Result<(), VmmError> {
        match &self.qmp {
            Some(qmp) => qmp.stop(),
            None => self.signal(rustix::process::Signal::STOP),
        }
    }

    /// Resumes a paused VM.
    ///
    /// # Errors
    ///
    /// If the VM has ended, or its monitor refuses.
    pub fn resume(&self) -> Result<(), VmmError> {
        match &self.qmp {
            Some(qmp) => qmp.cont(),
            None => self.signal(rustix::process::Signal::CONT),
        }
    }

    /// Sends a signal to the VM's process.
    fn signal(&self, signal: rustix::process::Signal) -> Result<(), VmmError> {
        let failed = || VmmError::io("cannot signal the virtual machine");
        let pid = self.process.pid().ok_or(rustix::io::Errno::SRCH);
        pid.and_then(|pid| rustix::process::kill_process(pid, signal))
            .map_err(|errno| failed()(errno.into()))
    }

    /// Kills the VM, as pulling the plug would.
    /// [`Session::shutdown`](crate::guest::Session::shutdown) is the clean way.
    pub fn kill(&self) {
        self.process.kill();
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        self.process.kill();
    }
}
