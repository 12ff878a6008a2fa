//! Events of a running VM, and the pause of a VM whose disk is full on the host.
//!
//! QEMU pauses a machine when a write fails for lack of space (`werror=enospc`), and leaves it
//! paused. A thread here checks every second whether there is space again, and resumes the machine;
//! QEMU then repeats the write, so the guest does not notice.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use serde_json::Value;

use super::qmp::{Qmp, text};

/// An event of a running VM.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum VmEvent {
    /// The host's file system that holds this disk is full. The VM is paused until there is space.
    DiskFull {
        /// The disk's file.
        disk: PathBuf,
    },
    /// The VM, which was paused because a disk was full, is resumed.
    Resumed,
    /// The host could not read or write a disk, and the guest got an I/O error.
    DiskError {
        /// The disk's file.
        disk: PathBuf,
        /// The host's error.
        reason: String,
    },
}

/// The most unread events. More are dropped, because the guest may cause any number.
const WAITING: usize = 64;

/// How many bytes must be free to resume a paused VM.
const ROOM: u64 = 4 << 20;

/// How often free space is checked.
const ROOM_INTERVAL: Duration = Duration::from_secs(1);

/// The receivers of a VM's events. Clones share them.
#[derive(Debug, Clone, Default)]
pub(super) struct Events {
    senders: Arc<Mutex<Vec<SyncSender<VmEvent>>>>,
}

impl Events {
    pub(super) fn subscribe(&self) -> Receiver<VmEvent> {
        let (sender, receiver) = sync_channel(WAITING);
        self.lock().push(sender);
        receiver
    }

    fn emit(&self, event: &VmEvent) {
        self.lock().retain(|sender| {
            let sent = sender.try_send(event.clone());
            !matches!(sent, Err(TrySendError::Disconnected(_)))
        });
    }

    fn lock(&self) -> MutexGuard<'_, Vec<SyncSender<VmEvent>>> {
        self.senders.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Handles the events of QEMU.
#[derive(Debug)]
pub(super) struct Watch {
    events: Events,
    /// The disks' files; QEMU's node `diskN` is the one with index N.
    disks: Vec<PathBuf>,
    /// Whether a thread waits for space.
    full: Arc<Mutex<bool>>,
}

impl Watch {
    pub(super) fn new(events: Events, disks: Vec<PathBuf>) -> Self {
        Watch {
            events,
            disks,
            full: Arc::default(),
        }
    }

    /// Handles an event of QEMU; `qmp` controls QEMU.
    pub(super) fn event(&self, qmp: Option<&Qmp>, name: &str, data: &Value) {
        if name != "BLOCK_IO_ERROR" {
            return;
        }
        let index = text(data, "node-name").strip_prefix("disk");
        let index = index.and_then(|index| index.parse::<usize>().ok());
        let Some(disk) = index.and_then(|index| self.disks.get(index)) else {
            return;
        };
        let paused = text(data, "action") == "stop";
        match qmp {
            Some(qmp) if paused => self.pause(qmp, disk),
            _ => self.events.emit(&VmEvent::DiskError {
                disk: disk.clone(),
                reason: text(data, "reason").to_owned(),
            }),
        }
    }

    fn pause(&self, qmp: &Qmp, disk: &Path) {
        let mut full = lock(&self.full);
        if *full {
            return;
        }
        self.events.emit(&VmEvent::DiskFull {
            disk: disk.to_owned(),
        });
        let (qmp, events, disk) = (qmp.clone(), self.events.clone(), disk.to_owned());
        let flag = Arc::clone(&self.full);
        let thread = thread::Builder::new().name("room".to_owned());
        let spawned = thread.spawn(move || {
            if go_on_when_there_is_room(&qmp, &disk) {
                events.emit(&VmEvent::Resumed);
            }
            *lock(&flag) = false;
        });
        *full = spawned.is_ok();
    }
}

/// Resumes the machine when there is space. Returns `false` if it has ended.
fn go_on_when_there_is_room(qmp: &Qmp, disk: &Path) -> bool {
    loop {
        thread::sleep(ROOM_INTERVAL);
        if qmp.is_closed() {
            return false;
        }
        match qmp.status().as_deref() {
            Ok("running") => return true,
            // For any other reason, another caller paused the machine and must resume it.
            Ok("io-error") if room(disk) >= ROOM => {
                // If this fails, the next round tries again.
                let _ = qmp.cont();
            }
            _ => {}
        }
    }
}

/// Returns the bytes that this user can allocate on the file system of `disk`.
fn room(disk: &Path) -> u64 {
    match rustix::fs::statvfs(disk) {
        Ok(system) => system.f_bavail.saturating_mul(system.f_frsize),
        Err(_) => 0,
    }
}

fn lock(full: &Mutex<bool>) -> MutexGuard<'_, bool> {
    full.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use serde_json::json;

    use super::*;

    #[test]
    fn an_error_that_the_guest_gets_is_reported_with_its_disk() {
        let events = Events::default();
        let receiver = events.subscribe();
        let watch = Watch::new(events, vec!["/a".into(), "/b".into()]);
        let error = |node| json!({"node-name": node, "action": "report", "reason": "broken"});
        watch.event(None, "BLOCK_IO_ERROR", &error("disk1"));
        watch.event(None, "BLOCK_IO_ERROR", &error("disk2"));
        watch.event(None, "STOP", &error("disk1"));
        let expected = VmEvent::DiskError {
            disk: "/b".into(),
            reason: "broken".to_owned(),
        };
        assert_eq!(receiver.try_recv().unwrap(), expected);
        assert!(receiver.try_recv().is_err());
    }

    #[test]
    fn receiver_that_does_not_read_blocks_nothing() {
        let events = Events::default();
        let receiver = events.subscribe();
        for _ in 0..10 * WAITING {
            events.emit(&VmEvent::Resumed);
        }
        assert_eq!(receiver.try_iter().count(), WAITING);
    }
}
