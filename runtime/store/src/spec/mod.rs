//! The specification of a sandbox: everything that its creation decided, as `sandbox.json` holds
//! it.
//!
//! A specification is written once, when the sandbox is made, and again only when the sandbox is
//! renamed. What changes while the sandbox lives is its [`State`](crate::State). Version 1 (a
//! record without a `version`) held the name, the image and the time only; it is read as a sandbox
//! that runs its image's own command.

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

/// The size of a writable disk that nobody chose, in bytes.
pub const UPPER_SIZE: u64 = 4 << 30;

/// How long a command has to end after its stop signal, as docker's.
pub const STOP_TIMEOUT: Duration = Duration::from_secs(10);

/// What a sandbox is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Spec {
    /// The version of this record, [`VERSION`].
    pub version: u32,
    /// 64 hexadecimal digits that no other sandbox has.
    pub id: String,
    /// The sandbox's name: unique in its store.
    pub name: String,
    /// The image below the writable disk; where there is a [`root_disk`](Self::root_disk), its name
    /// alone counts.
    pub image: ImageSource,
    /// The disk that is the root in place of an image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root_disk: Option<RootDisk>,
    /// The size of the writable disk in bytes.
    pub upper_size: u64,
    /// The virtual machine.
    #[serde(default)]
    pub machine: Machine,
    /// The main command; `None` is the image's own.
    #[serde(default)]
    pub process: Option<Process>,
    /// The guest's host name; `None` is the sandbox's name.
    #[serde(default)]
    pub hostname: Option<String>,
    /// Folders that would be a tmpfs (`/tmp`, `/run`) and are on the writable disk.
    #[serde(default)]
    pub on_disk: Vec<String>,
    /// Absolute paths at which folders of the writable disk itself are mounted.
    #[serde(default)]
    pub disk_dirs: Vec<String>,
    /// What is mounted besides the sandbox's own disks.
    #[serde(default)]
    pub mounts: Vec<Mount>,
    /// Files in `/run/secrets`.
    #[serde(default)]
    pub secrets: Vec<Secret>,
    /// Names and values that the user attached.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Whether the main command runs again after its end.
    #[serde(default)]
    pub restart: RestartPolicy,
    /// Whether the sandbox is removed when its main command has ended.
    #[serde(default)]
    pub remove_on_exit: bool,
    /// Whether the root is read-only but for what is mounted there.
    #[serde(default)]
    pub read_only: bool,
    /// Whether there is no writable disk: what the guest changes is in its memory, and goes with
    /// it.
    #[serde(default)]
    pub diskless: bool,
    /// Limits of every command.
    #[serde(default)]
    pub ulimits: Vec<Ulimit>,
    /// How long the sandbox may run, in milliseconds.
    #[serde(default)]
    pub timeout_ms: Option<u64>,
    /// The id of the snapshot that the writable disk began as.
    #[serde(default)]
    pub snapshot: Option<String>,
    /// Whether the writable disk began as a copy of another sandbox's.
    #[serde(default)]
    pub forked: bool,
    /// The network. A record without one is of a sandbox that has none.
    #[serde(default = "Network::none")]
    pub network: Network,
    /// When the sandbox was made, in nanoseconds since the epoch.
    pub created_ns: u64,
}

/// Where a sandbox's image comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ImageSource {
    /// The image's name as the user gave it.
    pub asked: String,
    /// The name in full, where it is a reference.
    #[serde(default)]
    pub reference: Option<String>,
    /// The digest of the image's manifest.
    pub manifest_digest: String,
    /// The image's platform, `OS/ARCH[/VARIANT]`.
    #[serde(default)]
    pub platform: Option<String>,
}

impl ImageSource {
    /// An image called `asked` by the user.
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

/// Which virtual machine monitor boots a sandbox.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum VmmChoice {
    /// libkrun where hardware virtualisation works, else QEMU.
    #[default]
    Auto,
    /// libkrun.
    Libkrun,
    /// QEMU, without hardware virtualisation where there is none.
    Qemu,
}

/// The virtual machine that a sandbox boots in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Machine {
    /// Which virtual machine monitor.
    pub vmm: VmmChoice,
    /// Virtual CPUs.
    pub cpus: u8,
    /// Memory in bytes; whole MiB count.
    pub memory: u64,
    /// The guest kernel, if not the one that is found.
    pub kernel: Option<PathBuf>,
    /// Whether the virtual machine's process is confined, where the host can.
    pub confine: bool,
    /// Whether the guest's memory is kept where it can be copied, for snapshots with memory; that
    /// takes QEMU.
    pub forkable: bool,
}

impl Default for Machine {
    /// Two CPUs and 1 GiB.
    fn default() -> Self {
        Self {
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
    /// Whether the command's input stays open for clients that attach. Without it the input is
    /// `/dev/null`.
    pub stdin: bool,
    /// The signal that asks the command to end; `None` is SIGTERM.
    pub stop_signal: Option<Signal>,
    /// How long the command then has, in milliseconds; `None` is [`STOP_TIMEOUT`].
    pub stop_timeout_ms: Option<u64>,
    /// Whether the command is process 1 of a PID namespace of its own. `None`: where it is called
    /// `init` or `systemd`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub init: Option<bool>,
}

impl Process {
    /// The signal that asks the command to end.
    pub fn stop_signal(&self) -> Signal {
        self.stop_signal.unwrap_or(Signal::TERM)
    }

    /// How long the command then has.
    pub fn stop_timeout(&self) -> Duration {
        self.stop_timeout_ms
            .map_or(STOP_TIMEOUT, Duration::from_millis)
    }
}

impl Spec {
    /// A sandbox with what nobody chose: everything that callers set afterwards.
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

    /// The guest's host name.
    pub fn hostname(&self) -> &str {
        self.hostname.as_deref().unwrap_or(&self.name)
    }

    /// The first twelve digits of the id, as docker shows it.
    pub fn short_id(&self) -> &str {
        self.id.get(..12).unwrap_or(&self.id)
    }
}
