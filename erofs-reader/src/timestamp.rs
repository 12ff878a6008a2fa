//! Points in time.

/// A point in time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Timestamp {
    /// Seconds since 1970-01-01 00:00 UTC, rounded down: negative before.
    pub secs: i64,
    /// Nanoseconds after `secs`, below 1,000,000,000; in a damaged image any number.
    pub nanos: u32,
}

impl From<Timestamp> for (i64, u32) {
    /// Returns the seconds and the nanoseconds.
    fn from(time: Timestamp) -> Self {
        (time.secs, time.nanos)
    }
}
