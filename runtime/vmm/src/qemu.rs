//! QEMU: `microvm` on x86-64, `virt` elsewhere.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use blockbox_protocol::{CONTROL_PORT, IMAGE_SERIAL, UPPER_SERIAL};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{Accel, VmConfig, VmmError, helper};

/// Names the QEMU program, for one outside of `PATH`.
const QEMU_VARIABLE: &str = "BLOCKBOX_QEMU";

/// A QEMU command line, and the process the helper has to belong to.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Machine {
    program: PathBuf,
    args: Vec<String>,
    parent: u32,
}

fn program_name() -> String {
    format!("qemu-system-{}", std::env::consts::ARCH)
}

/// The QEMU to use.
pub(super) fn find() -> Result<PathBuf, VmmError> {
    if let Some(path) = std::env::var_os(QEMU_VARIABLE).filter(|value| !value.is_empty()) {
        return Ok(path.into());
    }
    let program = program_name();
    let folders = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&folders)
        .map(|folder| folder.join(&program))
        .find(|path| path.is_file())
        .ok_or(VmmError::QemuNotFound { program })
}

/// The first line of `--version`.
pub(super) fn version(program: &Path) -> io::Result<String> {
    let output = Command::new(program).arg("--version").output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text.lines().next().unwrap_or_default().to_owned())
}

/// Plans the command line that boots `config`.
pub(super) fn machine(config: &VmConfig, accel: Accel, cmdline: &str) -> Result<Machine, VmmError> {
    let text = |path: &Path| {
        path.to_str()
            .map(str::to_owned)
            .ok_or_else(|| VmmError::PathNotUtf8(path.to_owned()))
    };
    let mut args: Vec<String> = Vec::new();
    let mut option = |name: &str, value: String| args.extend([name.to_owned(), value]);

    option("-machine", machine_type().to_owned());
    option("-accel", accelerator(accel).to_owned());
    option(
        "-cpu",
        if accel == Accel::Tcg { "max" } else { "host" }.to_owned(),
    );
    option("-smp", config.cpus.to_string());
    option("-m", format!("{}M", config.memory_mib));
    option("-kernel", text(&config.kernel)?);
    option("-append", cmdline.to_owned());
    option("-display", "none".to_owned());

    let console = format!("file,id=console,path={}", helper::STDOUT_PATH);
    option("-chardev", console);
    option("-chardev", "socket,id=control,fd=0".to_owned());
    option("-device", "virtio-serial-device,max_ports=2".to_owned());
    option("-device", "virtconsole,chardev=console".to_owned());
    option(
        "-device",
        format!("virtserialport,chardev=control,name={CONTROL_PORT}"),
    );

    // Disks come up in the order given here: vda, vdb.
    let disk = json!({
        "node-name": "image", "driver": "vmdk", "read-only": true,
        "file": {"driver": "file", "filename": text(&config.disk)?},
    });
    option("-blockdev", disk.to_string());
    option(
        "-device",
        format!("virtio-blk-device,drive=image,serial={IMAGE_SERIAL}"),
    );
    // `discard`: what the guest frees, the sparse file on the host gives back.
    let upper = json!({
        "node-name": "upper", "driver": "raw", "discard": "unmap",
        "file": {"driver": "file", "filename": text(&config.upper)?, "discard": "unmap"},
    });
    option("-blockdev", upper.to_string());
    option(
        "-device",
        format!("virtio-blk-device,drive=upper,serial={UPPER_SERIAL}"),
    );
    option("-device", "virtio-rng-device".to_owned());

    args.extend(["-nodefaults", "-no-user-config", "-no-reboot"].map(str::to_owned));
    Ok(Machine {
        program: find()?,
        args,
        parent: std::process::id(),
    })
}

/// What runs the guest's instructions.
fn accelerator(accel: Accel) -> &'static str {
    match accel {
        // The CPUs of a translated guest take turns in one thread. With a thread each, one may go on running what it
        // translated before another patched it, and Linux, which patches its own text whenever a static key flips, dies of
        // a stale breakpoint (within seconds where a socket option flips a key that traffic on the other CPU looks at).
        Accel::Tcg => "tcg,thread=single",
        other => other.name(),
    }
}

fn machine_type() -> &'static str {
    if cfg!(target_arch = "x86_64") {
        // No ACPI: the devices are named on the kernel command line, and the kernel needs no ACPI interpreter.
        "microvm,acpi=off,isa-serial=off,rtc=on,auto-kernel-cmdline=on"
    } else {
        // The newest interrupt controller there is: a hypervisor offers the host's, and no other.
        "virt,gic-version=max"
    }
}

/// Makes this process QEMU, or its supervisor.
pub(super) fn enter(machine: &Machine) -> Result<ExitCode, VmmError> {
    // QEMU inherits its ends by number; a socket passed as standard input must be marked so.
    let io = VmmError::io(format!("cannot run {}", machine.program.display()));
    become_qemu(machine).map_err(io)
}

#[cfg(target_os = "linux")]
fn become_qemu(machine: &Machine) -> io::Result<ExitCode> {
    use std::os::unix::process::CommandExt;

    // The setting survives exec, so QEMU dies with blockbox, however blockbox dies.
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
    let parent = rustix::process::getppid().map(|pid| pid.as_raw_nonzero().get());
    if parent.and_then(|pid| u32::try_from(pid).ok()) != Some(machine.parent) {
        return Err(io::Error::other("blockbox ended meanwhile"));
    }
    Err(Command::new(&machine.program).args(&machine.args).exec())
}

#[cfg(not(target_os = "linux"))]
fn become_qemu(machine: &Machine) -> io::Result<ExitCode> {
    use std::os::fd::AsFd;

    let stdin = io::stdin().as_fd().try_clone_to_owned()?;
    let mut qemu = Command::new(&machine.program)
        .args(&machine.args)
        .stdin(stdin)
        .spawn()?;
    let pid = rustix::process::Pid::from_child(&qemu);
    std::thread::spawn(move || {
        helper::wait_for_hangup();
        std::thread::sleep(helper::ORPHAN_GRACE);
        // This process ends with QEMU, so the pid is still QEMU's.
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
    });
    let status = qemu.wait()?;
    Ok(if status.success() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpus_take_turns_where_instructions_are_translated() {
        assert_eq!(accelerator(Accel::Tcg), "tcg,thread=single");
        assert_eq!(accelerator(Accel::Kvm), "kvm");
    }
}
