//! The process that a VM runs in: `HELPER __vm JSON [DISK…]`, where the helper is any program whose
//! `main` begins with [`run_if_asked`].
//!
//! Its standard input is the guest's end of the control channel, its standard output and error are
//! the console's pipe. When the host's end of the channel closes, because blockbox ended or was
//! killed, the guest's init shuts the guest down cleanly; a VM that has not ended ten seconds later
//! is killed here.

use std::env;
use std::ffi::OsString;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::streams::{DISK_TIMEOUT, ORPHAN_GRACE};
use super::{VmmError, krun, qemu, signals, streams, with_causes};

/// The hidden subcommand.
const SUBCOMMAND: &str = "__vm";

/// The environment variable that names the helper, if the configuration does not.
pub const HELPER_VARIABLE: &str = "BLOCKBOX_HELPER";

/// Whether this program can be a helper: it has called [`run_if_asked`].
static CAPABLE: AtomicBool = AtomicBool::new(false);

/// What a helper process becomes.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) enum Launch {
    Krun(krun::Machine),
    Qemu(qemu::Machine),
    Share(qemu::share::Server),
}

/// If this process was started as a VM's helper, runs it as that. Otherwise returns `None` at once,
/// and VMs may be started through this program from then on. Call it first in `main`: the process
/// must have a single thread.
pub fn run_if_asked() -> Option<ExitCode> {
    CAPABLE.store(true, Ordering::Relaxed);
    let mut args = env::args_os().skip(1);
    if args.next()? != SUBCOMMAND {
        return None;
    }
    Some(match run(args.next(), args) {
        Ok(code) => code,
        Err(error) => {
            // Standard error is the console's pipe, whose tail the host shows.
            let _ = writeln!(io::stderr(), "blockbox: {}", with_causes(&error));
            ExitCode::FAILURE
        }
    })
}

/// Returns the program to start VMs through: `configured`, else the one that [`HELPER_VARIABLE`]
/// names, else the running program if it has called [`run_if_asked`].
///
/// # Errors
///
/// [`VmmError::NoHelper`] if there is none of these.
pub fn locate(configured: Option<&Path>) -> Result<PathBuf, VmmError> {
    let variable = || env::var_os(HELPER_VARIABLE).filter(|path| !path.is_empty());
    if let Some(path) = configured
        .map(Path::to_owned)
        .or_else(|| variable().map(PathBuf::from))
    {
        return Ok(path);
    }
    if !CAPABLE.load(Ordering::Relaxed) {
        return Err(VmmError::NoHelper);
    }
    env::current_exe().map_err(VmmError::io("cannot find the running program's own file"))
}

/// The environment that a helper process keeps: what libraries, QEMU, virtiofsd and blockbox itself
/// look up. The rest is the user's, and may hold passwords that a guest which takes over its
/// monitor could read.
const ENVIRONMENT: [&str; 21] = [
    "BLOCKBOX_HELPER",
    "BLOCKBOX_HOME",
    "BLOCKBOX_KERNEL",
    "BLOCKBOX_LOG",
    "BLOCKBOX_QEMU",
    "BLOCKBOX_VIRTIOFSD",
    "DYLD_FALLBACK_LIBRARY_PATH",
    "DYLD_LIBRARY_PATH",
    "HOME",
    "LANG",
    "LC_ALL",
    "LD_LIBRARY_PATH",
    "LD_PRELOAD",
    "LLVM_PROFILE_FILE",
    "PATH",
    "QEMU_MODULE_DIR",
    "RUST_BACKTRACE",
    "RUST_LOG",
    "TMPDIR",
    "TZ",
    "XDG_RUNTIME_DIR",
];

/// Returns a command that runs `helper` with little of this process's environment.
pub fn command(helper: &Path) -> Command {
    let mut command = Command::new(helper);
    let kept = ENVIRONMENT.into_iter();
    command
        .env_clear()
        .envs(kept.filter_map(|name| Some((name, env::var_os(name)?))));
    command
}

pub(super) fn arguments(launch: &Launch) -> Result<[String; 2], VmmError> {
    let json = serde_json::to_string(launch)
        .map_err(|error| VmmError::io("cannot describe the VM")(error.into()))?;
    Ok([SUBCOMMAND.to_owned(), json])
}

fn run(
    description: Option<OsString>,
    disks: impl Iterator<Item = OsString>,
) -> Result<ExitCode, VmmError> {
    for disk in disks {
        hold(Path::new(&disk))?;
    }
    let description = description.unwrap_or_default();
    let launch = serde_json::from_str(&description.to_string_lossy())
        .map_err(|error| VmmError::io("not a description of a VM")(error.into()))?;
    match launch {
        Launch::Krun(machine) => {
            signals::block().map_err(VmmError::io("cannot block signals"))?;
            streams::enforce(machine.rules.as_ref())?;
            std::thread::spawn(|| {
                streams::wait_for_hangup();
                std::thread::sleep(ORPHAN_GRACE);
                // The VM runs in this process, so this ends it.
                std::process::exit(1);
            });
            krun::enter(&machine)
        }
        Launch::Qemu(machine) => qemu::enter(&machine),
        Launch::Share(server) => qemu::share::enter(&server),
    }
}

/// Locks a disk until this process ends, whatever program it becomes. The VM of a killed monitor
/// may still be shutting down when the next one starts: two kernels that write to one file system
/// would destroy it.
fn hold(disk: &Path) -> Result<(), VmmError> {
    use rustix::fs::{FlockOperation, Mode, OFlags, flock, open};

    let failed = || VmmError::io(format!("cannot lock {}", disk.display()));
    // Not closed on exec.
    let file = open(disk, OFlags::RDWR, Mode::empty()).map_err(|e| failed()(e.into()))?;
    let deadline = Instant::now() + DISK_TIMEOUT;
    loop {
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => break,
            Err(rustix::io::Errno::WOULDBLOCK) if Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(10));
            }
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(VmmError::DiskInUse(disk.to_owned())),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(failed()(error.into())),
        }
    }
    std::mem::forget(file);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn program_without_helper_support_is_not_run_as_a_helper() {
        // The main function of tests does not call `run_if_asked`.
        if env::var_os(HELPER_VARIABLE).is_none() {
            assert!(matches!(locate(None), Err(VmmError::NoHelper)));
        }
        let configured = Path::new("/opt/helper");
        assert_eq!(locate(Some(configured)).unwrap(), configured);
    }
}
