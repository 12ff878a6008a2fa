//! Saves a machine with its memory, and compares the machines of a saved state and a copy.
//!
//! QEMU cannot save a machine that has a VMDK open. The image's disk is read-only and the same for
//! every copy, so it need not be saved: while the machine is stopped, an empty disk of the same
//! size replaces the VMDK's node below the guest's device. This needs no server between the guest
//! and the disk, and a machine that is never saved has no overhead.

use std::fmt;
use std::fs::{self, File};
use std::panic::resume_unwind;
use std::thread;
use std::time::Duration;

use blockbox_protocol::PROTOCOL_VERSION;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::device::Disk;
use super::qemu::args;
use super::qmp::{Qmp, text};
use super::{Vm, Vmm, VmmError};

/// How long QEMU may take to replace a disk.
const CHANGE_TIME: Duration = Duration::from_secs(10);

impl Vm {
    /// Stops the machine, writes the state of its CPUs and devices to `state` (some hundred KiB) as
    /// it calls `meanwhile` in another thread, and resumes the machine. `meanwhile` must copy the
    /// memory, which must be [shared](crate::MemoryBacking::Shared) or in a file, and the writable
    /// disks: a stopped machine changes neither, and QEMU has ended all requests to its disks when
    /// it reports the stop.
    ///
    /// # Errors
    ///
    /// [`VmmError::Unsupported`] if the monitor does not support this; those of [`Qmp`]. If a disk
    /// cannot be put back, the machine is killed.
    pub fn save<T: Send>(
        &self,
        state: &File,
        timeout: Duration,
        meanwhile: impl FnOnce() -> T + Send,
    ) -> Result<T, VmmError> {
        let qmp = self.qmp().ok_or(VmmError::Unsupported {
            vmm: self.vmm(),
            what: "snapshots of memory",
        })?;
        qmp.stop()?;
        let mut out = Vec::new();
        let (saved, copied) = thread::scope(|scope| {
            let copying = scope.spawn(meanwhile);
            let saved = self
                .removable
                .iter()
                .try_for_each(|(name, disk)| {
                    take_out(qmp, name)?;
                    out.push((name, disk));
                    Ok(())
                })
                .and_then(|()| qmp.save(state, timeout));
            (saved, copying.join())
        });
        for (name, disk) in out {
            // A guest that reads zeros instead of its image would corrupt its data.
            put_back(qmp, name, disk).inspect_err(|_| self.kill())?;
        }
        qmp.cont()?;
        saved?;
        Ok(copied.unwrap_or_else(|panic| resume_unwind(panic)))
    }
}

/// Replaces the node below `name` with an empty one of the same size.
fn take_out(qmp: &Qmp, name: &str) -> Result<(), VmmError> {
    let (below, empty) = (args::below(name), empty(name));
    let size = size(qmp, &below)?;
    let node = json!({"node-name": empty, "driver": "null-co", "size": size, "read-only": true});
    change(qmp, "blockdev-add", node)?;
    let taken = reopen(qmp, name, &empty).and_then(|()| {
        delete(qmp, &below).inspect_err(|_| {
            // The error of the failure itself is reported.
            let _ = reopen(qmp, name, &below);
        })
    });
    taken.inspect_err(|_| {
        let _ = delete(qmp, &empty);
    })
}

/// Undoes [`take_out`].
fn put_back(qmp: &Qmp, name: &str, disk: &Disk) -> Result<(), VmmError> {
    let below = args::below(name);
    change(qmp, "blockdev-add", args::node(&below, disk)?)?;
    reopen(qmp, name, &below)?;
    delete(qmp, &empty(name))
}

fn empty(name: &str) -> String {
    format!("{name}-empty")
}

fn reopen(qmp: &Qmp, name: &str, below: &str) -> Result<(), VmmError> {
    let options = json!({"options": [args::above(name, below)]});
    change(qmp, "blockdev-reopen", options)
}

fn delete(qmp: &Qmp, name: &str) -> Result<(), VmmError> {
    change(qmp, "blockdev-del", json!({"node-name": name}))
}

fn change(qmp: &Qmp, command: &'static str, what: Value) -> Result<(), VmmError> {
    qmp.execute(command, what, CHANGE_TIME).map(drop)
}

/// Returns the size of a node in bytes.
fn size(qmp: &Qmp, name: &str) -> Result<u64, VmmError> {
    let command = "query-named-block-nodes";
    let nodes = qmp.execute(command, json!({"flat": true}), CHANGE_TIME)?;
    let nodes = nodes.as_array().map(Vec::as_slice).unwrap_or_default();
    let node = nodes.iter().find(|node| text(node, "node-name") == name);
    node.and_then(|node| node.get("image")?.get("virtual-size")?.as_u64())
        .ok_or_else(|| VmmError::MonitorRefused {
            command,
            reason: format!("there is no {name}"),
        })
}

/// The properties of a machine that a copy must share to resume its saved state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct MachineIdentity {
    /// The first line of `qemu-system-… --version`.
    pub qemu: String,
    /// QEMU's name for the machine.
    pub machine: String,
    /// QEMU's accelerator and the CPU model that the guest sees.
    pub cpu: String,
    /// [`PROTOCOL_VERSION`] of the guest's init.
    pub protocol: u32,
}

/// A difference between two machines.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Difference {
    /// The property.
    pub what: &'static str,
    /// Its value in the saved machine.
    pub saved: String,
    /// Its value in the other machine.
    pub here: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { what, saved, here } = self;
        write!(f, "its {what} is {saved}, and here it is {here}")
    }
}

impl MachineIdentity {
    /// Returns the first difference between this saved machine and the machine `here`.
    pub fn difference(&self, here: &Self) -> Option<Difference> {
        let (saved_protocol, here_protocol) =
            (self.protocol.to_string(), here.protocol.to_string());
        let pairs = [
            ("QEMU", &self.qemu, &here.qemu),
            ("machine type", &self.machine, &here.machine),
            ("CPU", &self.cpu, &here.cpu),
            ("guest's protocol", &saved_protocol, &here_protocol),
        ];
        let found = pairs.into_iter().find(|(_, saved, here)| saved != here);
        found.map(|(what, saved, here)| Difference {
            what,
            saved: saved.clone(),
            here: here.clone(),
        })
    }
}

impl Vm {
    /// Returns the properties that a saved machine must share to be resumed as this one.
    ///
    /// # Errors
    ///
    /// [`VmmError::Unsupported`] if the monitor cannot save machines; if QEMU cannot be asked for
    /// its version.
    pub fn machine_identity(&self) -> Result<MachineIdentity, VmmError> {
        let (Vmm::Qemu { accel }, Some(qmp)) = (self.vmm(), self.qmp()) else {
            return Err(VmmError::Unsupported {
                vmm: self.vmm(),
                what: "snapshots of memory",
            });
        };
        // `--version` would take as long as everything else that QEMU does before the machine runs.
        let version = version(&qmp.execute("query-version", json!({}), CHANGE_TIME)?);
        let cpu = match args::cpu(accel, self.arch()) {
            "host" => format!("{} {}", accel.name(), host_cpu()),
            model => format!("{} {model}", accel.name()),
        };
        Ok(MachineIdentity {
            qemu: version,
            machine: args::machine_type(self.arch()).to_owned(),
            cpu,
            protocol: PROTOCOL_VERSION,
        })
    }
}

/// Formats QEMU's answer about its version as `--version` does.
fn version(answer: &Value) -> String {
    let number = |part: &str| answer["qemu"][part].as_u64().unwrap_or_default();
    let numbers = ["major", "minor", "micro"].map(|part| number(part).to_string());
    let version = format!("QEMU emulator version {}", numbers.join("."));
    match text(answer, "package") {
        "" => version,
        package => format!("{version} ({package})"),
    }
}

/// Returns the host's CPU model and the beginning of a digest of its features.
fn host_cpu() -> String {
    /// The lines of `/proc/cpuinfo` that a guest depends on.
    const KEYS: [&str; 11] = [
        "vendor_id",
        "cpu family",
        "model",
        "model name",
        "stepping",
        "flags",
        "CPU implementer",
        "CPU variant",
        "CPU part",
        "CPU revision",
        "Features",
    ];
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let mut name = "unknown";
    let mut hasher = Sha256::new();
    for line in text.lines().take_while(|line| !line.is_empty()) {
        let (key, value) = line.split_once(':').unwrap_or_default();
        if KEYS.contains(&key.trim()) {
            hasher.update(line);
        }
        if key.trim() == "model name" {
            name = value.trim();
        }
    }
    let digest = hasher.finalize();
    let short: String = digest.iter().take(4).map(|b| format!("{b:02x}")).collect();
    format!("{name} {short}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_running_qemu_has_the_version_that_its_program_prints() {
        let numbers = json!({"major": 7, "minor": 2, "micro": 22});
        let answer = json!({"qemu": numbers, "package": "Debian 1:7.2+dfsg-7"});
        let expected = "QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7)";
        assert_eq!(version(&answer), expected);
        let answer = json!({"qemu": numbers, "package": ""});
        assert_eq!(version(&answer), "QEMU emulator version 7.2.22");
    }

    #[test]
    fn the_error_for_another_machine_names_the_difference() {
        let saved = MachineIdentity {
            qemu: "QEMU 7".to_owned(),
            machine: "microvm".to_owned(),
            cpu: "tcg max".to_owned(),
            protocol: 2,
        };
        assert_eq!(saved.difference(&saved), None);
        let mut here = saved.clone();
        here.cpu = "kvm some".to_owned();
        let text = saved.difference(&here).map(|found| found.to_string());
        let expected = "its CPU is tcg max, and here it is kvm some";
        assert_eq!(text.as_deref(), Some(expected));
        here.qemu = "QEMU 8".to_owned();
        assert_eq!(
            saved.difference(&here).map(|found| found.what),
            Some("QEMU")
        );
    }
}
