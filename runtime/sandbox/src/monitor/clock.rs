//! The guest's clock.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use blockbox_vmm::guest::Session;
use blockbox_vmm::with_causes;

/// How often the guest's clock is set, at least.
const SET_CLOCK: Duration = Duration::from_secs(60);

/// The least deviation of the host's clock that counts as a jump.
const JUMP: Duration = Duration::from_secs(1);

/// Keeps the guest's clock in step with the host's.
pub(super) struct Clock {
    set: Instant,
    /// The last readings of the host's two clocks: only one of them advances while the host sleeps.
    looked: (Instant, SystemTime),
}

impl Clock {
    pub(super) fn new() -> Self {
        Self {
            set: Instant::now(),
            looked: (Instant::now(), SystemTime::now()),
        }
    }

    /// Sets the guest's clock if a minute has passed, or if the host's clock jumped.
    pub(super) fn look(&mut self, session: &Arc<Session>) {
        let now = (Instant::now(), SystemTime::now());
        let passed = now.0.saturating_duration_since(self.looked.0);
        let jumped = match now.1.duration_since(self.looked.1) {
            Ok(shown) => shown.abs_diff(passed) > JUMP,
            // The clock jumped backwards.
            Err(_) => true,
        };
        self.looked = now;
        if !jumped && now.0.saturating_duration_since(self.set) < SET_CLOCK {
            return;
        }
        self.set = now.0;
        let session = Arc::clone(session);
        super::thread("clock", move || {
            if let Err(error) = session.set_clock() {
                tracing::debug!("the guest's clock cannot be set: {}", with_causes(&error));
            }
        });
    }
}
