//! The specification of a sandbox, as `sandbox.json` holds it: everything that was decided when the
//! sandbox was made.
//!
//! A specification is written when the sandbox is made, and again only when the sandbox is renamed.
//! What changes later is its [`State`](crate::State). Version 1 (a record without a `version`) held
//! only the name, the image and the time; it is read as a sandbox that runs its image's command.

mod bytes;
mod mount;
mod network;
mod record;
mod restart;
mod root;
mod secret;
mod signal;
mod ulimit;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use bytes::Bytes;
pub use mount::{Mount, MountError, MountSource};
pub use network::Network;
pub use restart::RestartPolicy;
pub use root::{RootDisk, RootFormat};
pub use secret::{Secret, SecretSource};
pub use signal::{Signal, SignalError};
pub use ulimit::Ulimit;

/// The version of the records that this version writes.
pub const VERSION: u32 = 2;

/// The default size of a writable disk, in bytes.
pub const UPPER_SIZE: u64 = 4 << 30;

/// The default time that a command has to end after its stop signal, as docker's.
pub const STOP_TIMEOUT: Duration = Duration::from_secs(10);

/// The specification of a sandbox.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Spec {
    /// The version of this record, [`VERSION`].
    pub version: u32,
    /// 64 hexadecimal digits that no other sandbox has.
    pub id: String,
    /// The sandbox's name: unique in its store.
    pub name: String,
    /// The image below the writable disk. If there is a [`root_disk`](Self::root_disk), only the
    /// name counts.
    pub image: ImageSource,
    /// The disk that is the root instead of an image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root_disk: Option<RootDisk>,
    /// The size of the writable disk in bytes.
    pub upper_size: u64,
    /// The virtual machine.
    #[serde(default)]
    pub machine: Machine,
    /// The main command; `None` is the image's.
    #[serde(default)]
    pub process: Option<Process>,
    /// The guest's host name; `None` is the sandbox's name.
    #[serde(default)]
    pub hostname: Option<String>,
    /// Folders that are a tmpfs by default (`/tmp`, `/run`) and are on the writable disk instead.
    #[serde(default)]
    pub on_disk: Vec<String>,
    /// Absolute paths at which folders of the writable disk itself are mounted.
    #[serde(default)]
    pub disk_dirs: Vec<String>,
    /// Mounts besides the sandbox's own disks.
    #[serde(default)]
    pub mounts: Vec<Mount>,
    /// Secrets, as files in `/run/secrets`.
    #[serde(default)]
    pub secrets: Vec<Secret>,
    /// Labels, by name.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Whether the main command is restarted after it ends.
    #[serde(default)]
    pub restart: RestartPolicy,
    /// Whether the sandbox is removed when its main command has ended.
    #[serde(default)]
    pub remove_on_exit: bool,
    /// Whether the root is read-only, except for what is mounted there.
    #[serde(default)]
    pub read_only: bool,
    /// Whether there is no writable disk: the guest's changes are in its memory, and lost when it
    /// stops.
    #[serde(default)]
    pub diskless: bool,
    /// Resource limits of every command.
    #[serde(default)]
    pub ulimits: Vec<Ulimit>,
    /// How long the sandbox may run, in milliseconds.
    #[serde(default)]
    pub timeout_ms: Option<u64>,
    /// The id of the snapshot that the sandbox was made from.
    #[serde(default)]
    pub snapshot: Option<String>,
    /// Whether the writable disk was made as a copy of another sandbox's.
    #[serde(default)]
    pub forked: bool,
    /// The network. A record without a network is of a sandbox that has none.
    #[serde(default = "Network::none")]
    pub network: Network,
    /// When the sandbox was made, in nanoseconds since the epoch.
    pub created_ns: u64,
}

/// The image of a sandbox.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ImageSource {
    /// The image's name as the user gave it.
    pub asked: String,
    /// The full name, if `asked` is a reference.
    #[serde(default)]
    pub reference: Option<String>,
    /// The digest of the image's manifest.
    pub manifest_digest: String,
    /// The image's platform, `OS/ARCH[/VARIANT]`.
    #[serde(default)]
    pub platform: Option<String>,
}

impl ImageSource {
    /// Returns an image that the user called `asked`.
    pub fn new(asked: &str, manifest_digest: String) -> Self {
        let reference = asked.parse::<ocipull::Reference>();
        Self {
            asked: asked.to_owned(),
            reference: reference
                .ok()
                .map(|reference| reference.canonical().to_string()),
            manifest_digest,
            platform: None,
        }
    }
}

/// The virtual machine monitor that boots a sandbox.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum VmmChoice {
    /// libkrun if hardware virtualisation works, else QEMU.
    #[default]
    Auto,
    /// libkrun.
    Libkrun,
    /// QEMU, with software emulation if there is no hardware virtualisation.
    Qemu,
}

/// The processor architecture of a sandbox's machine, by OCI's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Arch {
    /// 64-bit x86.
    Amd64,
    /// 64-bit Arm.
    Arm64,
}

/// The virtual machine that a sandbox boots in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Machine {
    /// The processor architecture to emulate; `None` is the host's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub arch: Option<Arch>,
    /// The virtual machine monitor.
    pub vmm: VmmChoice,
    /// The number of virtual CPUs.
    pub cpus: u8,
    /// The memory in bytes, rounded down to whole MiB.
    pub memory: u64,
    /// The guest kernel; `None` is the one that is found.
    pub kernel: Option<PathBuf>,
    /// Whether to confine the virtual machine's process, if the host can.
    pub confine: bool,
    /// Whether the guest's memory is kept in a file that snapshots with memory can copy; this needs
    /// QEMU.
    pub forkable: bool,
}

impl Default for Machine {
    /// Returns a machine with two CPUs and 1 GiB of memory.
    fn default() -> Self {
        Self {
            arch: None,
            vmm: VmmChoice::Auto,
            cpus: 2,
            memory: 1 << 30,
            kernel: None,
            confine: true,
            forkable: false,
        }
    }
}

/// The main command of a sandbox.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Process {
    /// The program and its arguments.
    pub args: Vec<Bytes>,
    /// The environment, `NAME=value` each.
    pub env: Vec<Bytes>,
    /// The working directory.
    pub cwd: Bytes,
    /// The user, `NAME|UID[:GROUP|GID]`; empty is root.
    pub user: String,
    /// Whether the command has a terminal.
    pub tty: bool,
    /// Whether the command's input stays open for clients that attach. Otherwise the input is
    /// `/dev/null`.
    pub stdin: bool,
    /// The signal that asks the command to stop; `None` is SIGTERM.
    pub stop_signal: Option<Signal>,
    /// How long the command has to stop, in milliseconds; `None` is [`STOP_TIMEOUT`].
    pub stop_timeout_ms: Option<u64>,
    /// Whether the command is process 1 of a PID namespace of its own. `None`: if its name is
    /// `init` or `systemd`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub init: Option<bool>,
}

impl Process {
    /// Returns the signal that asks the command to stop.
    pub fn stop_signal(&self) -> Signal {
        self.stop_signal.unwrap_or(Signal::TERM)
    }

    /// Returns how long the command has to stop.
    pub fn stop_timeout(&self) -> Duration {
        self.stop_timeout_ms
            .map_or(STOP_TIMEOUT, Duration::from_millis)
    }
}

impl Spec {
    /// Returns a specification with default values, without an id.
    pub fn new(name: String, image: ImageSource) -> Self {
        Self {
            version: VERSION,
            id: String::new(),
            name,
            image,
            root_disk: None,
            upper_size: UPPER_SIZE,
            machine: Machine::default(),
            process: None,
            hostname: None,
            on_disk: Vec::new(),
            disk_dirs: Vec::new(),
            mounts: Vec::new(),
            secrets: Vec::new(),
            labels: BTreeMap::new(),
            restart: RestartPolicy::No,
            remove_on_exit: false,
            read_only: false,
            diskless: false,
            ulimits: Vec::new(),
            timeout_ms: None,
            snapshot: None,
            forked: false,
            network: Network::default(),
            created_ns: 0,
        }
    }

    /// Returns the guest's host name.
    pub fn hostname(&self) -> &str {
        self.hostname.as_deref().unwrap_or(&self.name)
    }

    /// Returns the first twelve digits of the id, as docker shows it.
    pub fn short_id(&self) -> &str {
        self.id.get(..12).unwrap_or(&self.id)
    }
}
