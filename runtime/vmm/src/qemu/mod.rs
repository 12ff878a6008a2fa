//! QEMU: `microvm` on x86-64, `virt` elsewhere.

pub(super) mod args;
pub(super) mod program;
pub(super) mod share;

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use serde::{Deserialize, Serialize};

use super::confine::Rules;
use super::device::MemoryBacking;
use super::{Accel, VmConfig, Vmm, VmmError, handoff, signals, streams};
use args::Arg;

/// A QEMU command line, and the helper's parent process.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Machine {
    program: PathBuf,
    args: Vec<Arg>,
    /// The number of open files that the helper receives.
    files: usize,
    parent: u32,
    rules: Option<Rules>,
}

/// Returns the command line that boots `config`. The helper receives `files` open files, in the
/// order of [`args::args`].
pub(super) fn machine(
    config: &VmConfig,
    accel: Accel,
    cmdline: &str,
    files: usize,
    rules: Option<Rules>,
) -> Result<Machine, VmmError> {
    let room = Vmm::Qemu { accel }
        .capabilities(config.arch)
        .has_room(config);
    // Returning a page of a file would punch a hole into the file.
    let balloon = room && config.memory == MemoryBacking::Private;
    Ok(Machine {
        program: program::find(config.arch)?,
        args: args::args(config, accel, cmdline, balloon)?,
        files,
        parent: std::process::id(),
        rules,
    })
}

/// Makes this process QEMU, or its supervisor.
pub(super) fn enter(machine: &Machine) -> Result<ExitCode, VmmError> {
    let files = handoff::receive(io::stdin(), machine.files)
        .map_err(VmmError::io("cannot receive the VM's open files"))?;
    signals::block().map_err(VmmError::io("cannot block signals"))?;
    let mut qemu = Command::new(&machine.program);
    for arg in &machine.args {
        qemu.arg(words(arg, &files)?);
    }
    let io = VmmError::io(format!("cannot run {}", machine.program.display()));
    streams::enforce(machine.rules.as_ref())?;
    become_qemu(&mut qemu, machine.parent).map_err(io)
}

/// Formats an argument with the number of its file.
fn words(arg: &Arg, files: &[OwnedFd]) -> Result<String, VmmError> {
    match arg {
        Arg::Text(text) => Ok(text.clone()),
        Arg::File(text, index) => match files.get(*index) {
            Some(file) => Ok(format!("{text}{}", file.as_raw_fd())),
            None => Err(VmmError::io("an open file of the VM is missing")(
                io::ErrorKind::InvalidInput.into(),
            )),
        },
    }
}

#[cfg(target_os = "linux")]
fn become_qemu(qemu: &mut Command, parent: u32) -> io::Result<ExitCode> {
    use std::os::unix::process::CommandExt;

    // The setting survives exec, so QEMU is killed when blockbox ends for any reason.
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
    let now = rustix::process::getppid().map(|pid| pid.as_raw_nonzero().get());
    if now.and_then(|pid| u32::try_from(pid).ok()) != Some(parent) {
        return Err(io::Error::other("blockbox ended meanwhile"));
    }
    Err(qemu.exec())
}

#[cfg(not(target_os = "linux"))]
fn become_qemu(qemu: &mut Command, _parent: u32) -> io::Result<ExitCode> {
    use std::os::fd::AsFd;

    let stdin = io::stdin().as_fd().try_clone_to_owned()?;
    let mut qemu = qemu.stdin(stdin).spawn()?;
    let pid = rustix::process::Pid::from_child(&qemu);
    std::thread::spawn(move || {
        streams::wait_for_hangup();
        std::thread::sleep(streams::ORPHAN_GRACE);
        // This process ends with QEMU, so the process id is still QEMU's.
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
    });
    let status = qemu.wait()?;
    Ok(if status.success() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
