//! A full disk of the host. QEMU pauses the machine until there is space, and the monitor reports
//! the reason to its clients, in `state.json` and as an event. Requests that need the guest's
//! answer are refused meanwhile, and `SIGKILL` switches the machine off, because the guest cannot
//! act on it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use blockbox_store::spec::Signal;
use blockbox_store::state::Status;
use blockbox_vmm::{Vm, VmEvent, with_causes};

use super::client::Client;
use super::disk_full::PAUSED;
use super::hub::Attachment;
use super::lifecycle::Life;
use super::shared::{Monitor, Stop};
use crate::background;
use crate::events;

/// The message about a machine that goes on.
const RESUMED: &str = "the host's disk has room: the sandbox goes on";

/// Sends a message to all clients.
fn notify(clients: &[Arc<Client>], text: &str) {
    for client in clients {
        client.notice(text);
    }
}

impl Monitor {
    /// Follows the events of a machine until its end.
    pub(super) fn watch_disks(self: &Arc<Self>, vm: &Arc<Vm>) {
        if vm.qmp().is_none() {
            return;
        }
        let (events, monitor) = (vm.events(), Arc::clone(self));
        let vm = Arc::downgrade(vm);
        background::thread("disks", move || {
            for event in events {
                let Some(vm) = vm.upgrade() else { return };
                match event {
                    VmEvent::DiskFull { disk } => monitor.disk_is_full(&vm, disk),
                    VmEvent::Resumed => monitor.disk_has_room(),
                    VmEvent::DiskError { disk, reason } => background::complain(format_args!(
                        "{}: the guest got an I/O error: {reason}",
                        disk.display()
                    )),
                    _ => {}
                }
            }
        });
    }

    fn disk_is_full(&self, vm: &Arc<Vm>, disk: PathBuf) {
        let mut inner = self.lock();
        if !inner.vm.as_ref().is_some_and(|own| Arc::ptr_eq(own, vm)) {
            return;
        }
        background::complain(format_args!("{PAUSED}: {}", disk.display()));
        inner.disk_full.disk = Some(disk);
        inner.disk_full.changed = true;
        // A guest that cannot boot would keep its user waiting in silence.
        let boots = inner.main.is_none() && inner.state.status == Status::Starting;
        if boots {
            vm.kill();
        } else {
            notify(&inner.clients, PAUSED);
        }
        self.changed.notify_all();
    }

    fn disk_has_room(&self) {
        let mut inner = self.lock();
        if inner.disk_full.disk.take().is_some() {
            inner.disk_full.changed = true;
            notify(&inner.clients, RESUMED);
            self.changed.notify_all();
        }
    }

    /// Switches the machine off if a client kills the main command while the guest is paused, and
    /// could not end it.
    pub(super) fn killed(&self, attachment: &Attachment) {
        let is_main = {
            let inner = self.lock();
            let main = inner.main.as_ref();
            inner.disk_full.disk.is_some() && main.is_some_and(|main| attachment.is_of(main))
        };
        if is_main {
            self.stop(Stop {
                signal: Some(Signal::KILL),
                timeout: Some(Duration::ZERO),
            });
        }
    }
}

impl Life {
    /// Records that the machine was paused, or goes on.
    pub(super) fn note_disk(&mut self) {
        let disk = {
            let mut inner = self.monitor.lock();
            inner.disk_full.changed = false;
            inner.disk_full.disk.clone()
        };
        let reason = ("reason", "disk-full".to_owned());
        let action = match &disk {
            Some(_) => {
                self.state.status = Status::Paused;
                self.state.error = Some(PAUSED.to_owned());
                "pause"
            }
            None => {
                self.state.status = Status::Running;
                self.state.error.take_if(|error| error == PAUSED);
                "unpause"
            }
        };
        if let Err(error) = self.save() {
            background::complain(with_causes(&error));
        }
        let disk = disk.map(|disk| ("disk", disk.display().to_string()));
        let attributes: Vec<_> = [Some(reason), disk].into_iter().flatten().collect();
        events::note(&self.store, &self.spec, action, &attributes);
    }
}
