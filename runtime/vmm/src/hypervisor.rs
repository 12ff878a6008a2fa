//! Tests whether hardware virtualisation works on this host.
//!
//! That `/dev/kvm` exists does not prove it. On some hosts KVM starts a VM and interprets real-mode
//! instructions in software, but cannot run an ordinary kernel. So a trial VM boots the guest
//! kernel and blockbox's init from a disk with nothing else: once init sends a message, even an
//! error, the hypervisor can run a sandbox. The result is cached until the next boot of the host.

use std::fs;
use std::io::{Read, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use blockbox_files::NewFile;
use blockbox_protocol::{Boot, Decoder, INIT_PATH, PROTOCOL_VERSION, Reply, Request, UPPER_SERIAL};
use serde::{Deserialize, Serialize};

use super::alias::Aliases;
use super::device::{Disk, text};
use super::helper::{self, Launch};
use super::init_disk::write_init_disk;
use super::kernel::Identity;
use super::vm::Vm;
use super::{Arch, Vmm, VmmError, krun, with_causes};

/// How long to wait for the first message of the trial's init. With hardware virtualisation it
/// takes a fraction of a second.
const TRIAL_TIME: Duration = Duration::from_secs(3);

/// The same if libkrun is requested by name: an emulated hypervisor needs ten seconds, and more than
/// thirty on a busy host.
const PATIENT_TRIAL_TIME: Duration = Duration::from_secs(120);

/// Work that takes seconds and is about to begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Wait {
    /// A trial boot, with its time limit.
    Trial(Duration),
}

/// A callback before work that takes seconds, to inform the user.
pub type OnWait<'a> = dyn FnMut(Wait) + 'a;

/// The name of the cached result.
pub(crate) const FILE: &str = "hypervisor.json";

/// The disk with init is the only one, and so the first.
const TRIAL_CMDLINE: &str = "console=hvc0 quiet panic=-1 reboot=k root=/dev/vda rootfstype=ext4 rw";

/// The result of the trial.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// A guest boots.
    Works,
    /// It does not.
    Fails {
        /// The reason, as a message for users.
        reason: String,
    },
}

/// A cached result, and the key that it holds for.
#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    key: String,
    verdict: Verdict,
}

/// Returns the result for this host, from the folder `cache` or by a trial of at most 3 seconds,
/// before which `on_wait` is called.
pub fn verdict(
    kernel: &Path,
    cache: &Path,
    helper: Option<&Path>,
    on_wait: &mut OnWait<'_>,
) -> Verdict {
    if let Err(reason) = device() {
        return Verdict::Fails { reason };
    }
    if runs_pvm_guests_only(Path::new("/sys/module")) {
        return Verdict::Fails {
            reason: "/dev/kvm is kvm-pvm, which runs only guests built with CONFIG_PVM_GUEST"
                .to_owned(),
        };
    }
    match recall(kernel, cache) {
        Some(verdict) => verdict,
        None => try_and_remember(kernel, cache, helper, TRIAL_TIME, on_wait),
    }
}

/// Returns whether hardware virtualisation may work, as far as that is known without a trial.
pub(super) fn may_work() -> bool {
    device().is_ok() && !runs_pvm_guests_only(Path::new("/sys/module"))
}

/// As [`verdict`], if libkrun is requested by name. A cached failure is then not used: a success is
/// read from the cache, a failure is tried again, for at most two minutes.
pub fn verdict_anew(
    kernel: &Path,
    cache: &Path,
    helper: Option<&Path>,
    on_wait: &mut OnWait<'_>,
) -> Verdict {
    if let Err(reason) = device() {
        return Verdict::Fails { reason };
    }
    match recall(kernel, cache) {
        Some(Verdict::Works) => Verdict::Works,
        _ => try_and_remember(kernel, cache, helper, PATIENT_TRIAL_TIME, on_wait),
    }
}

fn try_and_remember(
    kernel: &Path,
    cache: &Path,
    helper: Option<&Path>,
    time: Duration,
    on_wait: &mut OnWait<'_>,
) -> Verdict {
    // This says nothing about the hypervisor, so it is not cached.
    if let Err(error) = helper::locate(helper) {
        let reason = with_causes(&error);
        return Verdict::Fails { reason };
    }
    on_wait(Wait::Trial(time));
    let verdict = trial(kernel, helper, time);
    // If the result cannot be cached, the next run tries again.
    if let Some(key) = key(kernel) {
        let kept = Kept {
            key,
            verdict: verdict.clone(),
        };
        let _ = remember(&cache.join(FILE), &kept);
    }
    verdict
}

/// Checks whether the operating system offers a hypervisor to this user.
pub(super) fn device() -> Result<(), String> {
    if cfg!(target_os = "linux") {
        let kvm = Path::new("/dev/kvm");
        match fs::OpenOptions::new().read(true).write(true).open(kvm) {
            Ok(_) => Ok(()),
            Err(error) => Err(match error.kind() {
                std::io::ErrorKind::NotFound => {
                    "there is no /dev/kvm: no hardware virtualisation, or it is off in the firmware"
                        .to_owned()
                }
                std::io::ErrorKind::PermissionDenied => {
                    "/dev/kvm is not accessible to this user (add it to the group kvm)".to_owned()
                }
                _ => format!("/dev/kvm: {error}"),
            }),
        }
    } else if cfg!(target_os = "macos") {
        // Only a trial shows whether the executable may use the Hypervisor framework.
        Ok(())
    } else {
        Err("this operating system has no supported hypervisor".to_owned())
    }
}

/// Returns whether KVM is the module kvm-pvm, which starts any VM and interprets its first
/// instructions, but only boots kernels built for it. `modules` is `/sys/module`.
fn runs_pvm_guests_only(modules: &Path) -> bool {
    let loaded = |name| modules.join(name).exists();
    loaded("kvm_pvm") && !loaded("kvm_intel") && !loaded("kvm_amd")
}

fn trial(kernel: &Path, helper: Option<&Path>, time: Duration) -> Verdict {
    let started = Instant::now();
    let mut kernel = kernel.to_owned();
    let mut aliases = Aliases::default();
    let vm_and_disk = aliases
        .replace(&mut kernel)
        .and_then(|()| trial_disk())
        .and_then(|disk| Ok((boot(&kernel, disk.path(), helper)?, disk)));
    let (vm, _disk) = match vm_and_disk {
        Ok(both) => both,
        Err(error) => {
            return Verdict::Fails {
                reason: with_causes(&error),
            };
        }
    };
    let spoke = init_speaks(&vm, time);
    vm.kill();
    let seconds = started.elapsed().as_secs_f64();
    let what = match spoke {
        Ok(true) => return Verdict::Works,
        Ok(false) => format!("a trial VM ended after {seconds:.1} s, before it had booted"),
        Err(_) => format!("a trial VM did not boot within {seconds:.1} s"),
    };
    vm.console().wait_closed(Duration::from_secs(1));
    let console = vm.console_tail();
    let last = console.lines().rev().find(|line| !line.trim().is_empty());
    Verdict::Fails {
        reason: last.map_or(what.clone(), |line| format!("{what}: {}", unstamped(line))),
    }
}

fn boot(kernel: &Path, disk: &Path, helper: Option<&Path>) -> Result<Vm, VmmError> {
    let machine = krun::Machine {
        kernel: text(kernel)?,
        cmdline: format!("{TRIAL_CMDLINE} init={INIT_PATH}"),
        cpus: 1,
        memory_mib: 256,
        disks: vec![krun::Drive::new(&Disk::raw(UPPER_SERIAL, disk))?],
        networks: Vec::new(),
        shares: Vec::new(),
        rules: None,
    };
    Vm::launch(Vmm::Libkrun, &Launch::Krun(machine), helper)
}

/// Waits for the first message of init; returns `false` if the VM ended without one.
fn init_speaks(vm: &Vm, time: Duration) -> std::io::Result<bool> {
    let mut channel = vm.channel()?;
    // The trial disk holds no container, so init answers with an error.
    let mut boot = Vec::new();
    Request::Boot {
        version: PROTOCOL_VERSION,
        boot: Boot::new("trial"),
    }
    .encode(&mut boot);
    channel.write_all(&boot)?;
    let deadline = Instant::now() + time;
    let mut decoder = Decoder::default();
    let mut chunk = [0; 4096];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        // A timeout of zero would mean no timeout.
        channel.set_read_timeout(Some(left.max(Duration::from_millis(1))))?;
        match channel.read(&mut chunk)? {
            0 => return Ok(false),
            count => decoder.push(chunk.get(..count).unwrap_or_default()),
        }
        if let Ok(Some(frame)) = decoder.next_frame() {
            return Ok(Reply::decode(frame).is_ok());
        }
    }
}

/// Makes a disk with init.
fn trial_disk() -> Result<tempfile::NamedTempFile, VmmError> {
    let what = "cannot make the disk of a trial VM";
    let disk = tempfile::NamedTempFile::new().map_err(VmmError::io(what))?;
    let file = disk.reopen().map_err(VmmError::io(what))?;
    write_init_disk(file, Arch::HOST)?;
    Ok(disk)
}

/// Returns a line of a log without the time and place in brackets before it.
fn unstamped(line: &str) -> &str {
    let line = line.trim();
    match line.split_once("] ") {
        Some((stamp, message)) if stamp.starts_with('[') => message,
        _ => line,
    }
}

/// Returns the key of a result: this boot of the host, this kernel file by any path, this version
/// of blockbox.
fn key(kernel: &Path) -> Option<String> {
    let kernel = Identity::of(kernel).ok()?;
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_else(|_| {
        let host = rustix::system::uname();
        format!(
            "{} {}",
            host.release().to_string_lossy(),
            host.version().to_string_lossy()
        )
    });
    let version = env!("CARGO_PKG_VERSION");
    Some(format!("{} {version} {kernel}", boot.trim()))
}

/// Returns whether the result in the folder `cache` holds for `kernel` now.
pub(crate) fn is_current(kernel: &Path, cache: &Path) -> bool {
    recall(kernel, cache).is_some()
}

fn recall(kernel: &Path, cache: &Path) -> Option<Verdict> {
    let kept: Kept = serde_json::from_slice(&fs::read(cache.join(FILE)).ok()?).ok()?;
    (kept.key == key(kernel)?).then_some(kept.verdict)
}

fn remember(file: &Path, kept: &Kept) -> std::io::Result<()> {
    let folder = file.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder)?;
    let mut temporary = NewFile::create_in(folder, 0o600)?;
    temporary.write_all(&serde_json::to_vec(kept)?)?;
    temporary.persist(file)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use super::*;

    #[test]
    fn kvm_pvm_is_recognised_if_no_module_for_hardware_is_loaded() {
        let modules = tempfile::tempdir().unwrap();
        assert!(!runs_pvm_guests_only(modules.path()));
        fs::create_dir(modules.path().join("kvm_pvm")).unwrap();
        assert!(runs_pvm_guests_only(modules.path()));
        fs::create_dir(modules.path().join("kvm_intel")).unwrap();
        assert!(!runs_pvm_guests_only(modules.path()));
    }

    #[test]
    fn a_verdict_holds_for_a_kernel_by_any_path_until_it_changes() {
        let folder = tempfile::tempdir().unwrap();
        let kernel = folder.path().join("kernel");
        fs::write(&kernel, "kernel").unwrap();
        let kept = Kept {
            key: key(&kernel).unwrap(),
            verdict: Verdict::Works,
        };
        remember(&folder.path().join(FILE), &kept).unwrap();
        let other_spelling = folder.path().join("./kernel");
        assert_eq!(recall(&other_spelling, folder.path()), Some(Verdict::Works));
        fs::write(&kernel, "another kernel").unwrap();
        assert_eq!(recall(&kernel, folder.path()), None);
    }
}
