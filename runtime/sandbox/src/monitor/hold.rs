//! Keeps the writable disk of a running sandbox from changing while a client reads it.
//!
//! The guest's file system is frozen, or the whole machine is paused. One client at a time holds
//! the disk; the others wait. The monitor renews the hold, not the client, and ends it when the
//! client releases the disk or disconnects: a killed client leaves nothing frozen.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use blockbox_vmm::Vm;
use blockbox_vmm::guest::Session;

use super::client::Client;
use crate::background;
use crate::error::{Error, Result};

/// How long the guest stays frozen after the monitor's last renewal.
const WATCHDOG: Duration = Duration::from_secs(10);

/// How long a client waits for another one to release the disk.
const PATIENCE: Duration = Duration::from_secs(60);

/// How the disk is kept from changing.
#[derive(Clone, Debug)]
pub(super) enum Means {
    /// The guest writes everything to its disk and freezes its file system.
    Freeze(Arc<Session>),
    /// The machine is paused at any point.
    Pause(Arc<Vm>),
}

impl Means {
    fn begin(&self) -> Result<()> {
        match self {
            Self::Freeze(session) => Ok(session.freeze(WATCHDOG)?),
            Self::Pause(vm) => Ok(vm.pause()?),
        }
    }

    fn prolong(&self) -> Result<()> {
        match self {
            Self::Freeze(session) => Ok(session.keep_frozen(WATCHDOG)?),
            Self::Pause(_) => Ok(()),
        }
    }

    /// Ends the hold; fails if the disk was not held to the end.
    fn end(&self) -> Result<()> {
        match self {
            Self::Freeze(session) => Ok(session.thaw()?),
            Self::Pause(vm) => Ok(vm.resume()?),
        }
    }
}

/// The hold of the disk, and the clients that wait for it.
#[derive(Debug, Default)]
pub(super) struct Holds {
    holder: Mutex<Option<Holder>>,
    changed: Condvar,
}

#[derive(Debug)]
struct Holder {
    client: Arc<Client>,
    phase: Phase,
}

#[derive(Debug)]
enum Phase {
    /// The client reads the disk.
    Reading,
    /// The client has released the disk, and waits for the result.
    Released,
    /// The client has disconnected.
    Left,
    /// The hold has ended: how long it took, if it lasted to the end.
    Over(Result<Duration>),
}

impl Holds {
    /// Holds the disk for `client` until it releases the disk or disconnects, which `is_connected`
    /// reports.
    pub(super) fn hold(
        self: &Arc<Self>,
        client: &Arc<Client>,
        means: Means,
        is_connected: impl Fn() -> bool,
    ) -> Result<()> {
        let slot = self.take(client)?;
        let begun = match is_connected() {
            true => means.begin(),
            // It disconnected before it had the hold, so `left` was not called for it.
            false => Err(Error::Interrupted),
        };
        begun?;
        // From here on the thread owns the slot.
        std::mem::forget(slot);
        let holds = Arc::clone(self);
        background::thread("hold", move || holds.keep(&means));
        Ok(())
    }

    /// Waits until no other client holds the disk. `client` has the disk until the returned slot is
    /// dropped.
    pub(super) fn take(&self, client: &Arc<Client>) -> Result<Slot<'_>> {
        let started = Instant::now();
        let mut holder = self.lock();
        while holder.is_some() {
            let left = PATIENCE.saturating_sub(started.elapsed());
            if left.is_zero() {
                let busy = "another command has been reading the sandbox's disk for a minute";
                return Err(Error::Monitor(busy.to_owned()));
            }
            holder = self.wait(holder, left);
        }
        *holder = Some(Holder {
            client: Arc::clone(client),
            phase: Phase::Reading,
        });
        Ok(Slot(self))
    }

    /// Renews the hold until it is released, and ends it.
    fn keep(&self, means: &Means) {
        let started = Instant::now();
        let mut kept = Ok(());
        let mut holder = self.lock();
        while kept.is_ok() && holder.as_ref().is_some_and(Holder::reads) {
            holder = self.wait(holder, WATCHDOG / 4);
            if holder.as_ref().is_some_and(Holder::reads) {
                drop(holder);
                kept = means.prolong();
                holder = self.lock();
            }
        }
        drop(holder);
        let ended = means.end();
        let outcome = kept.and(ended).map(|()| started.elapsed());
        let mut holder = self.lock();
        match &mut *holder {
            Some(Holder {
                phase: Phase::Left, ..
            })
            | None => *holder = None,
            Some(holder) => holder.phase = Phase::Over(outcome),
        }
        self.changed.notify_all();
    }

    /// Ends the hold of `client`. Returns how long the guest could not write.
    ///
    /// # Errors
    ///
    /// If the disk was not held to the end: what was read may be inconsistent.
    pub(super) fn release(&self, client: &Arc<Client>) -> Result<Duration> {
        let mut holder = self.lock();
        loop {
            match &mut *holder {
                Some(own) if Arc::ptr_eq(&own.client, client) => match &own.phase {
                    Phase::Reading => own.phase = Phase::Released,
                    Phase::Released => {}
                    Phase::Left => return Err(Error::Interrupted),
                    Phase::Over(_) => {
                        let over = holder.take();
                        self.changed.notify_all();
                        return match over.map(|holder| holder.phase) {
                            Some(Phase::Over(outcome)) => outcome,
                            _ => Err(Error::Interrupted),
                        };
                    }
                },
                _ => return Err(Error::Monitor("the disk is not held".to_owned())),
            }
            self.changed.notify_all();
            holder = self.wait(holder, WATCHDOG);
        }
    }

    /// Records that `client` has disconnected.
    pub(super) fn left(&self, client: &Arc<Client>) {
        let mut holder = self.lock();
        if let Some(own) = &mut *holder
            && Arc::ptr_eq(&own.client, client)
        {
            match own.phase {
                Phase::Over(_) => *holder = None,
                _ => own.phase = Phase::Left,
            }
            self.changed.notify_all();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Holder>> {
        self.holder.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(
        &self,
        holder: MutexGuard<'a, Option<Holder>>,
        time: Duration,
    ) -> MutexGuard<'a, Option<Holder>> {
        let waited = self.changed.wait_timeout(holder, time);
        waited.unwrap_or_else(PoisonError::into_inner).0
    }
}

/// The right to hold the disk.
pub(super) struct Slot<'a>(&'a Holds);

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        *self.0.lock() = None;
        self.0.changed.notify_all();
    }
}

impl Holder {
    fn reads(&self) -> bool {
        matches!(self.phase, Phase::Reading)
    }
}
