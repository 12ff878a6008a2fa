//! Points in time.

use std::time::{SystemTime, UNIX_EPOCH};

/// A point in time.
///
/// ext4 stores times from 1901-12-13 to 2446-05-10 (`EXT4_TIMESTAMP_MIN`,
/// `EXT4_EXTRA_TIMESTAMP_MAX`). A time outside is stored as the nearest one inside, as the kernel
/// does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp {
    /// Seconds since 1970-01-01 00:00 UTC, rounded down: negative before.
    pub secs: i64,
    /// Nanoseconds after `secs`, below 1,000,000,000.
    pub nanos: u32,
}

impl Timestamp {
    const MIN_SECS: i64 = i32::MIN as i64;
    const MAX_SECS: i64 = 0x3_7fff_ffff;

    /// The low 32 bits of the seconds, and the extra field: two more bits of seconds below 30 of
    /// nanoseconds.
    pub(crate) fn encode(self) -> (u32, u32) {
        let (secs, nanos) = if self.secs < Self::MIN_SECS {
            (Self::MIN_SECS, 0)
        } else if self.secs > Self::MAX_SECS {
            (Self::MAX_SECS, 0)
        } else {
            (self.secs, self.nanos.min(999_999_999))
        };
        let low = secs as i32;
        let epoch = ((secs - i64::from(low)) >> 32) as u32 & 3;
        (low as u32, nanos << 2 | epoch)
    }

    /// The time that these two fields hold.
    pub(crate) fn decode(low: u32, extra: u32) -> Self {
        Self {
            secs: i64::from(low.cast_signed()) + (i64::from(extra & 3) << 32),
            nanos: (extra >> 2).min(999_999_999),
        }
    }

    /// Seconds as the superblock stores them: unsigned, 40 bits.
    pub(crate) fn encode_superblock(self) -> (u32, u8) {
        let secs = self.secs.clamp(0, (1 << 40) - 1) as u64;
        (secs as u32, (secs >> 32) as u8)
    }
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

    fn encode(secs: i64, nanos: u32) -> (u32, u32) {
        Timestamp { secs, nanos }.encode()
    }

    #[test]
    fn times_round_down_and_carry_their_epoch() {
        assert_eq!(encode(-1, 999_999_999), (0xffff_ffff, 999_999_999 << 2));
        assert_eq!(encode(0x7fff_ffff, 0), (0x7fff_ffff, 0));
        assert_eq!(encode(0x8000_0000, 1), (0x8000_0000, 1 << 2 | 1));
        assert_eq!(encode(0x1_8000_0000, 0), (0x8000_0000, 2));
        for (secs, nanos) in [(-1, 999_999_999), (0x8000_0000, 1), (0x3_7fff_ffff, 0)] {
            let (low, extra) = encode(secs, nanos);
            assert_eq!(Timestamp::decode(low, extra), Timestamp { secs, nanos });
        }
    }

    #[test]
    fn times_out_of_range_become_the_nearest_in_range() {
        assert_eq!(encode(i64::MIN, 5), (0x8000_0000, 0));
        assert_eq!(encode(i64::MAX, 5), (0x7fff_ffff, 3));
    }

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
