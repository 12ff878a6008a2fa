//! A running VM, whichever monitor runs it.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitStatus};
use std::sync::Arc;
use std::time::Duration;

use super::console::Console;
use super::helper::{self, Launch};
use super::process::Process;
use super::{VmConfig, Vmm, VmmError};

/// How a VM's process ended. It says nothing of the command in the guest, nor even whether the guest ever came up:
/// libkrun exits with 0 on an early reset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VmExit {
    /// The process's own status.
    pub status: ExitStatus,
}

/// A running VM. Dropping it kills it.
#[derive(Debug)]
pub struct Vm {
    vmm: Vmm,
    channel: UnixStream,
    console: Console,
    process: Arc<Process>,
}

impl Vm {
    pub(super) fn start(vmm: Vmm, config: &VmConfig) -> Result<Self, VmmError> {
        let launch = match vmm {
            Vmm::Libkrun => Launch::Krun(super::krun::machine(config, vmm.cmdline(config))?),
            Vmm::Qemu { accel } => {
                Launch::Qemu(super::qemu::machine(config, accel, &vmm.cmdline(config))?)
            }
        };
        let log = match &config.console_log {
            Some(path) => Some(
                File::create(path)
                    .map_err(VmmError::io(format!("cannot create {}", path.display())))?,
            ),
            None => None,
        };
        Self::launch(
            vmm,
            &launch,
            Some(&config.upper),
            config.helper.as_deref(),
            log,
        )
    }

    /// Starts a helper process that becomes the VM. It holds the disk `hold` for as long as it lives.
    pub(super) fn launch(
        vmm: Vmm,
        launch: &Launch,
        hold: Option<&Path>,
        helper: Option<&Path>,
        log: Option<File>,
    ) -> Result<Self, VmmError> {
        let helper = helper::locate(helper)?;
        let (channel, guest_end) =
            UnixStream::pair().map_err(VmmError::io("cannot make a socket pair"))?;
        let (console, console_end) = io::pipe().map_err(VmmError::io("cannot make a pipe"))?;
        let stderr = console_end
            .try_clone()
            .map_err(VmmError::io("cannot duplicate a pipe"))?;
        let mut command = Command::new(&helper);
        command
            .args(helper::arguments(launch)?)
            .args(hold)
            // Signals to the group that this process is in, from a terminal or a job's end, are not for the VM.
            .process_group(0)
            .stdin(OwnedFd::from(guest_end))
            .stdout(console_end)
            .stderr(stderr);
        let process = Process::spawn(command)
            .map_err(VmmError::io(format!("cannot start {}", helper.display())))?;
        Ok(Vm {
            vmm,
            channel,
            console: Console::capture(console, log),
            process,
        })
    }

    /// The monitor that runs this VM.
    pub fn vmm(&self) -> Vmm {
        self.vmm
    }

    /// The host's end of the control channel; ends when the VM does.
    pub fn channel(&self) -> io::Result<UnixStream> {
        self.channel.try_clone()
    }

    /// What the guest's kernel and init, and the monitor itself, printed last.
    pub fn console_tail(&self) -> String {
        self.console.tail()
    }

    pub(crate) fn console(&self) -> &Console {
        &self.console
    }

    /// Waits until the VM has ended.
    ///
    /// # Errors
    ///
    /// When the process cannot be waited for.
    pub fn wait(&self) -> io::Result<VmExit> {
        self.process.wait().map(|status| VmExit { status })
    }

    /// Waits until the VM has ended or time is up, which is `None`.
    ///
    /// # Errors
    ///
    /// When the process cannot be waited for.
    pub fn wait_timeout(&self, timeout: Duration) -> io::Result<Option<VmExit>> {
        let status = self.process.wait_timeout(timeout)?;
        Ok(status.map(|status| VmExit { status }))
    }

    /// Ends the VM at once, as pulling the plug would. [`Session::shutdown`](crate::guest::Session::shutdown) is the
    /// clean way.
    pub fn kill(&self) {
        self.process.kill();
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        self.process.kill();
    }
}
