//! What a sandbox does now, as `state.json` holds it.
//!
//! ```text
//!              start               guest up, command runs            stop, command ended
//!  created ───────────▶ starting ────────────────────────▶ running ──────────────────────▶ stopping
//!                        ▲ ▲ │                              │ │                               │
//!                        │ └─┼──────────────────────────────┘ │                               │
//!                        │   │        restart policy          │                               │
//!                 start  │   │ no boot                        │ machine lost                  │ switched off
//!                        │   ▼                                ▼                               ▼
//!                        ├─ failed ◀──────────────────────────┘                             exited
//!                        └──────────────────────────────────────────────────────────────────┘
//!
//!  starting, running, stopping ──── monitor killed: repaired by the next reader ────▶ exited
//! ```
//!
//! A sandbox is `paused` while it runs and the host has no space for what it writes.
//!
//! One process owns the state: the one that holds the sandbox's lock. From `starting` to the
//! end that is the monitor. The state on disk is the truth while the lock is held. If the state
//! says that the sandbox is up and the lock is free, the monitor was killed or the host went down:
//! the process that finds this repairs the record ([`reconcile`]).

use std::fs;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use blockbox_protocol::network::BoundPort;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::{Listing, Lock, Spec, Store, atomic, remove as remove_tree};

/// The record's name in the folder of a sandbox.
const FILE: &str = "state.json";

/// The version of the records that this version writes.
const VERSION: u32 = 1;

/// The smallest space of a file with contents, in bytes, on the file systems of stores.
const BLOCK: usize = 4096;

fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}

/// The status of a sandbox.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Status {
    /// It was made, and never started.
    #[default]
    Created,
    /// Its machine is booting, or waits to be restarted.
    Starting,
    /// Its main command is running.
    Running,
    /// Its machine is paused, because the host's disk is full.
    Paused,
    /// Its machine is shutting down.
    Stopping,
    /// Its main command has ended.
    Exited,
    /// Its machine did not boot, or was lost.
    Failed,
}

impl Status {
    /// Returns whether a monitor holds a sandbox in this state.
    pub fn is_active(self) -> bool {
        matches!(
            self,
            Self::Starting | Self::Running | Self::Paused | Self::Stopping
        )
    }

    /// Returns the state's name, as `ps --filter status=` expects it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopping => "stopping",
            Self::Exited => "exited",
            Self::Failed => "failed",
        }
    }
}

/// The state of a sandbox.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct State {
    /// The version of this record.
    pub version: u32,
    /// The status of the sandbox.
    pub status: Status,
    /// When the main command was last started, in nanoseconds since the epoch.
    pub started_ns: Option<u64>,
    /// When the sandbox last ended, in nanoseconds since the epoch.
    pub finished_ns: Option<u64>,
    /// The main command's last exit code: its own, or 128 plus a signal's number.
    pub exit_code: Option<u8>,
    /// The last error, as a message for users.
    pub error: Option<String>,
    /// How often the restart policy has restarted the sandbox since the user started it.
    pub restarts: u32,
    /// The monitor's process, while there is one. It is only shown: a process id does not prove
    /// that the monitor is alive.
    pub monitor_pid: Option<u32>,
    /// The path of the monitor's socket, while there is one.
    pub socket: Option<PathBuf>,
    /// The virtual machine monitor of the last boot.
    pub vmm: Option<String>,
    /// The published ports, while they are bound.
    pub ports: Vec<BoundPort>,
    /// How the process of the virtual machine had confined itself at the last boot, as it reported.
    pub confinement: Option<String>,
    /// The same of the network's gateway, if there was one.
    pub gateway_confinement: Option<String>,
    /// Whether to remove the sandbox as soon as no process holds it: it was made with that option,
    /// or for one command that has not started yet.
    pub discard: bool,
}

impl State {
    /// Returns the state of a new sandbox.
    pub fn created(discard: bool) -> Self {
        Self {
            version: VERSION,
            discard,
            ..Self::default()
        }
    }

    /// Reads the state in the folder of a sandbox. Without a record, which earlier versions did not
    /// write, the sandbox was never started or has ended.
    ///
    /// # Errors
    ///
    /// [`Error::SandboxRecord`] if it is not a valid state; [`Error::RecordVersion`] if a later
    /// version wrote it.
    pub fn read(folder: &Path) -> Result<Self> {
        let path = folder.join(FILE);
        let bytes = match atomic::read(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Self::created(false)),
            bytes => bytes.map_err(Error::io(&path))?,
        };
        let bad = |source| Error::SandboxRecord {
            path: path.clone(),
            source,
        };
        let Version { version } = serde_json::from_slice(&bytes).map_err(bad)?;
        if version > VERSION {
            return Err(Error::RecordVersion { path, version });
        }
        serde_json::from_slice(&bytes).map_err(bad)
    }

    /// Writes the state into the folder of a sandbox; the caller holds the sandbox's lock. On a
    /// full disk, it is written over the previous state, whose space it has.
    pub fn write(&self, folder: &Path) -> Result<()> {
        let path = folder.join(FILE);
        let fill = |file: &mut atomic::NewFile| atomic::json(file, self).map_err(Error::io(&path));
        let written = match self.status {
            // A power cut ends the machine. The state before says as much about the sandbox then:
            // that its command did not start, or ran when the monitor was killed.
            Status::Starting | Status::Stopping => atomic::write_undoable(&path, fill),
            _ => atomic::write_file(&path, fill),
        };
        match written {
            Err(Error::Io { source, .. }) if is_full(&source) => {
                self.overwrite(&path).map_err(Error::io(&path))
            }
            written => written,
        }
    }

    /// Overwrites a record in place, and fills it up with blanks to its previous length. This is
    /// a single write to blocks that the file has, and works on a full disk.
    fn overwrite(&self, path: &Path) -> io::Result<()> {
        let mut bytes = serde_json::to_vec(self)?;
        let file = fs::File::options().write(true).open(path)?;
        let length = usize::try_from(file.metadata()?.len()).unwrap_or(usize::MAX);
        if bytes.len() < length.min(BLOCK) {
            bytes.resize(length, b' ');
        }
        file.write_all_at(&bytes, 0)?;
        file.sync_all()
    }

    /// Sets the final status, once no monitor holds the sandbox.
    pub fn leave(&mut self, status: Status) {
        self.status = status;
        self.finished_ns = Some(now_ns());
        self.monitor_pid = None;
        self.socket = None;
        self.ports.clear();
    }
}

/// The version of a record, whatever else the record holds.
#[derive(Deserialize)]
struct Version {
    #[serde(default)]
    version: u32,
}

/// The records of one sandbox.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Info {
    /// The sandbox's specification.
    pub spec: Spec,
    /// The sandbox's state.
    pub state: State,
}

/// Reads the records of the sandbox `name`, and repairs them if its monitor was killed; `None` if
/// there is no such sandbox.
pub fn reconcile(store: &Store, name: &str) -> Result<Option<Info>> {
    let folder = store.sandbox(name);
    let Some(info) = read(&folder)? else {
        return Ok(None);
    };
    // The lock is tried only if a monitor should hold it: a sandbox that is down must not look busy
    // to other processes meanwhile.
    if !info.state.status.is_active() && !info.state.discard {
        return Ok(Some(info));
    }
    match store.lock_sandbox(name)? {
        Some(lock) => repair(&folder, &lock),
        None => Ok(Some(info)),
    }
}

/// Reads the records of all sandboxes, by name, and repairs them as [`reconcile`] does.
///
/// # Errors
///
/// [`Error::Io`] if the folder of sandboxes cannot be read.
pub fn list(store: &Store) -> Result<Listing<Info>> {
    Listing::read(&store.sandboxes(), |folder| {
        let name = folder.file_name().unwrap_or_default().to_string_lossy();
        reconcile(store, &name)
    })
}

/// Repairs the records in the folder of a sandbox; the caller holds its lock.
pub fn repair(folder: &Path, _lock: &Lock) -> Result<Option<Info>> {
    // Read again under the lock: a monitor may have ended normally just before.
    let Some(mut info) = read(folder)? else {
        return Ok(None);
    };
    if info.state.discard {
        remove_tree(folder)?;
        return Ok(None);
    }
    if info.state.status.is_active() {
        info.state.error = Some("the sandbox's monitor was killed".to_owned());
        info.state.exit_code = Some(128 + 9);
        if let Some(socket) = info.state.socket.take() {
            // No process listens on the socket.
            let _ = fs::remove_file(socket);
        }
        info.state.leave(Status::Exited);
        // If this fails, the next reader repairs the state again: a full disk does not hide a
        // sandbox.
        let _ = info.state.write(folder);
    }
    Ok(Some(info))
}

/// Reads the records in the folder of a sandbox as they are; `None` if there are none.
///
/// # Errors
///
/// As [`Spec::read`] and [`State::read`].
pub fn read(folder: &Path) -> Result<Option<Info>> {
    let Some(spec) = Spec::read(folder)? else {
        return Ok(None);
    };
    let state = State::read(folder)?;
    Ok(Some(Info { spec, state }))
}

/// Returns the current time in nanoseconds since the epoch.
pub fn now_ns() -> u64 {
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(now.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use super::*;

    #[test]
    fn a_state_of_a_later_version_is_refused_by_its_number() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FILE);
        // A later version may have another status.
        for record in [r#"{"version": 2}"#, r#"{"version": 2, "status": "asleep"}"#] {
            fs::write(&path, record).unwrap();
            let error = State::read(folder.path()).unwrap_err();
            assert!(
                matches!(error, Error::RecordVersion { version: 2, .. }),
                "{error}"
            );
        }
        State::created(true).write(folder.path()).unwrap();
        assert_eq!(State::read(folder.path()).unwrap(), State::created(true));
    }
}
