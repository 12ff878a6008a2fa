//! Copies of the running machine with its memory.

use std::fs::File;
use std::path::Path;
use std::time::{Duration, Instant};

use blockbox_store::snapshot::{MACHINE, MEMORY};
use blockbox_store::spec::Spec;
use blockbox_store::{Meter, UPPER, sparse};
use blockbox_vmm::guest::{RunningCommand, Session};
use blockbox_vmm::{SharedMemory, Vm};

use crate::error::{Error, Result};
use crate::snapshot::Saved;
use crate::upper::create_copy;

/// How long the guest's disk stays frozen without renewal. The guest's clock stops while the
/// machine is paused.
const WATCHDOG: Duration = Duration::from_secs(10);

/// How long QEMU may take to write the state of the machine's devices.
const SAVE_TIME: Duration = Duration::from_secs(10);

/// A machine that can be copied as it runs.
#[derive(Debug)]
pub(super) struct Savable {
    pub(super) memory: SharedMemory,
    /// The sandbox's specification for this run.
    pub(super) spec: Spec,
}

impl Savable {
    /// Copies the machine, and its writable disk `from`, to new files in the folder `to`, which the
    /// client syncs if it keeps it. Returns how long the guest was stopped.
    pub(super) fn save(
        &self,
        session: &Session,
        vm: &Vm,
        command: Option<RunningCommand>,
        from: &Path,
        to: &Path,
    ) -> Result<Duration> {
        let identity = vm.machine_identity()?;
        let disk = File::open(from).map_err(Error::io(from))?;
        let upper = create_copy(&to.join(UPPER))?;
        let memory = create_copy(&to.join(MEMORY))?;
        let machine = create_copy(&to.join(MACHINE))?;
        let started = Instant::now();
        session.freeze(WATCHDOG)?;
        let copied = session
            .suspend()
            .map_err(Error::from)
            .and_then(|suspended| {
                let copied = vm.save(&machine, SAVE_TIME, || {
                    sparse::copy(&disk, &upper, &Meter::default())?;
                    sparse::copy(self.memory.file(), &memory, &Meter::default())
                })?;
                copied.map_err(Error::io(to))?;
                Ok(suspended.last_id())
            });
        let thawed = session.thaw();
        let held = started.elapsed();
        let last_id = copied?;
        thawed?;
        // The guest's clock was stopped, too.
        session.set_clock_soon()?;
        let kernel = session.kernel_release().to_owned();
        let saved = Saved::new(identity, kernel, last_id, command, self.spec.clone());
        saved.write(to)?;
        Ok(held)
    }
}
