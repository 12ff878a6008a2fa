//! Points in time.

use std::time::{SystemTime, UNIX_EPOCH};

/// A point in time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp {
    /// Seconds since 1970-01-01 00:00 UTC, rounded down: negative before.
    pub secs: i64,
    /// Nanoseconds after `secs`, below 1,000,000,000.
    pub nanos: u32,
}

impl From<SystemTime> for Timestamp {
    /// Returns the same time; seconds that do not fit in 64 bits become the nearest that do.
    fn from(time: SystemTime) -> Self {
        let seconds =
            |duration: std::time::Duration| i64::try_from(duration.as_secs()).unwrap_or(i64::MAX);
        match time.duration_since(UNIX_EPOCH) {
            Ok(after) => Self {
                secs: seconds(after),
                nanos: after.subsec_nanos(),
            },
            Err(error) => {
                let before = error.duration();
                match before.subsec_nanos() {
                    0 => Self {
                        secs: -seconds(before),
                        nanos: 0,
                    },
                    nanos => Self {
                        secs: -seconds(before) - 1,
                        nanos: 1_000_000_000 - nanos,
                    },
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn system_times_before_1970_round_down() {
        let of = |time| {
            let Timestamp { secs, nanos } = Timestamp::from(time);
            (secs, nanos)
        };
        assert_eq!(of(UNIX_EPOCH + Duration::new(3, 7)), (3, 7));
        assert_eq!(of(UNIX_EPOCH - Duration::new(3, 0)), (-3, 0));
        assert_eq!(of(UNIX_EPOCH - Duration::new(3, 1)), (-4, 999_999_999));
    }
}
