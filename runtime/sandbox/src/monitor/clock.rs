//! The guest's clock.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use blockbox_vmm::guest::Session;
use blockbox_vmm::with_causes;

/// How often the guest's clock is set at least.
const SET_CLOCK: Duration = Duration::from_secs(60);

/// How far the host's clock goes wrong before it has jumped.
const JUMP: Duration = Duration::from_secs(1);

/// Keeps the guest's clock with the host's.
pub(super) struct Clock {
    set: Instant,
    /// The host's two clocks when they were last looked at: only one goes on while the host sleeps.
    looked: (Instant, SystemTime),
}

impl Clock {
    pub(super) fn new() -> Self {
        Self {
            set: Instant::now(),
            looked: (Instant::now(), SystemTime::now()),
        }
    }

    /// Sets the guest's clock where a minute has passed, or the host's clock jumped.
    pub(super) fn look(&mut self, session: &Arc<Session>) {
        let now = (Instant::now(), SystemTime::now());
        let passed = now.0.saturating_duration_since(self.looked.0);
        let jumped = match now.1.duration_since(self.looked.1) {
            Ok(shown) => shown.abs_diff(passed) > JUMP,
            // Backwards.
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
