//! Requests on the writable disk: sync, freeze and trim. A worker carries them out in order.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::time::{Duration, Instant};

use blockbox_protocol::{Request, UPPER_SERIAL};
use rustix::io::Errno;

use super::boot::Roots;
use super::failure::errno_of;
use super::rcu::Expedite;
use super::server::earlier;
use super::worker::{Job, Kind, Outcome, Worker};
use super::{devices, sys, trim};

#[derive(Debug)]
pub(crate) struct Disk {
    worker: Worker,
    frozen: Option<Frozen>,
    written: trim::Written,
    expedite: Rc<Expedite>,
}

/// A freeze, from its request until its end is known.
#[derive(Debug)]
struct Frozen {
    /// When the disk is thawed automatically.
    until: Option<Instant>,
}

impl Disk {
    pub(crate) fn new() -> Self {
        Disk {
            worker: Worker::default(),
            frozen: None,
            written: trim::Written::open(devices::disk(UPPER_SERIAL).as_deref()),
            expedite: Rc::new(Expedite::open()),
        }
    }

    /// Returns whether a write to the disk may have to wait for a thaw.
    pub(crate) fn is_frozen(&self) -> bool {
        self.frozen.is_some()
    }

    /// Returns whether there may be freed blocks that were not discarded yet.
    pub(crate) fn has_free_blocks(&self) -> bool {
        self.written.is_possible()
    }

    /// Returns the descriptor that is readable when [`finish`](Self::finish) must be called.
    pub(crate) fn worker_fd(&self) -> Option<&OwnedFd> {
        self.worker.fd()
    }

    /// Returns when [`look_at_time`](Self::look_at_time) must be called.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let thaw = self.frozen.as_ref().and_then(|frozen| frozen.until);
        earlier(thaw, self.written.next_look())
    }

    /// Starts a request on the disk.
    pub(crate) fn carry_out(&mut self, request: &Request, roots: &Roots) -> Vec<Outcome> {
        match *request {
            // A frozen disk has no unwritten data.
            Request::Sync { id } if self.is_frozen() => answer(id, Kind::Other, 0),
            Request::Sync { id } => self.add(Some(id), Kind::Other, || {
                rustix::fs::sync();
                Ok(())
            }),
            // The trim would wait for the thaw, and the thaw for the trim.
            Request::Trim { id } if self.is_frozen() => answer(id, Kind::Other, errno(Errno::BUSY)),
            Request::Trim { id } => self.trim(Some(id), roots),
            Request::Freeze { id, .. } if self.is_frozen() => {
                answer(id, Kind::Other, errno(Errno::BUSY))
            }
            Request::Freeze { id, thaw_after_ms } => {
                // Set now, because the worker may freeze the disk long before init learns of it.
                self.frozen = Some(Frozen {
                    until: until(thaw_after_ms),
                });
                let journal_is_full = self.written.takes_journal();
                let expedite = Rc::clone(&self.expedite);
                self.on_upper(Some(id), Kind::Freeze, roots, move |upper| {
                    // Data that is written before the freeze need not be written during it, when
                    // every writer waits.
                    rustix::fs::syncfs(upper)?;
                    if journal_is_full {
                        // The journal of a frozen disk is never read, but is copied with the disk.
                        // A disk that cannot discard keeps it.
                        let _ = sys::empty_journal(upper.as_fd());
                    }
                    expedite.during(|| sys::freeze(upper.as_fd()))
                })
            }
            Request::KeepFrozen { id, thaw_after_ms } => match &mut self.frozen {
                Some(frozen) => {
                    frozen.until = until(thaw_after_ms);
                    answer(id, Kind::Other, 0)
                }
                None => answer(id, Kind::Other, errno(Errno::INVAL)),
            },
            // Every writer waits for the thaw, and would wait for the fork of a worker, too.
            Request::Thaw { id } if self.worker.is_idle() => {
                let thawed = sys::thaw(roots.upper.as_fd());
                let errno = thawed.err().map_or(0, |error| errno_of(&error));
                self.note(answer(id, Kind::Thaw, errno))
            }
            Request::Thaw { id } => self.on_upper(Some(id), Kind::Thaw, roots, |upper| {
                sys::thaw(upper.as_fd())
            }),
            _ => Vec::new(),
        }
    }

    /// Thaws the disk at once, after the requests before.
    pub(crate) fn thaw_now(&mut self, roots: &Roots) -> io::Result<()> {
        if self.frozen.take().is_some() {
            sys::thaw(roots.upper.as_fd())?;
        }
        Ok(())
    }

    /// Runs `work` after the requests before.
    pub(crate) fn add(
        &mut self,
        request: Option<u32>,
        kind: Kind,
        work: impl FnOnce() -> io::Result<()> + 'static,
    ) -> Vec<Outcome> {
        let outcomes = self.worker.add(Job {
            request,
            kind,
            work: Box::new(work),
        });
        self.note(outcomes)
    }

    /// Handles the end of the current job.
    pub(crate) fn finish(&mut self) -> Vec<Outcome> {
        let outcomes = self.worker.finish();
        self.note(outcomes)
    }

    /// Thaws a disk whose freeze has expired, and trims one after many writes.
    pub(crate) fn look_at_time(&mut self, roots: &Roots) -> Vec<Outcome> {
        let mut outcomes = Vec::new();
        let over = |frozen: &&mut Frozen| frozen.until.is_some_and(|until| Instant::now() >= until);
        if let Some(frozen) = self.frozen.as_mut().filter(over) {
            frozen.until = None;
            outcomes
                .extend(self.on_upper(None, Kind::Thaw, roots, |upper| sys::thaw(upper.as_fd())));
        }
        if self.written.is_worthwhile() && self.worker.is_idle() && !self.is_frozen() {
            outcomes.extend(self.trim(None, roots));
        }
        outcomes
    }

    fn trim(&mut self, request: Option<u32>, roots: &Roots) -> Vec<Outcome> {
        self.written.trimmed();
        self.on_upper(request, Kind::Other, roots, |upper| {
            trim::all(upper.as_fd(), None)
        })
    }

    fn on_upper(
        &mut self,
        request: Option<u32>,
        kind: Kind,
        roots: &Roots,
        work: impl FnOnce(&OwnedFd) -> io::Result<()> + 'static,
    ) -> Vec<Outcome> {
        match roots.upper.try_clone() {
            Ok(upper) => self.add(request, kind, move || work(&upper)),
            Err(_) => self.note(vec![Outcome {
                request,
                kind,
                errno: errno(Errno::MFILE),
            }]),
        }
    }

    fn note(&mut self, outcomes: Vec<Outcome>) -> Vec<Outcome> {
        for outcome in &outcomes {
            match outcome.kind {
                Kind::Freeze if outcome.errno != 0 => self.frozen = None,
                // If the thaw fails, the disk is not frozen.
                Kind::Thaw => self.frozen = None,
                Kind::Freeze | Kind::Other => {}
            }
        }
        outcomes
    }
}

fn answer(id: u32, kind: Kind, errno: u32) -> Vec<Outcome> {
    vec![Outcome {
        request: Some(id),
        kind,
        errno,
    }]
}

fn errno(errno: Errno) -> u32 {
    errno.raw_os_error() as u32
}

fn until(milliseconds: u32) -> Option<Instant> {
    (milliseconds > 0).then(|| Instant::now() + Duration::from_millis(u64::from(milliseconds)))
}
