//! The record of the running machine in a snapshot: `memory.json` in its folder.

use std::io::Write;
use std::path::Path;

use blockbox_store::atomic;
use blockbox_store::spec::Spec;
use blockbox_vmm::MachineIdentity;
use blockbox_vmm::guest::RunningCommand;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::upper::create_copy;

/// The version of the records that this version writes.
const VERSION: u32 = 1;

/// The record's name in the folder of a snapshot.
pub(super) const FILE: &str = "memory.json";

/// A machine that was copied as it ran.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Saved {
    version: u32,
    /// The identity that a machine must have to resume the copy.
    pub(crate) machine: MachineIdentity,
    /// The guest kernel's release.
    pub(crate) kernel: String,
    /// The last id that the guest saw on its control channel.
    pub(crate) last_id: u32,
    /// The main command, if one was running.
    #[serde(default)]
    pub(crate) command: Option<RunningCommand>,
    /// The sandbox's specification.
    pub(crate) spec: Spec,
}

impl Saved {
    pub(crate) fn new(
        machine: MachineIdentity,
        kernel: String,
        last_id: u32,
        command: Option<RunningCommand>,
        spec: Spec,
    ) -> Self {
        Self {
            version: VERSION,
            machine,
            kernel,
            last_id,
            command,
            spec,
        }
    }

    /// Reads the record in the folder of a snapshot.
    pub(crate) fn read(folder: &Path) -> Result<Self> {
        let path = folder.join(FILE);
        let bytes = atomic::read(&path).map_err(Error::io(&path))?;
        Self::parse(&bytes).map_err(|error| Error::SnapshotMemory(error.to_string()))
    }

    /// Parses a record.
    pub(super) fn parse(bytes: &[u8]) -> serde_json::Result<Self> {
        let saved: Self = serde_json::from_slice(bytes)?;
        match saved.version {
            VERSION => Ok(saved),
            version => Err(serde::de::Error::custom(format!(
                "its record has version {version}, which a later blockbox wrote"
            ))),
        }
    }

    /// Writes the record into the folder of a new snapshot, which nobody sees yet.
    pub(crate) fn write(&self, folder: &Path) -> Result<()> {
        let path = folder.join(FILE);
        let text = serde_json::to_vec_pretty(self).map_err(|e| Error::io(&path)(e.into()))?;
        let mut file = create_copy(&path)?;
        file.write_all(&text).map_err(Error::io(&path))
    }

    /// Checks that this machine, which QEMU has started for that, can resume the copy.
    ///
    /// # Errors
    ///
    /// [`Error::SnapshotMemory`] names the difference.
    pub(crate) fn check_machine(&self, machine: &MachineIdentity) -> Result<()> {
        match self.machine.difference(machine) {
            Some(difference) => Err(Error::SnapshotMemory(difference.to_string())),
            None => Ok(()),
        }
    }

    /// Checks that a sandbox of this specification can resume the copy.
    ///
    /// # Errors
    ///
    /// [`Error::SnapshotMemory`] names the difference.
    pub(crate) fn check(&self, spec: &Spec) -> Result<()> {
        match difference(&self.spec, spec) {
            Some(what) => Err(Error::SnapshotMemory(format!(
                "it was made with other {what}"
            ))),
            None => Ok(()),
        }
    }
}

/// Returns what a running machine has since its boot and the other specification does not match.
pub(super) fn difference(saved: &Spec, spec: &Spec) -> Option<&'static str> {
    let differs = [
        ("processor", saved.machine.arch != spec.machine.arch),
        ("CPUs", saved.machine.cpus != spec.machine.cpus),
        ("memory", saved.machine.memory != spec.machine.memory),
        ("kernel", saved.machine.kernel != spec.machine.kernel),
        ("mounts", saved.mounts != spec.mounts),
        ("folders on disk", saved.on_disk != spec.on_disk),
        ("disk folders", saved.disk_dirs != spec.disk_dirs),
        (
            "write access to its root",
            saved.read_only != spec.read_only,
        ),
        ("limits", saved.ulimits != spec.ulimits),
        ("secrets", saved.secrets != spec.secrets),
        ("size of its disk", saved.upper_size != spec.upper_size),
        (
            "network",
            saved.network.is_connected() != spec.network.is_connected(),
        ),
    ];
    let found = differs.into_iter().find(|(_, differs)| *differs);
    found.map(|(what, _)| what)
}

#[cfg(test)]
mod tests {
    use blockbox_store::spec::ImageSource;

    use super::*;

    fn saved() -> Saved {
        let machine =
            r#"{"qemu": "QEMU 7", "machine": "microvm", "cpu": "tcg max", "protocol": 2}"#;
        let machine = serde_json::from_str(machine).expect("valid");
        let command = Some(RunningCommand {
            id: 1,
            pid: 2,
            tty: false,
            stdin: false,
        });
        let spec = Spec::new("box".to_owned(), ImageSource::new("image", String::new()));
        Saved::new(machine, "6.12".to_owned(), 3, command, spec)
    }

    #[test]
    fn a_copy_is_only_resumed_with_the_same_machine() {
        let saved = saved();
        let mut spec = saved.spec.clone();
        spec.name = "clone".to_owned();
        assert!(saved.check(&spec).is_ok());
        spec.machine.cpus += 1;
        let refused = saved.check(&spec).map_err(|e| e.to_string());
        assert!(refused.is_err_and(|text| text.contains("other CPUs")));
        let mut other = saved.machine.clone();
        other.qemu = "QEMU 8".to_owned();
        assert!(saved.check_machine(&saved.machine).is_ok());
        let refused = saved.check_machine(&other).map_err(|e| e.to_string());
        assert!(refused.is_err_and(|text| text.contains("its QEMU is QEMU 7")));
    }

    #[test]
    fn a_record_of_a_later_version_is_refused() {
        let mut later = saved();
        assert!(Saved::parse(&serde_json::to_vec(&later).expect("text")).is_ok());
        later.version += 1;
        assert!(Saved::parse(&serde_json::to_vec(&later).expect("text")).is_err());
    }
}
