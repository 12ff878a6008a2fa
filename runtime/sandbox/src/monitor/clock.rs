//! The guest's clock.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use blockbox_vmm::guest::Session;
use blockbox_vmm::with_causes;

use crate::background;

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
        if !self.is_due((Instant::now(), SystemTime::now())) {
            return;
        }
        let session = Arc::clone(session);
        background::thread("clock", move || {
            if let Err(error) = session.set_clock() {
                tracing::debug!("the guest's clock cannot be set: {}", with_causes(&error));
            }
        });
    }

    /// Returns whether the guest's clock must be set when the host's two clocks show this.
    fn is_due(&mut self, now: (Instant, SystemTime)) -> bool {
        let passed = now.0.saturating_duration_since(self.looked.0);
        let jumped = match now.1.duration_since(self.looked.1) {
            Ok(shown) => shown.abs_diff(passed) > JUMP,
            // The clock jumped backwards.
            Err(_) => true,
        };
        self.looked = now;
        let due = jumped || now.0.saturating_duration_since(self.set) >= SET_CLOCK;
        if due {
            self.set = now.0;
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guests_clock_is_set_every_minute_and_after_the_host_slept_or_its_clock_jumped() {
        let mut clock = Clock::new();
        let mut now = clock.looked;
        let second = Duration::from_secs(1);
        let hour = 3600 * second;
        // How far each clock advances, and whether the guest's is then set.
        for (monotonic, shown, back, due) in [
            (second, second, false, false),
            // The host slept: its monotonic clock stood still.
            (second, hour, false, true),
            (second, second, false, false),
            // The host's clock was set backwards, and a little forwards.
            (second, hour, true, true),
            (second, 3 * second, false, true),
            (second, second + second / 2, false, false),
            (58 * second, 58 * second, false, false),
            (second, second, false, true),
            (second, second, false, false),
        ] {
            now.0 += monotonic;
            now.1 = if back { now.1 - shown } else { now.1 + shown };
            assert_eq!(clock.is_due(now), due, "{monotonic:?} {shown:?}");
        }
    }
}
