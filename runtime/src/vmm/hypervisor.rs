//! Whether hardware virtualisation works here: found out by trying.
//!
//! `/dev/kvm` is no proof. There are hosts whose KVM starts a VM and interprets real-mode instructions in software, but
//! cannot run an ordinary kernel. So a trial VM boots the guest kernel without any disk: once its console speaks, the
//! kernel has come through paging, interrupts and a timer, and the VM is killed. The verdict is kept until the next
//! boot of the host.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::helper::Launch;
use super::vm::Vm;
use super::{Vmm, krun};

/// How long the trial kernel has to say its first word. A kernel on hardware needs a tenth of a second, one under an emulated
/// hypervisor some.
const TRIAL_TIMEOUT: Duration = Duration::from_secs(15);

/// What every Linux says first on its console.
const FIRST_WORDS: &str = "Linux version";

/// What the trial found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// A kernel boots.
    Works,
    /// It does not.
    Fails {
        /// Why, for a person.
        reason: String,
    },
}

/// A verdict and what it was found with.
#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    key: String,
    verdict: Verdict,
}

/// The verdict on this host, from the folder `cache` or by a trial of at most 15 seconds.
pub fn verdict(kernel: &Path, cache: &Path, helper: Option<&Path>) -> Verdict {
    if let Err(reason) = device() {
        return Verdict::Fails { reason };
    }
    let file = cache.join("hypervisor.json");
    let key = key(kernel);
    if let Some(kept) = recall(&file)
        && kept.key == key
    {
        return kept.verdict;
    }
    let verdict = trial(kernel, helper);
    // Without a cache the next run tries again: slower, and right.
    let _ = remember(
        &file,
        &Kept {
            key,
            verdict: verdict.clone(),
        },
    );
    verdict
}

/// Whether the operating system offers a hypervisor to this user at all.
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
        // Only a trial tells whether the executable may use the Hypervisor framework.
        Ok(())
    } else {
        Err("this operating system has no hypervisor blockbox knows".to_owned())
    }
}

fn trial(kernel: &Path, helper: Option<&Path>) -> Verdict {
    let started = Instant::now();
    let kernel = match krun::text(kernel) {
        Ok(kernel) => kernel,
        Err(error) => {
            return Verdict::Fails {
                reason: error.to_string(),
            };
        }
    };
    let machine = krun::Machine {
        kernel,
        cmdline: "console=hvc0 panic=-1 reboot=k root=/dev/vda".to_owned(),
        cpus: 1,
        memory_mib: 256,
        disks: Vec::new(),
    };
    let vm = Vm::launch(
        Vmm::Libkrun,
        &Launch::Krun(machine),
        helper.map(Path::to_owned),
        None,
    );
    let vm = match vm {
        Ok(vm) => vm,
        Err(error) => {
            return Verdict::Fails {
                reason: error.to_string(),
            };
        }
    };
    let (spoke, ended) = vm
        .console()
        .wait(TRIAL_TIMEOUT, |text| text.contains(FIRST_WORDS));
    vm.kill();
    if spoke {
        return Verdict::Works;
    }
    let what = if ended {
        "a trial VM ended before its kernel came up"
    } else {
        "the kernel of a trial VM did not come up"
    };
    let console = vm.console_tail();
    let last = console.lines().rev().find(|line| !line.trim().is_empty());
    let hint = last
        .map(|line| format!(" ({})", line.trim()))
        .unwrap_or_default();
    Verdict::Fails {
        reason: format!(
            "{what} within {:.1} s{hint}",
            started.elapsed().as_secs_f64()
        ),
    }
}

/// What a verdict holds for: this boot of the host, this kernel file, this blockbox.
fn key(kernel: &Path) -> String {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_else(|_| {
        let host = rustix::system::uname();
        format!(
            "{} {}",
            host.release().to_string_lossy(),
            host.version().to_string_lossy()
        )
    });
    let version = env!("CARGO_PKG_VERSION");
    format!("{} {version} {}", boot.trim(), kernel.display())
}

fn recall(file: &Path) -> Option<Kept> {
    serde_json::from_slice(&fs::read(file).ok()?).ok()
}

fn remember(file: &PathBuf, kept: &Kept) -> std::io::Result<()> {
    let folder = file.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder)?;
    let mut temporary = tempfile::NamedTempFile::new_in(folder)?;
    temporary.write_all(&serde_json::to_vec(kept)?)?;
    temporary.persist(file)?;
    Ok(())
}
